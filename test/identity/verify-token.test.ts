import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { FindKeys } from "../../src/identity/key-set.ts";
import type { TokenSource } from "../../src/identity/trust-source.ts";
import { peekToken, type VerifiedToken, verifyToken } from "../../src/identity/verify-token.ts";
import {
  audience,
  b64,
  finderOf,
  goodClaims,
  issuer,
  keySetSource,
  keys,
  now,
  nowSeconds,
  otherSpelling,
  rawToken,
  signText,
  svid,
  token,
  trustDomain,
} from "./fixtures.ts";

async function verify(compact: string, source: TokenSource, at = now) {
  return await verifyToken(compact, source, { audience, keys: await finderOf(source), now: at });
}

async function verified(compact: string, source: TokenSource, at = now): Promise<VerifiedToken> {
  const result = await verify(compact, source, at);
  if (!result.ok) throw new Error(`refused: ${result.refusal.code}: ${result.refusal.detail}`);
  return result.token;
}

async function refusalCode(compact: string, source: TokenSource, at = now): Promise<string> {
  const result = await verify(compact, source, at);
  return result.ok ? "accepted" : result.refusal.code;
}

describe("a good token is accepted and says what its issuer wrote", () => {
  test.each([
    ["ES256", keys.p256],
    ["ES384", keys.p384],
    ["ES512", keys.p521],
    ["Ed25519", keys.ed25519],
    ["EdDSA", keys.ed25519],
    ["RS256", keys.rsa],
    ["RS384", keys.rsa],
    ["RS512", keys.rsa],
    ["PS256", keys.ps256],
    ["PS384", keys.rsa],
    ["PS512", keys.rsa],
  ] as const)("signed with %s", async (alg, key) => {
    await expect(verified(token({}, { alg }, key, alg), keySetSource())).resolves.toEqual({
      issuer,
      subject: "system:serviceaccount:agents:researcher",
      claims: goodClaims(),
      issuedAt: new Date((nowSeconds - 30) * 1000),
      expiresAt: new Date((nowSeconds + 270) * 1000),
      confirmation: { kind: "bearer" },
      singleUse: undefined,
      unspent: undefined,
      key: expect.objectContaining({ type: "public" }),
    });
  });

  test.each<[name: string, claims: object, header: object]>([
    ["no typ, as Kubernetes sends it", {}, { typ: undefined }],
    ["typ jwt in another case", {}, { typ: "jwt" }],
    ["typ as a full media type", {}, { typ: "application/jwt" }],
    ["an audience array of exactly one", { aud: [audience] }, {}],
    ["no nbf", { nbf: undefined }, {}],
    ["no jti at a source that is not single use", { jti: undefined }, {}],
    ["a thumbprint header, as Entra sends it", {}, { x5t: "abc" }],
    ["an issuer's clock ten seconds ahead", { iat: nowSeconds + 10, nbf: nowSeconds + 10 }, {}],
    ["the last second before exp", { exp: nowSeconds + 1 }, {}],
    ["the oldest age that is allowed", { iat: nowSeconds - 3600, nbf: undefined }, {}],
    ["the farthest exp that is allowed", { exp: nowSeconds + 86_410 }, {}],
    ["unknown claims of any shape", { "kubernetes.io": { pod: { uid: "u" } }, groups: ["a", 1, null] }, {}],
  ])("%s", async (_name, claims, header) => {
    await expect(verified(token(claims, header), keySetSource())).resolves.toMatchObject({ issuer });
  });

  test("times spelled with an exponent, which JSON reads as the same numbers", async () => {
    const payload = JSON.stringify(goodClaims()).replace(/"exp":(\d+)/, '"exp":$1.0e0');
    await expect(refusalCode(rawToken('{"alg":"ES256","kid":"p256"}', payload), keySetSource())).resolves.toBe(
      "accepted",
    );
  });

  test("without kid, when one key of the source fits", async () => {
    await expect(refusalCode(token({}, { kid: undefined }), keySetSource())).resolves.toBe("accepted");
  });

  test("when two keys share its kid and the second one signed", async () => {
    const source = keySetSource({ jwks: { keys: [{ ...keys.otherP256.jwk, kid: "p256" }, keys.p256.jwk] } });
    await expect(refusalCode(token(), source)).resolves.toBe("accepted");
  });

  test("to the last second of its life and not beyond", async () => {
    const end = (goodClaims()["exp"] as number) * 1000;
    await expect(refusalCode(token(), keySetSource(), new Date(end - 1))).resolves.toBe("accepted");
    await expect(refusalCode(token(), keySetSource(), new Date(end))).resolves.toBe("token_expired");
  });
});

