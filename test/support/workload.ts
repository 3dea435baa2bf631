import { randomUUID } from "node:crypto";
import { exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";

/** An issuer of workload and human tokens that lives in the test: a key pair and a name. */
export interface Workload {
  readonly issuer: string;
  readonly jwks: { readonly keys: readonly JWK[] };
  /** A token for `audience` with these claims on top of iss, iat, exp (50 min) and jti. `null` leaves a claim out. */
  token(audience: string | string[], claims: Readonly<Record<string, unknown>>): Promise<string>;
}

export async function workload(issuer: string): Promise<Workload> {
  const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid: "k1", alg: "ES256", use: "sig" };
  return {
    issuer,
    jwks: { keys: [jwk] },
    token(audience, claims) {
      const now = Math.floor(Date.now() / 1000);
      const all = { iss: issuer, aud: audience, iat: now, exp: now + 3_000, jti: randomUUID(), ...claims };
      const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
      return new SignJWT(kept).setProtectedHeader({ alg: "ES256", kid: "k1" }).sign(privateKey);
    },
  };
}
