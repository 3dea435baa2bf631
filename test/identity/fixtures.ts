import {
  constants,
  createHmac,
  createPrivateKey,
  generateKeyPairSync,
  type JsonWebKey,
  type KeyObject,
  sign,
} from "node:crypto";
import type { FindKeys } from "../../src/identity/key-set.ts";
import { importKeySet, pinned } from "../../src/identity/key-set.ts";
import { signatureAlgorithms } from "../../src/identity/public-jwk.ts";
import { type TokenSource, tokenSourceSchema } from "../../src/identity/trust-source.ts";

export const issuer = "https://issuer.example";
export const audience = "https://mayfly.example/t/acme";
export const now = new Date("2026-08-01T12:00:00Z");
export const nowSeconds = now.getTime() / 1000;

/** One key pair with its public JWK. */
export interface TestKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  readonly jwk: JsonWebKey & Record<string, unknown>;
}

function testKey(kid: string, pair: { privateKey: KeyObject; publicKey: KeyObject }): TestKey {
  return { kid, ...pair, jwk: { ...pair.publicKey.export({ format: "jwk" }), kid } };
}

export const keys = {
  p256: testKey("p256", generateKeyPairSync("ec", { namedCurve: "P-256" })),
  otherP256: testKey("other", generateKeyPairSync("ec", { namedCurve: "P-256" })),
  p384: testKey("p384", generateKeyPairSync("ec", { namedCurve: "P-384" })),
  p521: testKey("p521", generateKeyPairSync("ec", { namedCurve: "P-521" })),
  ed25519: testKey("ed25519", generateKeyPairSync("ed25519")),
  rsa: testKey("rsa", generateKeyPairSync("rsa", { modulusLength: 2048 })),
  /** Publishes that it is for PS256 alone. */
  ps256: withAlg(testKey("ps256", generateKeyPairSync("rsa", { modulusLength: 2048 })), "PS256"),
};

function withAlg(key: TestKey, alg: string): TestKey {
  return { ...key, jwk: { ...key.jwk, alg } };
}

export const jwks = {
  keys: [keys.p256, keys.p384, keys.p521, keys.ed25519, keys.rsa, keys.ps256].map(({ jwk }) => jwk),
};

/** Signs exactly these bytes, with node:crypto alone: independent of the library under test. */
export function signText(alg: string, privateKey: KeyObject, text: string): Buffer {
  const data = Buffer.from(text);
  const hash = `sha${alg.slice(-3)}`;
  switch (alg.slice(0, 2)) {
    case "ES":
      return sign(hash, data, { key: privateKey, dsaEncoding: "ieee-p1363" });
    case "RS":
      return sign(hash, data, { key: privateKey, padding: constants.RSA_PKCS1_PADDING });
    case "PS":
      return sign(hash, data, {
        key: privateKey,
        padding: constants.RSA_PKCS1_PSS_PADDING,
        saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
      });
    default:
      return sign(null, data, privateKey);
  }
}

export function b64(text: string | Buffer): string {
  return Buffer.from(text).toString("base64url");
}

export function hmacToken(header: object, payload: object, secret: string | Buffer): string {
  const input = `${b64(JSON.stringify(header))}.${b64(JSON.stringify(payload))}`;
  const { alg = "HS256" } = header as { alg?: string };
  return `${input}.${b64(
    createHmac(`sha${alg.slice(-3)}`, secret)
      .update(input)
      .digest(),
  )}`;
}

/** A token of exactly these JSON texts, correctly signed. */
export function rawToken(
  headerText: string | Buffer,
  payloadText: string | Buffer,
  key = keys.p256,
  alg = "ES256",
): string {
  const input = `${b64(headerText)}.${b64(payloadText)}`;
  return `${input}.${b64(signText(alg, key.privateKey, input))}`;
}

/** The claims of a good token. Members of `changes` that are undefined are left out. */
export function goodClaims(changes: object = {}): Record<string, unknown> {
  return {
    iss: issuer,
    sub: "system:serviceaccount:agents:researcher",
    aud: audience,
    iat: nowSeconds - 30,
    nbf: nowSeconds - 30,
    exp: nowSeconds + 270,
    jti: "5f0c9e6e-1",
    ...changes,
  };
}

/** A correctly signed token, good but for the changes. */
export function token(claims: object = {}, header: object = {}, key = keys.p256, alg = "ES256"): string {
  return rawToken(
    JSON.stringify({ alg, kid: key.kid, typ: "JWT", ...header }),
    JSON.stringify(goodClaims(claims)),
    key,
    alg,
  );
}

/** A pinned source that takes every algorithm, so that a refusal is never for want of a longer list. */
export function keySetSource(changes: object = {}): TokenSource {
  return tokenSourceSchema.parse({
    kind: "key_set",
    issuer,
    jwks,
    algorithms: [...signatureAlgorithms],
    single_use: false,
    ...changes,
  });
}

export async function finderOf(source: TokenSource): Promise<FindKeys> {
  const document = source.kind === "key_set" ? source.jwks : source.kind === "spiffe" ? source.bundle : { keys: [] };
  return pinned(await importKeySet(document, source.kind === "spiffe" ? "jwt-svid" : "sig", source.algorithms));
}

export const trustDomain = "spiffe://acme.example";

export function bundle(...members: TestKey[]): { keys: object[]; spiffe_sequence: number } {
  return { keys: members.map(({ jwk }) => ({ ...jwk, use: "jwt-svid" })), spiffe_sequence: 1 };
}

export function spiffeSource(changes: object = {}): TokenSource {
  return tokenSourceSchema.parse({
    kind: "spiffe",
    issuer: trustDomain,
    bundle: bundle(keys.p256, keys.rsa),
    ...changes,
  });
}

/** A JWT-SVID as SPIRE makes them. */
export function svid(claims: object = {}, header: object = {}, key = keys.p256, alg = "ES256"): string {
  return token(
    { iss: undefined, jti: undefined, nbf: undefined, sub: `${trustDomain}/agent/a1`, ...claims },
    header,
    key,
    alg,
  );
}

/** The same ECDSA P-256 signature in its other spelling: (r, n - s). */
export function otherSpelling(compact: string): string {
  const order = BigInt("0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
  const dot = compact.lastIndexOf(".") + 1;
  const signature = Buffer.from(compact.slice(dot), "base64url");
  const s = order - BigInt(`0x${signature.subarray(32).toString("hex")}`);
  return (
    compact.slice(0, dot) +
    b64(Buffer.concat([signature.subarray(0, 32), Buffer.from(s.toString(16).padStart(64, "0"), "hex")]))
  );
}

export function privateJwk(key: TestKey): JsonWebKey {
  return createPrivateKey(key.privateKey.export({ type: "pkcs8", format: "pem" })).export({ format: "jwk" });
}