describe("a client assertion", () => {
  const typ = "client-authentication+jwt";
  const assertion = {
    type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    assertion: "",
    clientId: undefined,
  };
  const codeOf = async (claims: object, asked: typeof assertion | undefined, changes: object = {}): Promise<string> => {
    const source = keySetSource(changes);
    const keysOf = await finderOf(source);
    const result = await verifyToken(token(claims, { typ }), source, { audience, keys: keysOf, now, assertion: asked });
    return result.ok ? "accepted" : result.refusal.code;
  };

  test("that says so is one where one is asked for, made by a registered key for itself (rfc7523bis), and is nothing else", async () => {
    await expect(codeOf({ sub: issuer }, assertion)).resolves.toBe("accepted");
    await expect(codeOf({ sub: issuer }, undefined)).resolves.toBe("token_kind_confused");
    await expect(codeOf({}, assertion)).resolves.toBe("token_kind_confused");
  });

  test("that does not say so may be sent as a token, while nobody has used it as an assertion", async () => {
    await expect(verified(token({ sub: issuer }), keySetSource())).resolves.toMatchObject({
      singleUse: undefined,
      unspent: "5f0c9e6e-1",
    });
    await expect(verified(token(), keySetSource())).resolves.toMatchObject({ unspent: undefined });
    await expect(verified(token({ sub: issuer }), keySetSource({ single_use: true }))).resolves.toMatchObject({
      singleUse: { jti: "5f0c9e6e-1" },
      unspent: undefined,
    });
  });
});

describe("single use", () => {
  test("hands out the jti to consume and how long to remember it: beyond the token's own end", async () => {
    await expect(verified(token(), keySetSource({ single_use: true }))).resolves.toMatchObject({
      singleUse: { jti: "5f0c9e6e-1", keepUntil: new Date((nowSeconds + 330) * 1000) },
    });
  });

  test("both spellings of one ES256 signature verify and carry one jti: the text is no replay key (D4)", async () => {
    const first = token();
    const second = otherSpelling(first);
    expect(second).not.toBe(first);
    const source = keySetSource({ single_use: true });
    await expect(verified(second, source)).resolves.toEqual(await verified(first, source));
  });

  test.each([
    ["absent", undefined, "token_claim_missing"],
    ["a number", 7, "token_claim_invalid"],
    ["empty", "", "token_claim_invalid"],
    ["of 257 characters", "j".repeat(257), "token_claim_invalid"],
    ["an array", ["a"], "token_claim_invalid"],
    ["with a line break", "a\nb", "token_claim_invalid"],
    ["null", null, "token_claim_invalid"],
  ])("a jti that is %s is refused", async (_name, jti, code) => {
    await expect(refusalCode(token({ jti }), keySetSource({ single_use: true }))).resolves.toBe(code);
  });
});

