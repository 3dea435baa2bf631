import { randomUUID } from "node:crypto";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from "jose";
import type { Answer } from "./script.ts";

/** An agent runtime with a key of its own. */
export interface Holder {
  readonly thumbprint: string;
  /** The same POST with a proof of the key (RFC 9449), again with the nonce that the server asks for. */
  post(path: string, body: unknown): Promise<Answer>;
}

/** Speaks to the API as the agent whose token this is, and proves a key that was made now. */
export async function holder(api: string, token: string): Promise<Holder> {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = await exportJWK(publicKey);
  let nonce: string | undefined;
  const once = async (path: string, body: unknown): Promise<Answer> => {
    const dpop = await new SignJWT({ jti: randomUUID(), htm: "POST", htu: `${api}${path}`, nonce })
      .setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk })
      .setIssuedAt()
      .sign(privateKey);
    const response = await fetch(`${api}${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", dpop },
      body: JSON.stringify(body),
    });
    nonce = response.headers.get("dpop-nonce") ?? nonce;
    return { status: response.status, body: await response.json() };
  };
  return {
    thumbprint: await calculateJwkThumbprint(jwk),
    async post(path, body) {
      const answer = await once(path, body);
      return answer.body?.reasons?.[0]?.code === "use_dpop_nonce" ? once(path, body) : answer;
    },
  };
}
