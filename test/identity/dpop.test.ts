import { randomBytes, randomUUID } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from "jose";
import { createProofs, type Proofs } from "../../src/identity/dpop.ts";
import { MayflyError } from "../../src/lib/errors.ts";

const URL_OF_OURS = "https://mayfly.test/oauth/token";
const request = { method: "POST", url: URL_OF_OURS };
const T0 = 1_800_000_000_000;
const nonceKey = randomBytes(32);

const pair = await generateKeyPair("ES256", { extractable: true });
const jwk = await exportJWK(pair.publicKey);
const privateJwk = await exportJWK(pair.privateKey);
const strangersJwk = await exportJWK((await generateKeyPair("ES256")).publicKey);

/** The proofs of one process; what was consumed is shared by all, as it is in Postgres. */
function proofs(options: { nowMs?: () => number; seen?: Set<string>; key?: Uint8Array } = {}): Proofs {
  const seen = options.seen ?? new Set<string>();
  return createProofs({
    nonceKey: options.key ?? nonceKey,
    nowMs: options.nowMs ?? (() => T0),
    async consume(tenantId, { scope, hash }) {
      const name = `${tenantId} ${scope} ${hash}`;
      const fresh = !seen.has(name);
      seen.add(name);
      return { fresh };
    },
  });
}

type Parts = { readonly header?: object; readonly claims?: Readonly<Record<string, unknown>> };

async function proof(by: Proofs, { header = {}, claims = {} }: Parts = {}, key = pair.privateKey): Promise<string> {
  const all = { jti: randomUUID(), htm: "POST", htu: URL_OF_OURS, iat: T0 / 1000, nonce: by.nonce(), ...claims };
  const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
  return new SignJWT(kept).setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk, ...header }).sign(key);
}

const codeOf = (error: unknown): string | undefined =>
  error instanceof MayflyError ? error.reasons[0]?.code : String(error);

