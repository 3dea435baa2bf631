import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import type { Clock } from "../../src/verify/clock.ts";
import {
  AccessRefused,
  type Call,
  createVerifier,
  type Verifier,
  type VerifierOptions,
} from "../../src/verify/index.ts";
import { AUDIENCE, type Broker, signingKey, startBroker, TOOL_TOKEN } from "./broker.ts";
import { aCaller, type Caller, type ProofParts, URL_OF_CALL } from "./caller.ts";

let broker: Broker;
let verifier: Verifier;
let caller: Caller;
/** The verifiers of single tests: closed at the end, also when their test fails. */
const others: Verifier[] = [];

const CERTIFICATE = Buffer.from("what a certificate is in DER");
const x5tS256 = createHash("sha256").update(CERTIFICATE).digest("base64url");

beforeAll(async () => {
  broker = await startBroker();
  caller = await aCaller();
  verifier = await createVerifier({
    issuer: broker.issuer,
    audience: AUDIENCE,
    authorization: () => TOOL_TOKEN,
  });
});
afterAll(async () => {
  await Promise.all([verifier, ...others].map((one) => one.close()));
  await broker[Symbol.asyncDispose]();
  expect(broker.problems).toEqual([]);
});

const bound = (claims: Readonly<Record<string, unknown>> = {}): Readonly<Record<string, unknown>> => ({
  cnf: { jkt: caller.jkt },
  ...claims,
});

async function another(changes: Partial<VerifierOptions>, clock?: Clock): Promise<Verifier> {
  const options = { issuer: broker.issuer, audience: AUDIENCE, authorization: () => TOOL_TOKEN };
  const one = await createVerifier({ ...options, ...changes }, clock);
  others.push(one);
  return one;
}

/** The refusal of a call, which must be one. */
async function refusalOf(call: Call, by = verifier): Promise<AccessRefused> {
  const outcome = await by.verify(call).then(
    () => "it was let in",
    (error: unknown) => error,
  );
  if (!(outcome instanceof AccessRefused)) throw new Error(`not a refusal: ${String(outcome)}`);
  expect(outcome.headers["www-authenticate"] ?? "").not.toContain("undefined");
  for (const [, text = ""] of (outcome.headers["www-authenticate"] ?? "").matchAll(/"([^"]*)"/g))
    expect(text).toMatch(/^[\x20\x21\x23-\x5b\x5d-\x7e]*$/);
  return outcome;
}

