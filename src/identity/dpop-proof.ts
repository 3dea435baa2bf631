import { hash } from "node:crypto";
import { type CryptoKey, calculateJwkThumbprint, importJWK } from "jose";
import { keepNewest } from "../lib/keep-newest.ts";
import { decodeToken, isName, shortType } from "./decode-token.ts";
import type { Nonces } from "./dpop-nonce.ts";
import { isSignedBy } from "./is-signed-by.ts";
import { judgeJwk, type SignatureAlgorithm } from "./public-jwk.ts";

/** The algorithms of proofs: of each key type the one that everybody has. */
export const proofAlgorithms = ["ES256", "Ed25519", "EdDSA", "PS256"] as const satisfies readonly SignatureAlgorithm[];

/** How old a proof may be, and how far ahead its clock, in seconds. */
const MAX_AGE_SECONDS = 60;
const MAX_AHEAD_SECONDS = 5;

/** What a proof must be for. */
export interface ProvenRequest {
  readonly method: string;
  /** The URI of the request as the caller knows it, never what its headers claim. */
  readonly url: string;
  /** At a protected resource (RFC 9449 §7): the access token's SHA-256 in base64url, and the thumbprint in its `cnf`. */
  readonly token?: { readonly hash: string; readonly thumbprint: string };
}

/**
 * Remembers that a proof was used. `fresh` for the first of all callers who ask about a hash. After `expires_ms`, which is
 * always the same for one proof, no process whose clock is within 5 s of ours takes it.
 */
export type ConsumeProof = (proof: {
  readonly hash: string;
  readonly expires_ms: number;
}) => Promise<{ readonly fresh: boolean }> | { readonly fresh: boolean };

/**
 * `thumbprint` (RFC 7638) is of the key that the caller holds. Problems: `nonce` when the proof needs a (newer) nonce,
 * `other_key` when it is not by the key of the token, else `invalid`. `detail` never repeats a byte of the proof.
 */
export type ProofVerdict =
  | { readonly ok: true; readonly thumbprint: string }
  | { readonly ok: false; readonly problem: "invalid" | "other_key" | "nonce"; readonly detail: string };

/** Checks the proof of one request (RFC 9449 §4.3) and then consumes it. Rejects only when `consume` does. */
export type CheckProof = (proof: string, request: ProvenRequest, consume: ConsumeProof) => Promise<ProofVerdict>;

/** Proofs of possession, checked alike where tokens are given and where they are shown. Without `nonces`, none is asked for. */
export function createProofCheck({ nonces, nowMs }: { nonces?: Nonces; nowMs: () => number }): CheckProof {
  const keys = createProofKeys();
  return async (proof, { method, url, token }, consume) => {
    const decoding = decodeToken(proof, "proof");
    if (!decoding.ok) return invalid(decoding.refusal.detail);
    const { alg, typ, jwk: sent, claims } = decoding.token;
    const { jti, htm, htu, iat, nonce, ath } = claims;
    if (typ === undefined || shortType(typ) !== "dpop+jwt") return invalid("its typ is not dpop+jwt");
    const key = await keys.find(sent, alg);
    if (typeof key === "string") return invalid(key);
    if (!isName(jti, 256)) return invalid("jti is not a text of 1 to 256 characters");
    if (htm !== method) return invalid("htm is not the method of this request");
    const uri = bareUri(url);
    if (typeof htu !== "string" || uri === undefined || bareUri(htu) !== uri)
      return invalid("htu is not the URI of this endpoint");
    const now = nowMs() / 1000;
    if (!Number.isSafeInteger(iat)) return invalid("iat is not a whole number of seconds");
    const age = now - (iat as number);
    if (!(age <= MAX_AGE_SECONDS && age >= -MAX_AHEAD_SECONDS)) return invalid("iat is not now");
    if (token !== undefined && ath !== token.hash) return invalid("ath is not the hash of the access token");
    if (token !== undefined && key.thumbprint !== token.thumbprint)
      return { ok: false, problem: "other_key", detail: "it is not by the key that the token is bound to" };
    if (nonces?.isGood(nonce) === false)
      return { ok: false, problem: "nonce", detail: "the DPoP proof must have the nonce of the DPoP-Nonce header" };
    if (!(await isSignedBy(key.publicKey, proof, decoding.token)))
      return invalid("its signature is not by the key that it carries");
    const { fresh } = await consume({
      // Of the URI as it was compared: with another query it is still the same proof.
      hash: hash("sha256", `${key.thumbprint} ${uri} ${jti}`, "hex"),
      expires_ms: ((iat as number) + MAX_AGE_SECONDS + MAX_AHEAD_SECONDS) * 1000,
    });
    if (!fresh) return invalid("it was sent before: make a new one for every request");
    return { ok: true, thumbprint: key.thumbprint };
  };
}

interface ProofKey {
  readonly publicKey: CryptoKey;
  readonly thumbprint: string;
}

/** Some 1 KB each. */
const MAX_KEYS = 5_000;
const MAX_REMEMBERED_LENGTH = 1_000;

/** The keys that proofs carry, judged and imported, or why one cannot be used. A client proves the same key again and again. */
function createProofKeys(): { find(sent: unknown, alg: string): Promise<ProofKey | string> } {
  const known = new Map<string, ProofKey>();
  return {
    async find(sent, alg) {
      const name = `${alg} ${JSON.stringify(sent)}`;
      const before = known.get(name);
      if (before !== undefined) return before;
      const verdict = judgeJwk(sent, "sig");
      if (verdict.kind !== "usable") return `the key that it carries cannot be used: ${verdict.why}`;
      const { algorithms, key: jwk } = verdict.jwk;
      if (!(proofAlgorithms as readonly string[]).includes(alg) || !(algorithms as readonly string[]).includes(alg))
        return `its alg must be one of ${proofAlgorithms.join(", ")}, and fit its key`;
      const publicKey = (await importJWK({ ...jwk }, alg)) as CryptoKey;
      const key = { publicKey, thumbprint: await calculateJwkThumbprint({ ...jwk }, "sha256") };
      if (name.length > MAX_REMEMBERED_LENGTH) return key;
      keepNewest(known, MAX_KEYS, name, key);
      return key;
    },
  };
}

/** RFC 9449 §4.3: without query and fragment, after normalization. Undefined for what is no URI. */
function bareUri(text: string): string | undefined {
  if (text.length > 2048 || !URL.canParse(text)) return undefined;
  const url = new URL(text);
  url.search = "";
  url.hash = "";
  return url.href;
}

function invalid(detail: string): ProofVerdict {
  return { ok: false, problem: "invalid", detail };
}
