import { randomUUID } from "node:crypto";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from "jose";
import type { Answer, App } from "./app.ts";

/** Somebody with a key of their own, who proves it to the API (RFC 9449). */
export interface Prover {
  readonly thumbprint: string;
  /** A POST with a proof; with the server's nonce, once it has given one. */
  post(token: string | null, path: string, body: unknown, headers?: Record<string, string>): Promise<Answer>;
}

export async function prover(app: App): Promise<Prover> {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = await exportJWK(publicKey);
  let nonce: string | null = null;
  const proof = (path: string): Promise<string> =>
    new SignJWT({
      jti: randomUUID(),
      htm: "POST",
      htu: `${app.broker.publicUrl()}${path}`,
      ...(nonce === null ? {} : { nonce }),
    })
      .setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk })
      .setIssuedAt()
      .sign(privateKey);
  const once = async (...[token, path, body, headers]: Parameters<Prover["post"]>): Promise<Answer> => {
    const answer = await app.call(token, "POST", path, body, { ...headers, dpop: await proof(path) });
    nonce = answer.headers.get("dpop-nonce") ?? nonce;
    return answer;
  };
  return {
    thumbprint: await calculateJwkThumbprint(jwk),
    async post(...call) {
      const answer = await once(...call);
      return answer.status === 400 && answer.text.includes("use_dpop_nonce") ? once(...call) : answer;
    },
  };
}
