import type { CryptoKey } from "jose";
import { claimAt, meetsCondition } from "./claim-conditions.ts";
import { checkAssertion, isSelfIssued } from "./client-assertion.ts";
import { type Claims, type DecodedToken, decodeToken, isName } from "./decode-token.ts";
import { isSignedBy } from "./is-signed-by.ts";
import type { FindKeys } from "./key-set.ts";
import type { ClientAssertion } from "./principal.ts";
import type { SignatureAlgorithm } from "./public-jwk.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { parseSpiffeId } from "./spiffe-id.ts";
import { checkKind } from "./token-kind.ts";
import { checkTimes } from "./token-times.ts";
import type { TokenSource } from "./trust-source.ts";

/** What {@link peekToken} says about a token. UNVERIFIED: good for choosing a tenant and a trust source, nothing else. */
export interface PeekedToken {
  readonly aud: string;
  readonly iss: string | undefined;
  readonly sub: string | undefined;
  readonly alg: string;
  readonly kid: string | undefined;
  readonly typ: string | undefined;
  /** The `issuer` of the trust sources that may answer for it, best first: its `iss`, then the trust domain of its `sub`. */
  readonly issuers: readonly string[];
}

export type Peek =
  | { readonly ok: true; readonly token: PeekedToken }
  | { readonly ok: false; readonly refusal: Refusal };

/** How the token is bound to its holder. Unless `bearer`, it is worth nothing until the caller has proven possession. */
export type Confirmation =
  | { readonly kind: "bearer" }
  | { readonly kind: "dpop"; readonly jkt: string }
  | { readonly kind: "mtls"; readonly x5tS256: string };

/** A token that its trust source vouches for. Who it is, the registry's identities and role mappings say. */
export interface VerifiedToken {
  /** The trust source's issuer, never the token's own words. */
  readonly issuer: string;
  readonly subject: string;
  readonly claims: Claims;
  readonly issuedAt: Date | undefined;
  readonly expiresAt: Date;
  readonly confirmation: Confirmation;
  /**
   * Present exactly when the source is `single_use` or the token is a self-issued client assertion: the caller must
   * consume (source, `jti`) once, before it acts on the token, and remember it until `keepUntil`. The text of a token is no replay key: a signature has two spellings.
   */
  readonly singleUse: { readonly jti: string; readonly keepUntil: Date } | undefined;
  /**
   * The `jti` of a self-issued token that may be used again, as a token: the caller must refuse it if it was consumed. Else
   * a client assertion, whose `jti` works once at any endpoint, could still be sent as a token by whoever saw it.
   */
  readonly unspent: string | undefined;
  /** The key that signed it. A set that no longer has this very key no longer vouches for the token. */
  readonly key: CryptoKey;
}

export type Verification =
  | { readonly ok: true; readonly token: VerifiedToken }
  | { readonly ok: false; readonly refusal: Refusal };

export interface VerifyOptions {
  /** The one audience that counts: the tenant's issuer string. */
  readonly audience: string;
  readonly keys: FindKeys;
  /** The broker's clock. */
  readonly now: Date;
  /** Present when the token came as a client assertion: then it must be one. */
  readonly assertion?: ClientAssertion | undefined;
  /** Whether a JWT-SVID may be a client assertion. Absence means no. */
  readonly draftSpiffeClientAuth?: boolean;
}

// A signature is tried with so few keys only, so that a token without kid is not a way to make us work.
const MAX_TRIES = 4;
// A consumed jti outlives its token by this much, so that no clock difference between processes reopens it.
const REPLAY_MARGIN_SECONDS = 60;

/**
 * Reads what routes a token to its tenant and trust source, before any key or network is touched. A token with a
 * malformed or ambiguous audience, issuer or subject is refused here.
 */