describe("what the trust source demands", () => {
  test.each<[name: string, claims: object, source: object, code: string]>([
    ["a required claim is there", { team: "a" }, { required_claims: ["team"] }, "accepted"],
    ["a required claim is false, which is a value", { team: false }, { required_claims: ["team"] }, "accepted"],
    ["a required claim is absent", {}, { required_claims: ["team"] }, "token_claim_missing"],
    ["a required claim is null", { team: null }, { required_claims: ["team"] }, "token_claim_missing"],
    [
      "a required claim that every object inherits is absent",
      {},
      { required_claims: ["toString"] },
      "token_claim_missing",
    ],
    ["a required nested claim is absent", { k: {} }, { required_claims: ["/k/uid"] }, "token_claim_missing"],
    ["a condition holds", { org: "1" }, { conditions: [{ claim: "org", equals: "1" }] }, "accepted"],
    [
      "one of two conditions fails",
      { org: "1", env: "dev" },
      {
        conditions: [
          { claim: "org", equals: "1" },
          { claim: "env", equals: "prod" },
        ],
      },
      "token_conditions_not_met",
    ],
    [
      "a condition on a missing claim (T-5.3)",
      {},
      { conditions: [{ claim: "org", equals: "1" }] },
      "token_conditions_not_met",
    ],
    ["a shorter age than the token has", {}, { max_token_age_seconds: 29 }, "token_too_old"],
    ["an algorithm list without the token's", {}, { algorithms: ["PS256"] }, "token_alg_not_allowed"],
    ["a bound source and an unbound token", {}, { binding: "dpop" }, "token_binding_mismatch"],
    ["an unbound source and a bound token", { cnf: { jkt: "x" } }, {}, "token_binding_mismatch"],
    [
      "a DPoP source and an mTLS token",
      { cnf: { "x5t#S256": "A".repeat(43) } },
      { binding: "dpop" },
      "token_binding_mismatch",
    ],
    [
      "a DPoP source and a thumbprint of the wrong length",
      { cnf: { jkt: "A".repeat(42) } },
      { binding: "dpop" },
      "token_binding_mismatch",
    ],
    [
      "a DPoP source and a confirmation that is no object",
      { cnf: "A".repeat(43) },
      { binding: "dpop" },
      "token_binding_mismatch",
    ],
    ["cnf null at an unbound source", { cnf: null }, {}, "token_binding_mismatch"],
  ])("%s", async (_name, claims, source, code) => {
    await expect(refusalCode(token(claims), keySetSource(source))).resolves.toBe(code);
  });

  test("a bound token comes back with what the caller must still prove", async () => {
    const jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    await expect(verified(token({ cnf: { jkt } }), keySetSource({ binding: "dpop" }))).resolves.toMatchObject({
      confirmation: { kind: "dpop", jkt },
    });
    await expect(
      verified(token({ cnf: { "x5t#S256": jkt } }), keySetSource({ binding: "mtls" })),
    ).resolves.toMatchObject({
      confirmation: { kind: "mtls", x5tS256: jkt },
    });
  });

  test("a forged token does not learn the conditions: its signature is judged first", async () => {
    const forged = `${token().split(".").slice(0, 2).join(".")}.${b64(Buffer.alloc(64, 1))}`;
    const source = keySetSource({
      required_claims: ["team"],
      conditions: [{ claim: "org", equals: "1" }],
      single_use: true,
    });
    await expect(refusalCode(forged, source)).resolves.toBe("token_signature_invalid");
  });
});

describe("one-bit flips", () => {
  test.each([
    ["ES256", keys.p256],
    ["Ed25519", keys.ed25519],
    ["PS256", keys.ps256],
  ] as const)("no flip of any bit of a %s token is accepted", async (alg, key) => {
    const good = token({}, {}, key, alg);
    const source = keySetSource();
    const find = await finderOf(source);
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length * 7 - 1), async (bit) => {
        const at = Math.floor(bit / 7);
        const flipped =
          good.slice(0, at) + String.fromCharCode(good.charCodeAt(at) ^ (1 << (bit % 7))) + good.slice(at + 1);
        const result = await verifyToken(flipped, source, { audience, keys: find, now });
        expect(result.ok).toBe(false);
      }),
      { numRuns: 600 },
    );
  });

  test("whatever its claims, a token whose payload was exchanged is refused", async () => {
    const source = keySetSource();
    const [header, , signature] = token().split(".");
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue()), async (changes) => {
        const payload = b64(JSON.stringify(goodClaims({ ...changes, sub: "someone-else" })));
        expect(await refusalCode(`${header}.${payload}.${signature}`, source)).not.toBe("accepted");
      }),
      { numRuns: 300 },
    );
  });
});

