import { describe, expect, test } from "@jest/globals";
import { certificateClaims } from "../../src/identity/certificate-claims.ts";
import { findPath } from "../../src/identity/certificate-path.ts";
import type { ClientCertificate } from "../../src/identity/principal.ts";
import { readCertificate } from "../../src/identity/read-certificate.ts";
import { svidOf } from "../../src/identity/x509-svid.ts";
import {
  authority,
  type Certified,
  CLIENT_AUTH,
  certify,
  digitalSignature,
  distinguished,
  extension,
  keyCertSign,
  names,
  SERVER_AUTH,
  sequence,
  tlv,
  type Wanted,
  x509,
} from "../support/certificates.ts";

const root = authority({ cn: "root" });
const now = new Date();

const shown = (leaf: Certified, ...chain: Certified[]): ClientCertificate => ({
  leaf: x509(leaf),
  chain: chain.map(x509),
  thumbprint: leaf.thumbprint,
});
/** `ok`, or the reason. */
const judged = (certificate: ClientCertificate, anchors: readonly Certified[] = [root], at = now): string => {
  const verdict = findPath(certificate, anchors.map(x509), at);
  return verdict.ok ? "ok" : verdict.refusal.code;
};
const leaf = (wanted: Wanted = {}): Certified => certify({ by: root, ...wanted });

describe("a path that is good", () => {
  const between = authority({ cn: "between", by: root });
  const lower = authority({ cn: "lower", by: between });
  test.each<[string, ClientCertificate]>([
    ["straight from the anchor", shown(leaf())],
    [
      "with digitalSignature and clientAuth",
      shown(leaf({ usage: [digitalSignature], eku: [CLIENT_AUTH, SERVER_AUTH] })),
    ],
    ["over an intermediate", shown(certify({ by: between }), between)],
    ["over two, in the wrong order", shown(certify({ by: lower }), between, lower)],
    ["with things beside it that do not matter", shown(leaf(), authority(), root, between)],
    ["of version 1, which has no extensions", shown(leaf({ version: 1 }))],
    ["on P-384, signed with SHA-384", shown(leaf({ key: "P-384", hash: "sha384" }))],
    ["with an Ed25519 key", shown(leaf({ key: "Ed25519" }))],
    ["with an RSA key", shown(leaf({ key: "RSA-2048" }))],
  ])("%s is taken", (_, certificate) => {
    expect(judged(certificate)).toBe("ok");
  });

  test.each<[string, Wanted, Wanted]>([
    ["RSA with SHA-512", { key: "RSA-2048" }, { hash: "sha512" }],
    ["RSASSA-PSS with SHA-256", { key: "RSA-2048" }, { pss: true }],
    ["Ed25519", { key: "Ed25519" }, {}],
  ])("signed by %s is taken", (_, ca, signed) => {
    const by = authority(ca);
    expect(judged(shown(certify({ by, ...signed })), [by])).toBe("ok");
  });

  test("an anchor may be signed by whatever it was: nobody relies on its own signature", () => {
    const old = authority({ hash: "sha1" });
    expect(judged(shown(certify({ by: old })), [old])).toBe("ok");
  });

  test("a path length of 0 allows the leaf and nothing between", () => {
    const none = authority({ ca: 0 });
    expect(judged(shown(certify({ by: none })), [none])).toBe("ok");
  });
});