export function peekToken(token: string): Peek {
  const decoding = decodeToken(token);
  if (!decoding.ok) return decoding;
  const { claims, alg, kid, typ } = decoding.token;
  const aud = audienceOf(claims);
  if (typeof aud !== "string") return { ok: false, refusal: aud };
  for (const name of ["iss", "sub"]) {
    if (claims[name] !== undefined && !isName(claims[name], 2048)) return { ok: false, refusal: notAName(name) };
  }
  const { iss, sub } = claims as { readonly iss?: string; readonly sub?: string };
  const spiffeId = sub === undefined ? undefined : parseSpiffeId(sub);
  const issuers = [iss, spiffeId && `spiffe://${spiffeId.trustDomain}`].filter((issuer) => issuer !== undefined);
  return { ok: true, token: { aud, iss, sub, alg, kid, typ, issuers } };
}

/**
 * Verifies a token against one trust source (RFC 8725, RFC 7519 §7.2, JWT-SVID §5): it was made by this issuer, for
 * this audience alone, is of no other kind, is fresh, is signed by a key of the source with an algorithm of its
 * list, and meets the source's conditions. Everything else is a refusal, never an exception. What the token says
 * about time, issuer and audience is checked before a key is asked for, what the source demands only afterwards:
 * forged tokens neither cause fetches nor learn the conditions.
 */
export async function verifyToken(token: string, source: TokenSource, options: VerifyOptions): Promise<Verification> {
  const decoding = decodeToken(token);
  if (!decoding.ok) return decoding;
  const decoded = decoding.token;
  const early =
    checkAlgorithm(decoded, source) ??
    checkKind(decoded, source, options.assertion === undefined ? "token" : "client assertion") ??
    checkIssuer(decoded.claims, source) ??
    checkAudience(decoded.claims, options.audience) ??
    checkTimes(decoded.claims, source, options.now) ??
    (options.assertion &&
      checkAssertion(decoded.claims, source, options.assertion, options.now, options.draftSpiffeClientAuth === true));
  if (early !== undefined) return { ok: false, refusal: early };
  const key = await signingKey(token, decoded, options.keys);
  if ("code" in key) return { ok: false, refusal: key };
  const late = checkDemands(decoded.claims, source);
  if (late !== undefined) return { ok: false, refusal: late };
  const confirmation = confirmationOf(decoded.claims, source);
  if ("code" in confirmation) return { ok: false, refusal: confirmation };
  const selfIssued = isSelfIssued(decoded.claims, source);
  const singleUse = source.single_use || (options.assertion !== undefined && selfIssued);
  return { ok: true, token: { ...toVerifiedToken(decoded.claims, source, confirmation, singleUse, selfIssued), key } };
}

function checkAlgorithm(token: DecodedToken, source: TokenSource): Refusal | undefined {
  if (!(source.algorithms as readonly string[]).includes(token.alg)) {
    return refuse("token_alg_not_allowed", `the trust source accepts ${source.algorithms.join(", ")} and nothing else`);
  }
  // JWT-SVID §2.3: no header members but these.
  const extra = source.kind === "spiffe" && token.headerNames.some((name) => !["alg", "kid", "typ"].includes(name));
  return extra
    ? refuse("token_header_not_allowed", "a JWT-SVID has no header members but alg, kid and typ")
    : undefined;
}

function checkIssuer(claims: Claims, source: TokenSource): Refusal | undefined {
  const { iss, sub } = claims;
  if (sub === undefined) return missing("sub");
  if (!isName(sub, 2048)) return notAName("sub");
  if (source.kind === "spiffe") {
    // JWT-SVID §3: the subject alone says which trust domain's keys apply; iss has no meaning.
    const id = parseSpiffeId(sub);
    if (id === undefined || id.path === "") {
      return refuse("token_claim_invalid", "sub is not the canonical SPIFFE ID of a workload");
    }
    return `spiffe://${id.trustDomain}` === source.issuer ? undefined : unknownIssuer();
  }
  if (iss === undefined) return missing("iss");
  return iss === source.issuer ? undefined : unknownIssuer();
}

function checkAudience(claims: Claims, audience: string): Refusal | undefined {
  const aud = audienceOf(claims);
  if (typeof aud !== "string") return aud;
  return aud === audience
    ? undefined
    : refuse("token_audience_mismatch", `aud must be ${audience}, byte for byte, and nothing else`);
}

