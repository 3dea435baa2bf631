import { createHash, randomUUID } from "node:crypto";
import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";
import type { Call } from "../../src/verify/index.ts";

export const URL_OF_CALL = "https://tickets.test/api/tickets/7";

/** A holder of a key, and what it sends. */
export interface Caller {
  readonly jkt: string;
  readonly jwk: JWK;
  readonly privateKey: CryptoKey;
  proof(token: string, parts?: ProofParts): Promise<string>;
  call(token: string, parts?: ProofParts): Promise<Call>;
}

export type ProofParts = {
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly header?: Readonly<Record<string, unknown>>;
  readonly key?: CryptoKey;
};

export async function aCaller(): Promise<Caller> {
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  const jwk = await exportJWK(publicKey);
  const caller: Caller = {
    jkt: await calculateJwkThumbprint(jwk),
    jwk,
    privateKey,
    async proof(token, { claims = {}, header = {}, key = privateKey } = {}) {
      const all: Record<string, unknown> = {
        jti: randomUUID(),
        htm: "GET",
        htu: URL_OF_CALL,
        iat: Math.floor(Date.now() / 1000),
        ath: createHash("sha256").update(token).digest("base64url"),
        ...claims,
      };
      const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
      return new SignJWT(kept).setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk, ...header }).sign(key);
    },
    async call(token, parts) {
      const headers = { authorization: `DPoP ${token}`, dpop: await caller.proof(token, parts) };
      return { method: "GET", url: URL_OF_CALL, headers };
    },
  };
  return caller;
}