describe("a path that is not", () => {
  const between = authority({ cn: "between", by: root });
  const short = authority({ cn: "short", ca: 0, by: root });
  const below = authority({ cn: "below", by: short });
  const nameConstraints = (critical: boolean): Buffer =>
    extension("2.5.29.30", critical, sequence(tlv(0xa0, sequence(names.dns("example.com")))));
  const unknown = extension("1.3.6.1.4.1.99999.1", true, tlv(0x05, Buffer.alloc(0)));
  const cases: Record<string, () => [ClientCertificate, string, (readonly Certified[])?]> = {
    "another CA's": () => [shown(certify({ by: authority({ cn: "other" }) })), "certificate_untrusted"],
    "a CA's of the same name": () => [shown(certify({ by: authority({ cn: "root" }) })), "certificate_untrusted"],
    "self-signed": () => [shown(certify()), "certificate_untrusted"],
    "self-signed, with itself as chain": () => {
      const own = certify({ ca: true });
      return [shown(own, own), "certificate_untrusted"];
    },
    "its own CA sent along": () => {
      const own = authority({ cn: "own" });
      return [shown(certify({ by: own }), own), "certificate_untrusted"];
    },
    "without its intermediate": () => [shown(certify({ by: between })), "certificate_untrusted"],
    "no anchors at all": () => [shown(leaf()), "certificate_untrusted", []],
    expired: () => [shown(leaf({ from: -7200, to: -3600 })), "certificate_expired"],
    "not yet valid": () => [shown(leaf({ from: 3600, to: 7200 })), "certificate_not_yet_valid"],
    "an intermediate that has expired": () => {
      const old = authority({ by: root, from: -7200, to: -3600 });
      return [shown(certify({ by: old }), old), "certificate_expired"];
    },
    "an anchor that has expired": () => {
      const old = authority({ from: -7200, to: -3600 });
      return [shown(certify({ by: old })), "certificate_expired", [old]];
    },
    "a CA's certificate as the client's (CVE-2025-49825)": () => [shown(between), "certificate_not_for_clients"],
    "a CA's certificate without key usage": () => [
      shown(certify({ by: root, ca: true })),
      "certificate_not_for_clients",
    ],
    "a leaf that may sign certificates": () => [
      shown(leaf({ usage: [digitalSignature, keyCertSign] })),
      "certificate_not_for_clients",
    ],
    "a leaf that may sign revocation lists": () => [
      shown(leaf({ usage: [digitalSignature, 6] })),
      "certificate_not_for_clients",
    ],
    "a leaf without digitalSignature": () => [shown(leaf({ usage: [2] })), "certificate_not_for_clients"],
    "for servers alone": () => [shown(leaf({ eku: [SERVER_AUTH] })), "certificate_not_for_clients"],
    "for any purpose": () => [shown(leaf({ eku: ["2.5.29.37.0"] })), "certificate_not_for_clients"],
    "signed with SHA-1": () => [shown(leaf({ hash: "sha1" })), "certificate_weak"],
    "signed with SHA-1 in PSS": () => {
      const by = authority({ key: "RSA-2048" });
      return [shown(certify({ by, pss: true, hash: "sha1" })), "certificate_weak", [by]];
    },
    "RSA of 1024 bits": () => [shown(leaf({ key: "RSA-1024" })), "certificate_weak"],
    "a curve that nobody agreed on": () => [shown(leaf({ key: "secp256k1" })), "certificate_weak"],
    "an intermediate of 1024 bits": () => {
      const weak = authority({ by: root, key: "RSA-1024" });
      return [shown(certify({ by: weak }), weak), "certificate_untrusted"];
    },
    "an anchor of 1024 bits": () => {
      const weak = authority({ key: "RSA-1024" });
      return [shown(certify({ by: weak })), "certificate_untrusted", [weak]];
    },
    "an intermediate signed with SHA-1": () => {
      const weak = authority({ by: root, hash: "sha1" });
      return [shown(certify({ by: weak }), weak), "certificate_weak"];
    },
    "a path length exceeded": () => [shown(certify({ by: below }), below, short), "certificate_untrusted"],
    "a leaf as issuer": () => {
      const middle = leaf({ cn: "middle" });
      return [shown(certify({ by: middle }), middle), "certificate_untrusted"];
    },
    "an issuer that may not sign certificates": () => {
      const middle = certify({ cn: "middle", by: root, ca: true, usage: [digitalSignature] });
      return [shown(certify({ by: middle }), middle), "certificate_untrusted"];
    },
    "an issuer for servers alone": () => {
      const middle = authority({ by: root, eku: [SERVER_AUTH] });
      return [shown(certify({ by: middle }), middle), "certificate_untrusted"];
    },
    "an anchor that is no CA": () => {
      const pinned = certify({ cn: "pinned" });
      return [shown(certify({ by: pinned })), "certificate_untrusted", [pinned]];
    },
    "an anchor shown as the client's own": () => [shown(root), "certificate_not_for_clients"],
    "an unknown critical extension": () => [shown(leaf({ extensions: [unknown] })), "certificate_untrusted"],
    "an unknown critical extension above": () => {
      const middle = authority({ by: root, extensions: [unknown] });
      return [shown(certify({ by: middle }), middle), "certificate_untrusted"];
    },
    "name constraints above": () => {
      const middle = authority({ by: root, extensions: [nameConstraints(true)] });
      return [shown(certify({ by: middle, san: [names.dns("a.example.com")] }), middle), "certificate_untrusted"];
    },
    "name constraints that are not critical": () => {
      const by = authority({ extensions: [nameConstraints(false)] });
      return [shown(certify({ by })), "certificate_untrusted", [by]];
    },
    "two extensions of one kind": () => [
      shown(leaf({ san: [names.dns("a")], extensions: [extension("2.5.29.17", false, sequence(names.dns("b")))] })),
      "certificate_malformed",
    ],
    "an alternative name that is none": () => [
      shown(leaf({ extensions: [extension("2.5.29.17", false, tlv(0x04, Buffer.from("nonsense")))] })),
      "certificate_malformed",
    ],
    "a path that is too long": () => {
      let by = root;
      const chain: Certified[] = [];
      for (let n = 0; n < 5; n += 1) chain.push((by = authority({ cn: `ca ${n}`, by })));
      return [shown(certify({ by }), ...chain), "certificate_untrusted"];
    },
  };
  test.each(Object.entries(cases))("%s is refused", (_, make) => {
    const [certificate, reason, anchors] = make();
    expect(judged(certificate, anchors)).toBe(reason);
  });

  test("a signature that was changed is no signature", () => {
    const good = leaf();
    const der = Buffer.from(good.der);
    der[der.length - 1] = (der.at(-1) ?? 0) ^ 1;
    expect(judged(shown(good))).toBe("ok");
    expect(judged(shown({ ...good, der }))).toBe("certificate_untrusted");
  });

  test("authorities that signed each other lead nowhere, and cost no more than their share", () => {
    const all: Certified[] = [];
    const first = authority({ cn: "loop" });
    for (let n = 0; n < 5; n += 1) all.push(authority({ cn: "loop", sameKeyAs: first, by: first }));
    expect(judged(shown(certify({ by: first }), ...all))).toBe("certificate_untrusted");
  });

  test("of two ways to an anchor, one that has expired does not stand in the way of the other", () => {
    const renewed = authority({ cn: "renewed", by: root });
    const old = authority({ cn: "renewed", by: root, sameKeyAs: renewed, from: -7200, to: -3600 });
    expect(judged(shown(certify({ by: renewed }), old, renewed))).toBe("ok");
    expect(judged(shown(certify({ by: renewed }), old))).toBe("certificate_expired");
  });
});