/** The one audience. Several are refused even if ours is among them: the others could replay it here (rfc7523bis). */
function audienceOf(claims: Claims): string | Refusal {
  const { aud } = claims;
  if (aud === undefined) return missing("aud");
  if (Array.isArray(aud) && aud.length > 1) {
    return refuse("token_audience_multiple", "the token must be for Mayfly alone: aud has more than one value");
  }
  const only: unknown = Array.isArray(aud) ? aud[0] : aud;
  return isName(only, 2048)
    ? only
    : refuse("token_claim_invalid", "aud must be a string or an array of exactly one string");
}

async function signingKey(token: string, decoded: DecodedToken, findKeys: FindKeys): Promise<CryptoKey | Refusal> {
  // checkAlgorithm has compared it with the source's list.
  const answer = await findKeys(decoded.kid, decoded.alg as SignatureAlgorithm);
  if ("refusal" in answer) return answer.refusal;
  if (answer.keys.length > MAX_TRIES) {
    return refuse(
      "token_key_unknown",
      "the token does not say which of the trust source's keys signed it: send a unique kid",
    );
  }
  for (const key of answer.keys) if (await isSignedBy(key, token, decoded)) return key;
  return refuse("token_signature_invalid", "the signature is not by a key of the trust source");
}

function checkDemands(claims: Claims, source: TokenSource): Refusal | undefined {
  const absent = source.required_claims.find((name) => (claimAt(claims, name) ?? undefined) === undefined);
  if (absent !== undefined) return missing(absent);
  if (claims.jti !== undefined && !isName(claims.jti, 256)) {
    return refuse("token_claim_invalid", "jti is not a text of 1 to 256 characters");
  }
  if (source.single_use && claims.jti === undefined) return missing("jti");
  const unmet = source.conditions.find((condition) => !meetsCondition(condition, claims));
  return unmet === undefined
    ? undefined
    : refuse("token_conditions_not_met", `the trust source demands another value of the claim ${unmet.claim}`);
}

function confirmationOf(claims: Claims, source: TokenSource): Confirmation | Refusal {
  if (source.binding === "bearer") {
    // RFC 7800 §3.1: a token with cnf is for its key's holder. To take it without a proof would be a downgrade.
    return claims.cnf === undefined
      ? { kind: "bearer" }
      : refuse("token_binding_mismatch", "the token is bound to a key (cnf) and the trust source is declared bearer");
  }
  const member = source.binding === "dpop" ? "jkt" : "x5t#S256";
  const thumbprint = claimAt(claims, `/cnf/${member}`);
  if (typeof thumbprint !== "string" || !/^[A-Za-z0-9_-]{43}$/.test(thumbprint)) {
    return refuse(
      "token_binding_mismatch",
      `the trust source demands tokens with a SHA-256 thumbprint in cnf.${member}`,
    );
  }
  return source.binding === "dpop" ? { kind: "dpop", jkt: thumbprint } : { kind: "mtls", x5tS256: thumbprint };
}

function toVerifiedToken(
  claims: Claims,
  source: TokenSource,
  confirmation: Confirmation,
  singleUse: boolean,
  selfIssued: boolean,
): Omit<VerifiedToken, "key"> {
  const { sub, exp, iat, jti } = claims as {
    readonly sub: string;
    readonly exp: number;
    readonly iat?: number;
    readonly jti?: string;
  };
  return {
    issuer: source.issuer,
    subject: sub,
    claims,
    issuedAt: iat === undefined ? undefined : new Date(iat * 1000),
    expiresAt: new Date(exp * 1000),
    confirmation,
    singleUse:
      singleUse && jti !== undefined ? { jti, keepUntil: new Date((exp + REPLAY_MARGIN_SECONDS) * 1000) } : undefined,
    unspent: selfIssued && !singleUse ? jti : undefined,
  };
}

function missing(claim: string): Refusal {
  return refuse("token_claim_missing", `the claim ${claim} is required`);
}

function notAName(claim: string): Refusal {
  return refuse("token_claim_invalid", `${claim} is not a text of 1 to 2048 characters without control characters`);
}

function unknownIssuer(): Refusal {
  return refuse("token_issuer_unknown", "the token is not of this trust source's issuer, byte for byte");
}