describe("peekToken routes without a key", () => {
  test("an OIDC token: by audience and issuer", () => {
    expect(peekToken(token())).toEqual({
      ok: true,
      token: {
        aud: audience,
        iss: issuer,
        sub: goodClaims()["sub"],
        alg: "ES256",
        kid: "p256",
        typ: "JWT",
        issuers: [issuer],
      },
    });
  });

  test("a JWT-SVID: by the trust domain of its subject, after its iss", () => {
    expect(peekToken(svid())).toMatchObject({ ok: true, token: { issuers: [trustDomain] } });
    expect(peekToken(svid({ iss: issuer }))).toMatchObject({ ok: true, token: { issuers: [issuer, trustDomain] } });
  });

  test("an audience array of one is that audience", () => {
    expect(peekToken(token({ aud: [audience] }))).toMatchObject({ ok: true, token: { aud: audience } });
  });

  test.each<[name: string, compact: string, code: string]>([
    ["no token", "", "token_malformed"],
    ["two audiences", token({ aud: [audience, "x"] }), "token_audience_multiple"],
    ["the same audience twice", token({ aud: [audience, audience] }), "token_audience_multiple"],
    ["no audience", token({ aud: undefined }), "token_claim_missing"],
    ["an issuer that is no text", token({ iss: { x: 1 } }), "token_claim_invalid"],
    ["a subject that is no text", token({ sub: 7 }), "token_claim_invalid"],
    ["a key in the header", token({}, { jwk: keys.p256.jwk }), "token_header_not_allowed"],
  ])("%s is refused at once", (_name, compact, code) => {
    expect(peekToken(compact)).toMatchObject({ ok: false, refusal: { code } });
  });
});

describe("keys", () => {
  const never: FindKeys = () => {
    throw new Error("a key was asked for");
  };

  test.each<[name: string, compact: string]>([
    ["a wrong issuer (T-5.2)", token({ iss: "https://unknown.example" })],
    ["a wrong audience", token({ aud: "x" })],
    ["an expired token", token({ exp: nowSeconds })],
    ["a token of another kind", token({}, { typ: "dpop+jwt" })],
    ["an algorithm that is not on the list", token({}, { alg: "HS256" })],
  ])("%s is refused before any key is asked for", async (_name, compact) => {
    const result = await verifyToken(compact, keySetSource(), { audience, keys: never, now });
    expect(result.ok).toBe(false);
  });

  test("what the finder refuses is the answer", async () => {
    const refusal = { code: "keys_stale", detail: "d" } as const;
    await expect(verifyToken(token(), keySetSource(), { audience, keys: () => ({ refusal }), now })).resolves.toEqual({
      ok: false,
      refusal,
    });
  });

  test("more keys than are worth trying are not tried", async () => {
    const many = Array.from({ length: 5 }, (_, i) => ({ ...keys.p256.jwk, kid: `k${i}` }));
    await expect(refusalCode(token({}, { kid: undefined }), keySetSource({ jwks: { keys: many } }))).resolves.toBe(
      "token_key_unknown",
    );
  });

  test("a signature over one byte more than the token is refused", async () => {
    const input = `${b64('{"alg":"ES256","kid":"p256"}')}.${b64(JSON.stringify(goodClaims()))}`;
    const other = `${input} `;
    const compact = `${input}.${b64(signText("ES256", keys.p256.privateKey, other))}`;
    await expect(refusalCode(compact, keySetSource())).resolves.toBe("token_signature_invalid");
  });

  test("a broken clock accepts nothing", async () => {
    await expect(refusalCode(token(), keySetSource(), new Date(Number.NaN))).resolves.toBe("token_expired");
  });

  test("a payload with claims of 7 KiB is still read, one beyond the limit is not", async () => {
    await expect(
      refusalCode(
        rawToken('{"alg":"ES256","kid":"p256"}', JSON.stringify(goodClaims({ big: "x".repeat(5500) }))),
        keySetSource(),
      ),
    ).resolves.toBe("accepted");
    await expect(refusalCode(token({ big: "x".repeat(6000) }), keySetSource())).resolves.toBe("token_malformed");
  });
});