describe("what a certificate says about its holder", () => {
  const claims = (wanted: Wanted) => {
    const read = readCertificate(x509(certify(wanted)));
    return read && certificateClaims(read);
  };

  test("is five kinds of names, of which the registry knows people by one", () => {
    expect(
      claims({
        cn: "agent-1",
        san: [
          names.dns("Agent.Example"),
          names.uri("https://agent.example/1"),
          names.email("a@agent.example"),
          names.ip(10, 0, 0, 7),
        ],
      }),
    ).toEqual({
      subject_dn: "CN=agent-1",
      san_dns: "agent.example",
      san_uri: "https://agent.example/1",
      san_email: "a@agent.example",
      san_ip: "10.0.0.7",
    });
    expect(claims({ san: [names.dns("a"), names.dns("b"), names.dns("A")] })).toMatchObject({ san_dns: ["a", "b"] });
    expect(claims({ san: [names.ip(...Array(15).fill(0), 1)] })).toMatchObject({ san_ip: "::1" });
    expect(claims({ subject: distinguished(), san: [names.dns("a")] })).toEqual({ san_dns: "a" });
  });

  test.each<[string, Buffer, string]>([
    [
      "the last attribute first",
      distinguished(["2.5.4.6", "DE", 0x13], ["2.5.4.10", "Example"], ["2.5.4.3", "x"]),
      "CN=x,O=Example,C=DE",
    ],
    [
      "escaped, so that one attribute is never read as two",
      distinguished(["2.5.4.3", "x,O=Example"]),
      "CN=x\\,O=Example",
    ],
    ["escaped at both ends", distinguished(["2.5.4.3", " #+x\\ "]), "CN=\\ #\\+x\\\\\\ "],
    [
      "as DER where it has no short name",
      distinguished(["1.2.840.113549.1.9.1", "a@b", 0x16]),
      "1.2.840.113549.1.9.1=#1603614062",
    ],
    ["in UTF-8", distinguished(["2.5.4.3", "Zoë"]), "CN=Zoë"],
  ])("writes the distinguished name %s (RFC 4514)", (_, subject, text) => {
    expect(claims({ subject })).toMatchObject({ subject_dn: text });
  });

  test.each<[string, Wanted]>([
    ["a NUL in a DNS name", { san: [names.dns("good.example\0.evil.example")] }],
    ["a NUL in the common name", { cn: "good\0evil" }],
    ["a space in a URI", { san: [names.uri("https://a b")] }],
    ["an address of five bytes", { san: [names.ip(1, 2, 3, 4, 5)] }],
    ["more names than anybody needs", { san: Array.from({ length: 21 }, (_, n) => names.dns(`d${n}`)) }],
  ])("is not read at all with %s", (_, wanted) => {
    expect(claims(wanted)).toBeUndefined();
  });
});

