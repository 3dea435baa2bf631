import { describe, expect, test } from "@jest/globals";
import { exportJWK, type JWK } from "jose";
import { importSourceKeys } from "../../src/identity/import-bundle.ts";
import { createKeyCache } from "../../src/identity/key-cache.ts";
import type { FetchedJson } from "../../src/identity/safe-fetch.ts";
import { tokenSourceSchema, trustSourceSchema } from "../../src/identity/trust-source.ts";
import { authority, type Certified, certify, digitalSignature, extension, tlv, x509 } from "../support/certificates.ts";

const ca = authority();
const leaf = certify();

const jwkOf = async (of: Certified, more: object = {}): Promise<JWK> => ({
  ...(await exportJWK(x509(of).publicKey)),
  ...more,
});
const x5c = (...them: Certified[]): object => ({ x5c: them.map(({ der }) => der.toString("base64")) });
const accepts = (source: object): boolean => trustSourceSchema.safeParse(source).success;

describe("a trust source that vouches by certificates", () => {
  const anchors = (...certificates: string[]): object => ({ kind: "x509_ca", issuer: "ca", certificates });
  const registered = (more: object): object => ({ kind: "self_signed", issuer: "client", ...more });

  test("of kind x509_ca takes authorities that could sign for clients, one PEM text each", () => {
    expect(accepts(anchors(ca.cert, authority({ key: "RSA-2048" }).cert))).toBe(true);
    // Its time is looked at when it is used: what is stored must not become unreadable.
    expect(accepts(anchors(authority({ from: -7200, to: -3600 }).cert))).toBe(true);
  });

  const unknown = extension("1.3.6.1.4.1.99999.1", true, tlv(0x05, Buffer.alloc(0)));
  test.each<[string, object]>([
    ["no certificate", anchors()],
    ["a certificate that is no authority", anchors(leaf.cert)],
    ["an authority that may not sign certificates", anchors(certify({ ca: true, usage: [digitalSignature] }).cert)],
    ["an authority with a weak key", anchors(authority({ key: "RSA-1024" }).cert)],
    ["an authority with a critical extension that is unknown", anchors(authority({ extensions: [unknown] }).cert)],
    ["two certificates in one text", anchors(ca.cert + ca.cert)],
    ["a text around it", anchors(`subject=test\n${ca.cert}`)],
    ["a private key", anchors(ca.key)],
    ["DER in base64", anchors(ca.der.toString("base64"))],
    ["settings of tokens", { ...anchors(ca.cert), algorithms: ["ES256"] }],
    ["a trust domain as its name", { ...anchors(ca.cert), issuer: "spiffe://prod.test" }],
  ])("of kind x509_ca refuses %s", (_, source) => {
    expect(accepts(source)).toBe(false);
  });

  test("of kind self_signed takes PEM or keys with x5c, and either alone", async () => {
    const keys = [await jwkOf(leaf, x5c(leaf))];
    expect(accepts(registered({ certificates: [leaf.cert] }))).toBe(true);
    expect(accepts(registered({ jwks: { keys } }))).toBe(true);
    expect(accepts(registered({ jwks: { keys }, certificates: [leaf.cert] }))).toBe(false);
    expect(accepts(registered({}))).toBe(false);
  });

  test("of kind self_signed refuses a key whose certificate is of another key, or none (RFC 7517 §4.7)", async () => {
    const other = certify();
    const with_ = async (more: object): Promise<boolean> =>
      accepts(registered({ jwks: { keys: [await jwkOf(leaf, more)] } }));
    expect(await with_(x5c(other))).toBe(false);
    expect(await with_(x5c(other, leaf))).toBe(false);
    expect(await with_({})).toBe(false);
    expect(await with_({ x5c: [`${leaf.der.toString("base64")}\n`] })).toBe(false);
    expect(await with_({ x5c: leaf.der.toString("base64") })).toBe(false);
  });
});

describe("the X.509 authorities of a SPIFFE bundle", () => {
  const bundle = async (...keys: JWK[]): Promise<object> => ({ keys });
  const good = (): Promise<JWK> => jwkOf(ca, { use: "x509-svid", ...x5c(ca) });

  test("are those for x509-svid with one CA certificate; what is not is named and left out", async () => {
    const document = await bundle(
      await good(),
      await jwkOf(ca, { use: "x509-svid", ...x5c(ca, ca) }),
      await jwkOf(ca, { use: "x509-svid" }),
      await jwkOf(leaf, { use: "x509-svid", ...x5c(leaf) }),
      await jwkOf(ca, { use: "jwt-svid", kid: "j", ...x5c(ca) }),
      await jwkOf(ca, { ...x5c(ca) }),
    );
    const { authorities, keys, leftOut } = await importSourceKeys({ kind: "spiffe", algorithms: ["ES256"] }, document);
    expect([authorities.length, keys.length, leftOut.length]).toEqual([1, 1, 4]);
    expect(authorities[0]?.raw.equals(ca.der)).toBe(true);
    // A JWK Set of anything else has none, whatever it says.
    expect((await importSourceKeys({ kind: "jwks_uri", algorithms: ["ES256"] }, document)).authorities).toEqual([]);
  });

  const fresh = (document: object): FetchedJson => ({ status: "fresh", document, maxAgeSeconds: 60 });

  test("come and go with the bundle, and are not believed for longer than its keys", async () => {
    let now = 0;
    let answer: FetchedJson | undefined = fresh(await bundle(await good()));
    const cache = createKeyCache({
      nowMs: () => now,
      fetchJson: async () => {
        if (answer === undefined) throw new Error("it is down");
        return answer;
      },
    });
    const config = tokenSourceSchema.parse({
      kind: "spiffe",
      issuer: "spiffe://prod.test",
      bundle_url: "https://x.test/b",
      bundle_profile: "https_web",
      keys_max_age_seconds: 300,
    });
    const found = async (): Promise<number | string> => {
      const them = await cache.authoritiesOf({ id: "s", version: 1, config });
      return "code" in them ? them.code : them.length;
    };
    // Read in the background alone: who asks before gets nothing, and does not wait.
    expect(await found()).toBe("keys_unavailable");
    await cache.refreshDue();
    expect(await found()).toBe(1);
    answer = fresh(await bundle());
    now += 300_000;
    await cache.refreshDue();
    expect(await found()).toBe(0);
    answer = undefined;
    now += 299_000;
    await cache.refreshDue();
    expect(await found()).toBe(0);
    now += 2_000;
    expect(await found()).toBe("keys_stale");
  });
});