describe("a call with a token of its own", () => {
  test("is let in, and says who calls, with which credential and for what", async () => {
    const token = await broker.mint({ claims: bound({ jti: "crd_1", sub: "agt_7", client_id: "reporter" }) });
    const access = await verifier.verify(await caller.call(token));
    expect(access).toMatchObject({ credentialId: "crd_1", subject: "agt_7", clientId: "reporter" });
    expect(access.grants).toEqual([{ taskId: "tsk_1", actions: ["read", "comment"], resources: ["tickets"] }]);
    expect(access.expiresAt.getTime()).toBeGreaterThan(Date.now());
    access.require({ action: "read", resource: "tickets" });
  });

  test.each([
    [
      "its type as a media type",
      async () => await broker.mint({ claims: bound(), header: { typ: "application/at+jwt" } }),
    ],
    [
      "an issuer's clock that is 5 s ahead",
      async () => await broker.mint({ claims: bound({ iat: broker.now() + 4 }) }),
    ],
    ["nbf in the past", async () => await broker.mint({ claims: bound({ nbf: broker.now() - 1 }) })],
  ])("is let in with %s", async (_what, mint) => {
    await expect(verifier.verify(await caller.call(await mint()))).resolves.toBeDefined();
  });

  test("may be spelled freely where HTTP is: the scheme's case, the header's case, fetch's Headers, the query", async () => {
    const token = await broker.mint({ claims: bound() });
    const call = async (headers: (proof: string) => Call["headers"], url = URL_OF_CALL): Promise<unknown> =>
      verifier.verify({ method: "GET", url, headers: headers(await caller.proof(token)) });
    await call((dpop) => ({ authorization: `dpop ${token}`, dpop }));
    await call((dpop) => ({ Authorization: `DPoP  ${token}`, DPoP: [dpop] }));
    await call((dpop) => new Headers({ authorization: `DPoP ${token}`, dpop }));
    await call((dpop) => ({ authorization: `DPoP ${token}`, dpop }), `${URL_OF_CALL}?q=${"x".repeat(4000)}`);
    await call((dpop) => ({ authorization: `DPoP ${token}`, dpop }), "/api/tickets/7?q=1");
  });

  test("ends to the millisecond, and may begin 5 s ahead of our clock and no more", async () => {
    let wall = 0;
    // Without signs of life: by a clock that jumps they would be late.
    broker.routes.events = (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('event: status\ndata: {"statuses":[],"complete":true,"more":false,"audiences":null}\n\n');
    };
    const one = await another({ maxStatusAgeMs: 60_000 }, { wallMs: () => wall, monotonicMs: () => performance.now() });
    const [iat, exp] = [broker.now() + 100, broker.now() + 200];
    const token = await broker.mint({ claims: bound({ iat, exp }) });
    const at = async (ms: number): Promise<string> => {
      wall = ms;
      const call = await caller.call(token, { claims: { iat: Math.floor((Number.isNaN(ms) ? 0 : ms) / 1000) } });
      return await one.verify(call).then(
        () => "let in",
        (error: unknown) => (error instanceof AccessRefused ? error.code : String(error)),
      );
    };
    expect(await at(exp * 1000 - 1)).toBe("let in");
    expect(await at(exp * 1000)).toBe("token_expired");
    expect(await at((iat - 5) * 1000)).toBe("let in");
    expect(await at((iat - 5) * 1000 - 1)).toBe("token_not_yet_valid");
    expect(await at(Number.NaN)).toBe("token_expired");
  });

  test("bound to a certificate comes as Bearer, with that certificate", async () => {
    const token = await broker.mint({ claims: { cnf: { "x5t#S256": x5tS256 } } });
    const call = { method: "GET", url: URL_OF_CALL, headers: { authorization: `Bearer ${token}` } };
    await expect(verifier.verify({ ...call, certificate: CERTIFICATE })).resolves.toBeDefined();
    await expect(verifier.verify({ ...call, certificate: () => CERTIFICATE })).resolves.toBeDefined();
    for (const certificate of [Buffer.from("another"), Buffer.alloc(0), () => undefined])
      expect(await refusalOf({ ...call, certificate })).toMatchObject({ code: "token_binding_mismatch", status: 401 });
    expect((await refusalOf(call)).headers["www-authenticate"]).toMatch(/^Bearer error="invalid_token", /);
  });

  test("bound to both needs both", async () => {
    const token = await broker.mint({ claims: { cnf: { jkt: caller.jkt, "x5t#S256": x5tS256 } } });
    await expect(verifier.verify({ ...(await caller.call(token)), certificate: CERTIFICATE })).resolves.toBeDefined();
    expect((await refusalOf(await caller.call(token))).code).toBe("token_binding_mismatch");
    const bearer = { method: "GET", url: URL_OF_CALL, headers: { authorization: `Bearer ${token}` } };
    expect((await refusalOf({ ...bearer, certificate: CERTIFICATE })).code).toBe("token_binding_mismatch");
  });

  test("bound to nothing is let in only where the API says so", async () => {
    const token = await broker.mint();
    const call = { method: "GET", url: URL_OF_CALL, headers: { authorization: `Bearer ${token}` } };
    expect((await refusalOf(call)).code).toBe("token_binding_mismatch");
    const lax = await another({ allowBearer: true });
    await expect(lax.verify(call)).resolves.toBeDefined();
    const missing = await refusalOf({ ...call, headers: {} }, lax);
    const metadata = 'resource_metadata="https://tickets.test/.well-known/oauth-protected-resource/api"';
    expect(missing.headers["www-authenticate"]).toBe(
      `DPoP algs="ES256 Ed25519 EdDSA PS256", ${metadata}, Bearer realm="${AUDIENCE}", ${metadata}`,
    );
    // To allow bearer tokens is not to take bound ones as such.
    const held = await broker.mint({ claims: bound() });
    expect((await refusalOf({ ...call, headers: { authorization: `Bearer ${held}` } }, lax)).code).toBe(
      "token_binding_mismatch",
    );
  });
});

