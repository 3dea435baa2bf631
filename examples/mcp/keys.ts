import { randomUUID } from "node:crypto";
import { exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";

/** Somebody with a key pair, known to Mayfly by the public half: an agent, a tool, a company's identity provider. */
export interface Party {
  readonly clientId: string;
  readonly publicKey: JWK;
  readonly privateKey: JWK;
  /** A token of one minute for this audience; each is used once. `subject` is the party itself unless it says otherwise. */
  token(audience: string, subject?: string): Promise<string>;
}

export async function party(clientId: string): Promise<Party> {
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  return {
    clientId,
    publicKey: { ...(await exportJWK(publicKey)), kid: `${clientId}-1`, alg: "ES256", use: "sig" },
    privateKey: await exportJWK(privateKey),
    token: (audience, subject = clientId) =>
      new SignJWT({ jti: randomUUID() })
        .setProtectedHeader({ alg: "ES256", kid: `${clientId}-1` })
        .setIssuer(clientId)
        .setSubject(subject)
        .setAudience(audience)
        .setIssuedAt()
        .setExpirationTime("1m")
        .sign(privateKey),
  };
}
