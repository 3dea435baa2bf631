import { createPublicKey } from "node:crypto";

/** The signature algorithms that exist here (RFC 7518 §3.1, RFC 8037, RFC 9864). `none` and HMAC cannot be written down. */
export const signatureAlgorithms = [
  "ES256",
  "ES384",
  "ES512",
  "Ed25519",
  "EdDSA",
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
] as const;
export type SignatureAlgorithm = (typeof signatureAlgorithms)[number];

/** The `use` that makes a key one that signs our tokens: `sig` (or none) in a JWK Set, `jwt-svid` in a SPIFFE bundle. */
export type KeyUse = "sig" | "jwt-svid";

/** A public key, field by field: nothing else of the document reaches the crypto library. */
export interface PublicJwk {
  readonly kid: string | undefined;
  /** The algorithms that this key may verify: those of its type and curve, narrowed by its own `alg`. */
  readonly algorithms: readonly SignatureAlgorithm[];
  readonly key: Readonly<Record<string, string>>;
}

/**
 * What a member of `keys` is to us. `ignored`: valid, and for something else (RFC 7517 §5). `refused`: something
 * that nobody should publish or sign with; it is never used, and a pinned set that holds one is refused whole.
 */
export type JwkVerdict =
  | { readonly kind: "usable"; readonly jwk: PublicJwk }
  | { readonly kind: "ignored" | "refused"; readonly why: string };

const MIN_RSA_BITS = 2048;
// A larger modulus only buys a slower verify: about 1 ms at 16,384 bits.
const MAX_RSA_BITS = 8192;
const privateMembers = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/** The members of a JWK that say what it is for. Those of its key type are read by {@link pick}. */
interface Jwk extends Readonly<Record<string, unknown>> {
  readonly kty: string;
  readonly kid?: string;
  readonly use?: string;
  readonly alg?: string;
  readonly key_ops?: readonly string[];
  readonly crv?: string;
}

// No schema library: APIs that verify our tokens import this file, and bring nothing but jose.
function isJwk(candidate: unknown): candidate is Jwk {
  if (typeof candidate !== "object" || candidate === null || Array.isArray(candidate)) return false;
  const { kty, kid, use, alg, key_ops: keyOps, crv } = candidate as Record<string, unknown>;
  return (
    typeof kty === "string" &&
    (kid === undefined || (typeof kid === "string" && kid.length > 0 && kid.length <= 256)) &&
    [use, alg, crv].every((member) => member === undefined || typeof member === "string") &&
    (keyOps === undefined || (Array.isArray(keyOps) && keyOps.every((name) => typeof name === "string")))
  );
}

/** Judges one JWK of a set that is published for `use`. Nothing is imported and nothing is thrown. */
export function judgeJwk(candidate: unknown, use: KeyUse): JwkVerdict {
  if (!isJwk(candidate)) return { kind: "ignored", why: "it is not a JWK" };
  const jwk = candidate;
  // First of all: a set that shows private or shared keys is a leak, whatever the key is for.
  if (jwk.kty === "oct" || privateMembers.some((member) => Object.hasOwn(jwk, member))) {
    return { kind: "refused", why: "it is a private or a shared key" };
  }
  if (use === "jwt-svid" ? jwk.use !== "jwt-svid" : jwk.use !== undefined && jwk.use !== "sig") {
    return { kind: "ignored", why: "its use is another one" };
  }
  if (jwk.key_ops !== undefined && !jwk.key_ops.includes("verify")) {
    return { kind: "ignored", why: "its key_ops do not have verify" };
  }
  // SPIFFE trust domain and bundle §4.2.2: a JWT-SVID authority has a kid.
  if (use === "jwt-svid" && jwk.kid === undefined) return { kind: "ignored", why: "it has no kid" };
  const type = keyType(jwk.kty, jwk.crv);
  if (type === undefined) return { kind: "ignored", why: "its type or curve is unknown" };
  const key = pick(jwk, type.members);
  if (key === undefined) return { kind: "ignored", why: "a member of its key type is missing" };
  const algorithms = type.algorithms.filter((algorithm) => isNamedBy(jwk.alg, algorithm));
  if (algorithms.length === 0) return { kind: "ignored", why: "its alg does not fit its type" };
  const weakness = findWeakness(key);
  if (weakness !== undefined) return { kind: "refused", why: weakness };
  return { kind: "usable", jwk: { kid: jwk.kid, algorithms, key } };
}

interface KeyType {
  readonly members: readonly string[];
  readonly algorithms: readonly SignatureAlgorithm[];
}

/** A key type and curve fix the algorithms, whatever a token's header says (RFC 8725 §3.1). */
function keyType(kty: string, crv: string | undefined): KeyType | undefined {
  const ec = ["kty", "crv", "x", "y"];
  switch (kty === "RSA" ? kty : `${kty} ${crv}`) {
    case "EC P-256":
      return { members: ec, algorithms: ["ES256"] };
    case "EC P-384":
      return { members: ec, algorithms: ["ES384"] };
    case "EC P-521":
      return { members: ec, algorithms: ["ES512"] };
    case "OKP Ed25519":
      return { members: ["kty", "crv", "x"], algorithms: ["Ed25519", "EdDSA"] };
    case "RSA":
      return { members: ["kty", "n", "e"], algorithms: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] };
    default:
      return undefined;
  }
}

/** RFC 9864 §2.2: `Ed25519` is the exact name of what `EdDSA` means for an Ed25519 key. */
function isNamedBy(alg: string | undefined, algorithm: SignatureAlgorithm): boolean {
  if (alg === undefined || alg === algorithm) return true;
  return (alg === "EdDSA" && algorithm === "Ed25519") || (alg === "Ed25519" && algorithm === "EdDSA");
}

function pick(jwk: Readonly<Record<string, unknown>>, members: readonly string[]): Record<string, string> | undefined {
  const picked: Record<string, string> = {};
  for (const member of members) {
    const value = jwk[member];
    if (typeof value !== "string" || !/^[A-Za-z0-9_-]+$/.test(value)) return undefined;
    picked[member] = value;
  }
  return picked;
}

function findWeakness(jwk: Readonly<Record<string, string>>): string | undefined {
  try {
    const { asymmetricKeyDetails } = createPublicKey({ key: { ...jwk }, format: "jwk" });
    const bits = asymmetricKeyDetails?.modulusLength;
    if (bits === undefined) return undefined;
    if (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) return "its RSA modulus is not of 2048 to 8192 bits";
    // FIPS 186-5 §A.1.1. With e = 1 everybody can sign.
    const exponent = asymmetricKeyDetails?.publicExponent ?? 0n;
    return exponent >= 65_537n && exponent % 2n === 1n
      ? undefined
      : "its RSA exponent is not an odd one of at least 65537";
  } catch {
    return "it is not a valid public key";
  }
}