describe("a DPoP proof", () => {
  test("names the key that its holder has, by RFC 7638", async () => {
    const ours = proofs();
    expect(await ours.check("t", await proof(ours), request)).toBe(await calculateJwkThumbprint(jwk));
  });

  test("is good in every process, once: the nonce of one, the replay of another", async () => {
    const seen = new Set<string>();
    const [one, other] = [proofs({ seen }), proofs({ seen })];
    const sent = await proof(one);
    await other.check("t", sent, request);
    await expect(one.check("t", sent, request)).rejects.toThrow("it was sent before");
    await expect(one.check("another tenant", sent, request)).resolves.toMatch(/^[\w-]{43}$/);
  });

  test("is the same proof at another spelling of the URI", async () => {
    const ours = proofs();
    const sent = await proof(ours);
    await ours.check("t", sent, request);
    for (const url of [`${URL_OF_OURS}?again`, "https://MAYFLY.test:443/oauth/token"])
      await expect(ours.check("t", sent, { ...request, url })).rejects.toThrow("it was sent before");
  });

  test("is by its own key, whichever keys were seen before", async () => {
    const ours = proofs();
    const other = await generateKeyPair("ES256", { extractable: true });
    const otherJwk = await exportJWK(other.publicKey);
    for (let round = 0; round < 2; round += 1) {
      expect(await ours.check("t", await proof(ours), request)).toBe(await calculateJwkThumbprint(jwk));
      const theirs = proof(ours, { header: { jwk: otherJwk } }, other.privateKey);
      expect(await ours.check("t", await theirs, request)).toBe(await calculateJwkThumbprint(otherJwk));
      const stolen = await proof(ours, { header: { jwk: otherJwk } });
      expect(await ours.check("t", stolen, request).catch(codeOf)).toBe("invalid_dpop_proof");
    }
  });

  test.each<[string, Parts]>([
    ["the query and the fragment", { claims: { htu: `${URL_OF_OURS}?a=1#b` } }],
    ["an upper-case host and the default port", { claims: { htu: "https://MAYFLY.test:443/oauth/token" } }],
    ["an age of a minute", { claims: { iat: T0 / 1000 - 60 } }],
    ["a clock that is 5 s ahead", { claims: { iat: T0 / 1000 + 5 } }],
    ["its type as a media type", { header: { typ: "application/DPoP+JWT" } }],
  ])("may have %s", async (_what, parts) => {
    const ours = proofs();
    await expect(ours.check("t", await proof(ours, parts), request)).resolves.toMatch(/^[\w-]{43}$/);
  });

  test.each<[string, Parts]>([
    ["without a type", { header: { typ: undefined } }],
    ["of another type", { header: { typ: "JWT" } }],
    ["of a client assertion's type", { header: { typ: "client-authentication+jwt" } }],
    ["without a key", { header: { jwk: undefined } }],
    ["with somebody else's key", { header: { jwk: strangersJwk } }],
    ["with a private key", { header: { jwk: privateJwk } }],
    ["with a shared key", { header: { jwk: { kty: "oct", k: "AAAA" } } }],
    ["with a key by reference", { header: { jku: "https://evil.test/keys" } }],
    ["without jti", { claims: { jti: null } }],
    ["with an endless jti", { claims: { jti: "x".repeat(257) } }],
    ["for another method", { claims: { htm: "GET" } }],
    ["for the method in lower case", { claims: { htm: "post" } }],
    ["for another endpoint", { claims: { htu: "https://mayfly.test/oauth/revoke" } }],
    ["for another host", { claims: { htu: "https://evil.test/oauth/token" } }],
    ["for plain HTTP", { claims: { htu: "http://mayfly.test/oauth/token" } }],
    ["for no URI", { claims: { htu: "/oauth/token" } }],
    ["without iat", { claims: { iat: null } }],
    ["with a fraction of a second", { claims: { iat: T0 / 1000 + 0.5 } }],
    ["older than a minute", { claims: { iat: T0 / 1000 - 61 } }],
    ["of the future", { claims: { iat: T0 / 1000 + 6 } }],
  ])("%s is invalid_dpop_proof", async (_what, parts) => {
    const ours = proofs();
    const outcome = await ours.check("t", await proof(ours, parts), request).catch(codeOf);
    expect(outcome).toBe("invalid_dpop_proof");
  });

  test.each([
    ["signed by nobody", (text: string) => text.replace(/[^.]+$/, Buffer.alloc(64).toString("base64url"))],
    [
      "with another payload under its signature",
      (text: string) => text.replace(/\.[^.]+\./, (part) => `.${changed(part.slice(1, -1))}.`),
    ],
    ["that is no JWS", () => "x"],
    ["with alg none", (text: string) => withHeader(text, { alg: "none" })],
    ["with HS256 over the public key", (text: string) => withHeader(text, { alg: "HS256" })],
    ["with a critical extension", (text: string) => withHeader(text, { crit: ["b64"], b64: true })],
  ])("%s is invalid_dpop_proof", async (_what, change) => {
    const ours = proofs();
    expect(await ours.check("t", change(await proof(ours)), request).catch(codeOf)).toBe("invalid_dpop_proof");
  });

  test.each<[string, (ours: Proofs) => unknown]>([
    ["no nonce", () => null],
    ["a nonce of somebody else", () => proofs({ key: randomBytes(32) }).nonce()],
    ["a nonce of three minutes ago", () => proofs({ nowMs: () => T0 - 180_000 }).nonce()],
    ["a nonce that is no text", () => 7],
  ])("with %s is answered with the one to use", async (_what, nonce) => {
    const ours = proofs();
    const error = await ours.check("t", await proof(ours, { claims: { nonce: nonce(ours) } }), request).catch((e) => e);
    expect(codeOf(error)).toBe("use_dpop_nonce");
    expect(error.headers).toEqual({ "dpop-nonce": ours.nonce() });
  });

  test("keeps its nonce for a minute more, and takes that of a process whose clock is ahead", async () => {
    const ours = proofs();
    for (const nowMs of [T0 - 60_000, T0 + 60_000]) {
      const nonce = proofs({ nowMs: () => nowMs }).nonce();
      await expect(ours.check("t", await proof(ours, { claims: { nonce } }), request)).resolves.toMatch(/^[\w-]{43}$/);
    }
  });
});

function changed(part: string): string {
  const claims = JSON.parse(Buffer.from(part, "base64url").toString());
  return Buffer.from(JSON.stringify({ ...claims, extra: true })).toString("base64url");
}

function withHeader(text: string, changes: object): string {
  const header = { alg: "ES256", typ: "dpop+jwt", jwk, ...changes };
  return text.replace(/^[^.]+/, Buffer.from(JSON.stringify(header)).toString("base64url"));
}