describe("a call is refused", () => {
  test("without a token, and is told no error (RFC 6750 §3.1)", async () => {
    for (const headers of [{}, { authorization: "Basic dTpw" }, { dpop: "x" }]) {
      const refused = await refusalOf({ method: "GET", url: URL_OF_CALL, headers });
      expect(refused).toMatchObject({ status: 401, code: "token_missing" });
      expect(refused.headers["www-authenticate"]).toBe(
        'DPoP algs="ES256 Ed25519 EdDSA PS256", resource_metadata="https://tickets.test/.well-known/oauth-protected-resource/api"',
      );
    }
  });

  test.each<[string, (token: string, proof: string) => Call["headers"], number, string]>([
    [
      "two Authorization headers",
      (t, dpop) => ({ authorization: [`DPoP ${t}`, `DPoP ${t}`], dpop }),
      400,
      "request_malformed",
    ],
    [
      "two spellings of the header",
      (t, dpop) => ({ authorization: `DPoP ${t}`, Authorization: `DPoP ${t}`, dpop }),
      400,
      "request_malformed",
    ],
    [
      "two tokens in one header",
      (t, dpop) => ({ authorization: `DPoP ${t}, DPoP ${t}`, dpop }),
      400,
      "request_malformed",
    ],
    ["a scheme and no token", (_t, dpop) => ({ authorization: "DPoP ", dpop }), 400, "request_malformed"],
    ["a scheme alone", (_t, dpop) => ({ authorization: "Bearer", dpop }), 400, "request_malformed"],
    ["no proof", (t) => ({ authorization: `DPoP ${t}` }), 401, "proof_invalid"],
    ["two proofs", (t, dpop) => ({ authorization: `DPoP ${t}`, dpop: [dpop, dpop] }), 401, "proof_invalid"],
    [
      "two proofs in one header",
      (t, dpop) => ({ authorization: `DPoP ${t}`, dpop: `${dpop}, ${dpop}` }),
      401,
      "proof_invalid",
    ],
    ["a bound token sent as Bearer", (t) => ({ authorization: `Bearer ${t}` }), 401, "token_binding_mismatch"],
    [
      "a bound token sent as Bearer with a good proof",
      (t, dpop) => ({ authorization: `Bearer ${t}`, dpop }),
      401,
      "token_binding_mismatch",
    ],
    ["a token that is no JWS", (_t, dpop) => ({ authorization: "DPoP abc", dpop }), 401, "token_malformed"],
    ["a character outside the alphabet", (t, dpop) => ({ authorization: `DPoP ${t}~`, dpop }), 401, "token_malformed"],
    ["padding", (t, dpop) => ({ authorization: `DPoP ${t}=`, dpop }), 401, "token_malformed"],
    ["a fourth part", (t, dpop) => ({ authorization: `DPoP ${t}.AA`, dpop }), 401, "token_malformed"],
    ["9 KB of token", (_t, dpop) => ({ authorization: `DPoP ${"a".repeat(9000)}.a.a`, dpop }), 401, "token_malformed"],
  ])("for %s", async (_what, headers, status, code) => {
    const token = await broker.mint({ claims: bound() });
    const refused = await refusalOf({
      method: "GET",
      url: URL_OF_CALL,
      headers: headers(token, await caller.proof(token)),
    });
    expect(refused).toMatchObject({ status, code });
    const error =
      status === 400 ? "invalid_request" : code === "proof_invalid" ? "invalid_dpop_proof" : "invalid_token";
    expect(refused.headers["www-authenticate"]).toContain(`error="${error}", error_description="`);
  });

  test.each<[string, Readonly<Record<string, unknown>>, string]>([
    ["of another issuer", { iss: "https://evil.test/t/acme" }, "token_issuer_unknown"],
    ["of the issuer with a slash more", { iss: "ISSUER/" }, "token_issuer_unknown"],
    ["without issuer", { iss: null }, "token_issuer_unknown"],
    ["for another API", { aud: "https://other.test/api" }, "token_audience_mismatch"],
    ["for the API with a slash more", { aud: `${AUDIENCE}/` }, "token_audience_mismatch"],
    ["for two APIs, one of them this", { aud: [AUDIENCE, "https://other.test/api"] }, "token_audience_mismatch"],
    ["for a list of this API", { aud: [AUDIENCE] }, "token_audience_mismatch"],
    ["for nobody", { aud: null }, "token_audience_mismatch"],
    ["that is over", { iat: 1_000_000, exp: 1_000_300 }, "token_expired"],
    ["without an end", { exp: null }, "token_claim_invalid"],
    ["with an end that is a text", { exp: "4000000000" }, "token_claim_invalid"],
    ["that ends before it begins", { iat: 4_000_000_000, exp: 3_999_999_999 }, "token_claim_invalid"],
    ["of the future", { iat: 3_999_999_000, exp: 4_000_000_000 }, "token_not_yet_valid"],
    ["that is not valid yet", { nbf: 3_999_999_000, exp: 4_000_000_000 }, "token_not_yet_valid"],
    ["without iat", { iat: null }, "token_claim_invalid"],
    ["without jti", { jti: null }, "token_claim_invalid"],
    ["without sub", { sub: null }, "token_claim_invalid"],
    ["without client_id", { client_id: null }, "token_claim_invalid"],
    ["bound to what nobody knows", { cnf: { kid: "x" } }, "token_claim_invalid"],
    ["bound to a key and to what nobody knows", { cnf: { jkt: "JKT", "x5u#x": "x" } }, "token_claim_invalid"],
    ["bound to nothing in particular", { cnf: {} }, "token_claim_invalid"],
    ["bound to a text", { cnf: "JKT" }, "token_claim_invalid"],
    ["bound to a thumbprint of another length", { cnf: { jkt: "AAAA" } }, "token_claim_invalid"],
    ["bound to nothing, sent as DPoP", { cnf: null }, "token_binding_mismatch"],
    ["bound to another key", { cnf: { jkt: "A".repeat(43) } }, "token_binding_mismatch"],
    [
      "with a status that is no reference",
      { status: { status_list: { idx: -1, uri: "ISSUER/status/1" } } },
      "token_claim_invalid",
    ],
    ["with another kind of status", { status: { other: true } }, "token_claim_invalid"],
  ])("for a token %s", async (_what, claims, code) => {
    const text = JSON.stringify(bound(claims)).replaceAll("ISSUER", broker.issuer).replaceAll("JKT", caller.jkt);
    const token = await broker.mint({ claims: JSON.parse(text) as Record<string, unknown> });
    const refused = await refusalOf(await caller.call(token));
    expect(refused).toMatchObject({ status: 401, code });
    expect(refused.headers["www-authenticate"]).toMatch(
      /^DPoP error="invalid_token", error_description="[^"]+", algs="ES256 Ed25519 EdDSA PS256", resource_metadata="/,
    );
    expect(JSON.stringify([refused.detail, refused.headers])).not.toContain("evil");
  });

  test.each<[string, Readonly<Record<string, unknown>>, string]>([
    ["of no type", { typ: undefined }, "token_typ_not_allowed"],
    ["of type JWT", { typ: "JWT" }, "token_typ_not_allowed"],
    ["that is a DPoP proof", { typ: "dpop+jwt" }, "token_typ_not_allowed"],
    ["that is a status list", { typ: "statuslist+jwt" }, "token_typ_not_allowed"],
    ["that carries its key", { jwk: { kty: "EC" } }, "token_header_not_allowed"],
    ["that names where its key is", { jku: "https://evil.test/jwks" }, "token_header_not_allowed"],
    ["without kid", { kid: undefined }, "token_key_unknown"],
    ["by an unknown key", { kid: "unknown" }, "token_key_unknown"],
  ])("for a token %s", async (_what, header, code) => {
    const token = await broker.mint({ claims: bound(), header });
    expect(await refusalOf(await caller.call(token))).toMatchObject({ status: 401, code });
  });

  test("for a token by somebody else under the issuer's kid", async () => {
    const token = await broker.mint({ claims: bound(), key: { ...(await signingKey()), kid: broker.key.kid } });
    expect((await refusalOf(await caller.call(token))).code).toBe("token_signature_invalid");
  });

  test.each([
    [
      "ES256 of another payload",
      (t: string) => t.replace(/\.[^.]+\./, (part) => `.${changed(part.slice(1, -1))}.`),
      "token_signature_invalid",
    ],
    ["no signature", (t: string) => t.replace(/[^.]+$/, "AA"), "token_signature_invalid"],
    ["alg none", (t: string) => withHeader(t, { alg: "none" }), "token_alg_not_allowed"],
    ["alg HS256", (t: string) => withHeader(t, { alg: "HS256" }), "token_alg_not_allowed"],
    ["alg es256", (t: string) => withHeader(t, { alg: "es256" }), "token_alg_not_allowed"],
    ["a critical extension", (t: string) => withHeader(t, { crit: ["x"], x: 1 }), "token_crit_unsupported"],
  ])("for a token with %s, also when the right one was seen before", async (_what, change, code) => {
    const token = await broker.mint({ claims: bound() });
    await verifier.verify(await caller.call(token));
    const forged = change(token);
    expect((await refusalOf(await caller.call(forged))).code).toBe(code);
  });

  test.each<[string, ProofParts, string]>([
    [
      "for another token",
      { claims: { ath: createHash("sha256").update("other").digest("base64url") } },
      "proof_invalid",
    ],
    ["for no token", { claims: { ath: null } }, "proof_invalid"],
    ["for another method", { claims: { htm: "POST" } }, "proof_invalid"],
    ["for another URI", { claims: { htu: "https://tickets.test/api/tickets/8" } }, "proof_invalid"],
    ["for another host", { claims: { htu: "https://evil.test/api/tickets/7" } }, "proof_invalid"],
    ["of long ago", { claims: { iat: 1_800_000_000 - 1_000_000_000 } }, "proof_invalid"],
    ["of the future", { claims: { iat: 4_000_000_000 } }, "proof_invalid"],
    ["without jti", { claims: { jti: null } }, "proof_invalid"],
    ["that is an access token", { header: { typ: "at+jwt" } }, "proof_invalid"],
  ])("for a proof %s", async (_what, parts, code) => {
    const token = await broker.mint({ claims: bound() });
    const refused = await refusalOf(await caller.call(token, parts));
    expect(refused).toMatchObject({ status: 401, code });
    expect(refused.headers["www-authenticate"]).toMatch(/^DPoP error="invalid_dpop_proof", .*algs="/);
  });

  test("for a proof by another key than the token is bound to", async () => {
    const token = await broker.mint({ claims: bound() });
    const thief = await aCaller();
    const refused = await refusalOf(await thief.call(token));
    expect(refused).toMatchObject({ status: 401, code: "token_binding_mismatch" });
    expect(refused.headers["www-authenticate"]).toContain('error="invalid_token"');
    // Nor with the holder's public key over the thief's signature.
    const stolen = await refusalOf(await thief.call(token, { header: { jwk: caller.jwk } }));
    expect(stolen.code).toBe("proof_invalid");
  });

  test("for a proof that was used, with another query too", async () => {
    const token = await broker.mint({ claims: bound() });
    const call = await caller.call(token);
    await verifier.verify(call);
    expect((await refusalOf(call)).code).toBe("proof_invalid");
    expect((await refusalOf({ ...call, url: `${URL_OF_CALL}?again` })).code).toBe("proof_invalid");
  });

  test("for a request line that is no path of this API", async () => {
    const token = await broker.mint({ claims: bound() });
    for (const url of ["", "*", "ftp://tickets.test/api"])
      expect(await refusalOf({ ...(await caller.call(token)), url })).toMatchObject({
        status: 400,
        code: "request_malformed",
      });
  });

  test("and its own words are never repeated", async () => {
    const marker = "zq7marker";
    const token = await broker.mint({
      claims: bound({ iss: marker, aud: marker, sub: marker }),
      header: { kid: marker },
    });
    for (const call of [
      await caller.call(token),
      {
        method: marker,
        url: `https://${marker}.test/`,
        headers: { authorization: `${marker} ${marker}`, dpop: marker },
      },
      {
        method: "GET",
        url: URL_OF_CALL,
        headers: { authorization: `DPoP ${marker}.${marker}.${marker}`, dpop: marker },
      },
    ]) {
      const refused = await refusalOf(call);
      expect(JSON.stringify([refused.message, refused.detail, refused.headers])).not.toContain(marker);
    }
  });
});

