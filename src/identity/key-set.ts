import { type CryptoKey, importJWK } from "jose";
import { judgeJwk, type KeyUse, type PublicJwk, type SignatureAlgorithm } from "./public-jwk.ts";
import { type Refusal, refuse } from "./refusal.ts";

/** The most keys that one set may publish for our use. */
export const MAX_KEYS = 20;

/** The keys of one trust source, imported once and bound to their algorithms. */
export interface KeySet {
  readonly keys: readonly VerificationKey[];
  /** SPIFFE: the version of the bundle. Absent when the bundle does not say. */
  readonly sequence?: number;
  /** SPIFFE: after how many seconds the publisher wants it read again. */
  readonly refreshHintSeconds?: number;
  /** Why keys of the document were left out, for operators. No key material. */
  readonly leftOut: readonly string[];
}

/** One public key. A CryptoKey is bound to one algorithm, so there is one per algorithm that the source allows. */
export interface VerificationKey {
  readonly kid: string | undefined;
  readonly byAlgorithm: ReadonlyMap<SignatureAlgorithm, CryptoKey>;
}

/** The keys that could have made a signature: by `kid`, or all that fit when the token names none. */
export type KeyAnswer = { readonly keys: readonly CryptoKey[] } | { readonly refusal: Refusal };

/** Asks a trust source for keys. It never fetches anything while it holds a usable set. */
export type FindKeys = (kid: string | undefined, algorithm: SignatureAlgorithm) => KeyAnswer | Promise<KeyAnswer>;

/** A key document that is not acceptable as a whole. `message` is for operators and quotes nothing of it. */
export class KeySetError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "KeySetError";
  }
}

/**
 * Imports a JWK Set or SPIFFE bundle. Keys for other purposes, weak keys and leaked private keys are left out and
 * named in `leftOut`; an empty set is a valid one that verifies nothing. Throws {@link KeySetError} when it is not a
 * key set or holds more than {@link MAX_KEYS} keys.
 *
 * `elsewhere` is asked first about each member: true when it is something else that its caller has a use for, or why it
 * would be that and cannot be used.
 */
export async function importKeySet(
  document: unknown,
  use: KeyUse,
  algorithms: readonly SignatureAlgorithm[],
  elsewhere?: (candidate: unknown) => boolean | string,
): Promise<KeySet> {
  const leftOut: string[] = [];
  const usable: PublicJwk[] = [];
  for (const [index, candidate] of keysOf(document).entries()) {
    const other = elsewhere?.(candidate) ?? false;
    if (typeof other === "string") leftOut.push(`key ${index}: ${other}`);
    if (other !== false) continue;
    const verdict = judgeJwk(candidate, use);
    if (verdict.kind === "usable") usable.push(verdict.jwk);
    else leftOut.push(`key ${index}: ${verdict.why}`);
  }
  if (usable.length > MAX_KEYS) throw new KeySetError(`the key set has more than ${MAX_KEYS} keys`);
  const keys = await Promise.all(usable.map((jwk) => importKey(jwk, algorithms)));
  return { keys, leftOut, ...(use === "jwt-svid" ? bundleFacts(document) : {}) };
}

/** The keys of a set for one signature. Equal `kid`s are all answered: a publisher may rotate within one name. */
export function findIn(set: KeySet, kid: string | undefined, algorithm: SignatureAlgorithm): readonly CryptoKey[] {
  return set.keys.flatMap((key) => {
    const cryptoKey = kid === undefined || key.kid === kid ? key.byAlgorithm.get(algorithm) : undefined;
    return cryptoKey === undefined ? [] : [cryptoKey];
  });
}

/** The finder of a set that never changes. */
export function pinned(set: KeySet): FindKeys {
  return (kid, algorithm) => {
    const keys = findIn(set, kid, algorithm);
    return keys.length > 0 ? { keys } : { refusal: unknownKey() };
  };
}

/** The one answer for a key that nobody knows; it does not say which keys there are. */
export function unknownKey(): Refusal {
  return refuse(
    "token_key_unknown",
    "no key of the trust source has this kid and algorithm; after a rotation its keys are read again within a minute",
  );
}

async function importKey(jwk: PublicJwk, algorithms: readonly SignatureAlgorithm[]): Promise<VerificationKey> {
  const byAlgorithm = new Map<SignatureAlgorithm, CryptoKey>();
  for (const algorithm of jwk.algorithms.filter((name) => algorithms.includes(name))) {
    const key = await importJWK({ kty: "", ...jwk.key }, algorithm);
    // Bytes would make jose read them as an HMAC secret (reliability D5). No public JWK imports to bytes; be sure.
    if (key instanceof Uint8Array || key.type !== "public")
      throw new KeySetError("a key of the set is not a public key");
    byAlgorithm.set(algorithm, key);
  }
  return { kid: jwk.kid, byAlgorithm };
}

function keysOf(document: unknown): readonly unknown[] {
  if (typeof document !== "object" || document === null || !("keys" in document) || !Array.isArray(document.keys)) {
    throw new KeySetError("the document has no keys array");
  }
  return document.keys;
}

function bundleFacts(document: unknown): { readonly sequence?: number; readonly refreshHintSeconds?: number } {
  const { spiffe_sequence: sequence, spiffe_refresh_hint: hint } = document as Record<string, unknown>;
  // Beyond 2^53 two sequences could look alike, so "not backwards" could not be kept.
  if (sequence !== undefined && !(Number.isSafeInteger(sequence) && (sequence as number) >= 0)) {
    throw new KeySetError("spiffe_sequence is not an integer between 0 and 2^53");
  }
  return {
    ...(sequence === undefined ? {} : { sequence: sequence as number }),
    ...(typeof hint === "number" && hint > 0 ? { refreshHintSeconds: hint } : {}),
  };
}