describe("an X.509-SVID", () => {
  const ID = "spiffe://prod.test/agent/1";
  const good: Wanted = { by: root, san: [names.uri(ID)], usage: [digitalSignature], eku: [CLIENT_AUTH, SERVER_AUTH] };
  const id = (wanted: Wanted): string => {
    const read = readCertificate(x509(certify({ ...good, ...wanted })));
    if (read === undefined) return "unreadable";
    const svid = svidOf(read);
    return "id" in svid ? svid.id : svid.code;
  };

  test("is known by its one URI name", () => {
    expect(id({})).toBe(ID);
    expect(id({ san: [names.dns("x.test"), names.uri(ID)] })).toBe(ID);
  });

  test.each<[string, Wanted]>([
    ["no URI name", { san: [names.dns("x.test")] }],
    ["two URI names", { san: [names.uri(ID), names.uri("spiffe://prod.test/agent/2")] }],
    ["a second URI name that is no SPIFFE ID", { san: [names.uri(ID), names.uri("https://x.test")] }],
    ["a URI of another scheme", { san: [names.uri("https://prod.test/agent/1")] }],
    ["the trust domain's own id", { san: [names.uri("spiffe://prod.test")] }],
    ["a root path", { san: [names.uri("spiffe://prod.test/")] }],
    ["an id that is not canonical", { san: [names.uri("spiffe://Prod.test/agent/1")] }],
    ["cA", { ca: true }],
    ["keyCertSign", { usage: [digitalSignature, keyCertSign] }],
    ["cRLSign", { usage: [digitalSignature, 6] }],
    ["no digitalSignature", { usage: [2] }],
    ["a key usage that is not critical", { usageCritical: false }],
    ["clientAuth alone", { eku: [CLIENT_AUTH] }],
    ["serverAuth alone", { eku: [SERVER_AUTH] }],
  ])("is none with %s", (_, wanted) => {
    expect(id(wanted)).toBe("certificate_not_svid");
  });

  test("is none without key usage", () => {
    const { usage: _, ...without } = good;
    const read = readCertificate(x509(certify(without)));
    expect(read && svidOf(read)).toMatchObject({ code: "certificate_not_svid" });
  });
});