describe("what was granted", () => {
  const detail = (changes: Readonly<Record<string, unknown>>): unknown => ({
    type: "https://mayfly.dev/rar/task/v1",
    task_id: "tsk_1",
    locations: [AUDIENCE],
    actions: ["read"],
    resources: ["tickets"],
    ...changes,
  });
  const accessWith = async (details: unknown): ReturnType<Verifier["verify"]> =>
    verifier.verify(await caller.call(await broker.mint({ claims: bound({ authorization_details: details }) })));

  test("is the action on the resource, both in one grant", async () => {
    const access = await accessWith([detail({}), detail({ actions: ["write"], resources: ["drafts"] })]);
    access.require({ action: "read", resource: "tickets" });
    access.require({ action: "write", resource: "drafts" });
    expect(() => access.require({ action: "write", resource: "tickets" })).toThrow(AccessRefused);
  });

  test.each<[string, unknown]>([
    ["another action", [detail({ actions: ["list"] })]],
    ["another resource", [detail({ resources: ["drafts"] })]],
    ["a prefix of it", [detail({ actions: ["rea"] })]],
    ["another API", [detail({ locations: ["https://other.test/api"] })]],
    ["no API", [detail({ locations: undefined })]],
    ["another type of details", [detail({ type: "https://mayfly.dev/rar/task/v2" })]],
    ["an unknown constraint", [detail({ constraints: { environment: "x", max_calls: 1 } })]],
    ["constraints that are none", [detail({ constraints: "none" })]],
    ["actions that are a text", [detail({ actions: "read" })]],
    ["nothing", []],
    ["details that are no list", detail({})],
    ["no details", undefined],
  ])("is not this for %s: 403", async (_what, details) => {
    const access = await accessWith(details);
    let refused: unknown;
    try {
      access.require({ action: "read", resource: "tickets" });
    } catch (error) {
      refused = error;
    }
    expect(refused).toMatchObject({ status: 403, code: "insufficient_scope" });
    expect((refused as AccessRefused).headers["www-authenticate"]).toMatch(/^DPoP error="insufficient_scope", /);
  });
});

