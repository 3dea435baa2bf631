import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { type CryptoKey, calculateJwkThumbprint, importJWK } from "jose";
import { MayflyError } from "../lib/errors.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { oauthError } from "../lib/oauth-error.ts";
import { decodeToken, isName } from "./decode-token.ts";
import { judgeJwk, type PublicJwk, type SignatureAlgorithm } from "./public-jwk.ts";
import { shortType } from "./token-kind.ts";
import { isSignedBy } from "./verify-token.ts";

/** The algorithms of proofs: of each key type the one that everybody has. */
export const proofAlgorithms = ["ES256", "Ed25519", "EdDSA", "PS256"] as const satisfies readonly SignatureAlgorithm[];

/** How old a proof may be, and how far ahead its clock, in seconds. */
const MAX_AGE_SECONDS = 60;
const MAX_AHEAD_SECONDS = 5;
/** A nonce is good in the bucket that it was made in and in the next one. */
const NONCE_SECONDS = 60;

/** Proofs of possession (RFC 9449), checked alike by every process that shares the key encryption key and the database. */
export interface Proofs {
  /**
   * Checks the proof of one request to `url`, which is ours as the caller knows it, and consumes it. Gives the RFC 7638
   * thumbprint of the key that the caller holds. Throws `invalid_dpop_proof`, saying what is wrong, and `use_dpop_nonce`
   * with the nonce to use; never repeats a byte of the proof.
   */
  check(tenantId: string, proof: string, request: { readonly method: string; readonly url: string }): Promise<string>;
  /** The nonce for the caller's next proof (RFC 9449 §8). */
  nonce(): string;
}

export interface ProofsDeps {
  readonly nonceKey: Uint8Array;
  readonly consume: (
    tenantId: string,
    item: { readonly scope: string; readonly hash: string; readonly expires_ms: number },
  ) => Promise<{ readonly fresh: boolean }>;
  readonly nowMs: () => number;
}

export function createProofs({ nonceKey, consume, nowMs }: ProofsDeps): Proofs {
  const nonceOf = (bucket: number): string => createHmac("sha256", nonceKey).update(`${bucket}`).digest("base64url");
  let made = { bucket: Number.NaN, good: [""] };
  /** The present nonce, and then the one before it and, for processes whose clock is ahead of ours, the next. */
  const goodNonces = (): readonly string[] => {
    const bucket = Math.floor(nowMs() / 1000 / NONCE_SECONDS);
    if (made.bucket !== bucket) made = { bucket, good: [bucket, bucket - 1, bucket + 1].map(nonceOf) };
    return made.good;
  };
  const presentNonce = (): string => goodNonces()[0] ?? "";
  const keys = createProofKeys();
  return {
    nonce: presentNonce,
    async check(tenantId, proof, { method, url }) {
      const decoding = decodeToken(proof, "proof");
      if (!decoding.ok) throw wrong(decoding.refusal.detail);
      const { alg, typ, jwk: sent, claims } = decoding.token;
      const { jti, htm, htu, iat, nonce } = claims;
      if (typ === undefined || shortType(typ) !== "dpop+jwt") throw wrong("its typ is not dpop+jwt");
      const key = await keys.find(sent, alg);
      if (!isName(jti, 256)) throw wrong("jti is not a text of 1 to 256 characters");
      if (htm !== method) throw wrong("htm is not the method of this request");
      if (!isSameUri(htu, url)) throw wrong("htu is not the URI of this endpoint");
      const now = nowMs() / 1000;
      if (!Number.isSafeInteger(iat)) throw wrong("iat is not a whole number of seconds");
      const age = now - (iat as number);
      if (!(age <= MAX_AGE_SECONDS && age >= -MAX_AHEAD_SECONDS)) throw wrong("iat is not now");
      if (typeof nonce !== "string" || !goodNonces().some((good) => isEqual(nonce, good)))
        throw nonceNeeded(presentNonce());
      if (!(await isSignedBy(key.publicKey, proof, decoding.token)))
        throw wrong("its signature is not by the key that it carries");
      const { thumbprint } = key;
      const { fresh } = await consume(tenantId, {
        scope: "dpop",
        hash: createHash("sha256").update(`${thumbprint} ${url} ${jti}`).digest("hex"),
        expires_ms: nowMs() + 2 * (MAX_AGE_SECONDS + MAX_AHEAD_SECONDS) * 1000,
      });
      if (!fresh) throw wrong("it was sent before: make a new one for every request");
      return thumbprint;
    },
  };
}

interface ProofKey {
  readonly publicKey: CryptoKey;
  readonly thumbprint: string;
}

/** Some 1 KB each. */
const MAX_KEYS = 5_000;
const MAX_REMEMBERED_LENGTH = 1_000;

/** The keys that proofs carry, judged and imported. A client proves the same key again and again. */
function createProofKeys(): { find(sent: unknown, alg: string): Promise<ProofKey> } {
  const known = new Map<string, ProofKey>();
  return {
    async find(sent, alg) {
      const name = `${alg} ${JSON.stringify(sent)}`;
      const before = known.get(name);
      if (before !== undefined) return before;
      const { key: jwk } = publicKeyOf(sent, alg);
      const publicKey = (await importJWK({ ...jwk }, alg)) as CryptoKey;
      const key = { publicKey, thumbprint: await calculateJwkThumbprint({ ...jwk }, "sha256") };
      if (name.length > MAX_REMEMBERED_LENGTH) return key;
      keepNewest(known, MAX_KEYS, name, key);
      return key;
    },
  };
}

function publicKeyOf(sent: unknown, alg: string): PublicJwk {
  const verdict = judgeJwk(sent, "sig");
  if (verdict.kind !== "usable") throw wrong(`the key that it carries cannot be used: ${verdict.why}`);
  const known = (proofAlgorithms as readonly string[]).includes(alg);
  if (!known || !(verdict.jwk.algorithms as readonly string[]).includes(alg))
    throw wrong(`its alg must be one of ${proofAlgorithms.join(", ")}, and fit its key`);
  return verdict.jwk;
}

/** RFC 9449 §4.3: without query and fragment, after normalization. */
function isSameUri(sent: unknown, ours: string): boolean {
  if (typeof sent !== "string" || sent.length > 2048 || !URL.canParse(sent)) return false;
  const url = new URL(sent);
  url.search = "";
  url.hash = "";
  return url.href === new URL(ours).href;
}

function isEqual(sent: string, ours: string): boolean {
  const [a, b] = [Buffer.from(sent), Buffer.from(ours)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function nonceNeeded(nonce: string): Error {
  const detail = "the DPoP proof must have the nonce of the DPoP-Nonce header";
  const reasons = [{ code: "use_dpop_nonce", detail }];
  return new MayflyError("invalid_request", detail, { reasons, headers: { "dpop-nonce": nonce } });
}

function wrong(detail: string): Error {
  return oauthError("invalid_dpop_proof", `the DPoP proof is not valid: ${detail}`);
}