describe("nonces", () => {
  test("are asked for where they are on, taken, and renewed in the answer; replicas know each other's", async () => {
    const nonceKey = Buffer.alloc(32, 7);
    const [one, other] = [await another({ nonceKey }), await another({ nonceKey })];
    const token = await broker.mint({ claims: bound() });
    const refused = await refusalOf(await caller.call(token), one);
    expect(refused).toMatchObject({ status: 401, code: "proof_nonce_needed" });
    expect(refused.headers["www-authenticate"]).toMatch(/^DPoP error="use_dpop_nonce", /);
    const nonce = refused.headers["dpop-nonce"];
    const access = await other.verify(await caller.call(token, { claims: { nonce } }));
    expect(access.responseHeaders).toEqual({ "dpop-nonce": expect.any(String) });
    const wrong = await refusalOf(await caller.call(token, { claims: { nonce: "other" } }), one);
    expect(wrong.code).toBe("proof_nonce_needed");
  });
});

describe("replicas", () => {
  test("that share a replay store take a proof once", async () => {
    const seen = new Set<string>();
    const replayStore = { consume: async (hash: string) => seen.size !== seen.add(hash).size };
    const [one, other] = [await another({ replayStore }), await another({ replayStore })];
    const call = await caller.call(await broker.mint({ claims: bound() }));
    await one.verify(call);
    expect((await refusalOf(call, other)).code).toBe("proof_invalid");
  });

  test.each<[string, () => Promise<never>, string]>([
    ["fails", () => Promise.reject(new Error("down")), "replays_unavailable"],
    ["answers something else than true", () => Promise.resolve("OK" as never), "proof_invalid"],
  ])("refuse when their store %s", async (_what, consume, code) => {
    const one = await another({ replayStore: { consume } });
    const refused = await refusalOf(await caller.call(await broker.mint({ claims: bound() })), one);
    expect(refused.code).toBe(code);
    expect(refused.headers["retry-after"]).toBe(code === "replays_unavailable" ? "1" : undefined);
  });
});

describe("a proof", () => {
  test.each(["Ed25519", "EdDSA", "PS256"])("by %s is as good as one by ES256", async (alg) => {
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
    const jwk = await exportJWK(publicKey);
    const { calculateJwkThumbprint } = await import("jose");
    const token = await broker.mint({ claims: { cnf: { jkt: await calculateJwkThumbprint(jwk) } } });
    const dpop = await new SignJWT({
      jti: "j",
      htm: "GET",
      htu: URL_OF_CALL,
      iat: broker.now(),
      ath: createHash("sha256").update(token).digest("base64url"),
    })
      .setProtectedHeader({ alg, typ: "dpop+jwt", jwk })
      .sign(privateKey);
    const headers = { authorization: `DPoP ${token}`, dpop };
    await expect(verifier.verify({ method: "GET", url: URL_OF_CALL, headers })).resolves.toBeDefined();
  });
});

function changed(part: string): string {
  const claims = JSON.parse(Buffer.from(part, "base64url").toString()) as object;
  return Buffer.from(JSON.stringify({ ...claims, sub: "agt_root" })).toString("base64url");
}

function withHeader(text: string, changes: object): string {
  const header = { alg: "ES256", typ: "at+jwt", kid: broker.key.kid, ...changes };
  return text.replace(/^[^.]+/, Buffer.from(JSON.stringify(header)).toString("base64url"));
}
