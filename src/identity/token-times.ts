import type { Claims } from "./decode-token.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { MAX_TOKEN_AGE_SECONDS, type TokenSource } from "./trust-source.ts";

/** How far ahead of ours an issuer's clock may be, in seconds (FAPI 2.0 §5.3.2.1: at least 10, at most 60). */
const MAX_CLOCK_AHEAD_SECONDS = 10;

/**
 * Checks `exp`, `nbf` and `iat` (RFC 7519 §4.1). `exp` is required, gets no leeway, and lies at most a day ahead;
 * `iat` and `nbf` may be {@link MAX_CLOCK_AHEAD_SECONDS} ahead. The age counts from `iat`; a JWT-SVID may lack it,
 * and then must end within the allowed age from now.
 */
export function checkTimes(claims: Claims, source: TokenSource, now: Date): Refusal | undefined {
  const { exp, iat, nbf } = claims;
  const seconds = now.getTime() / 1000;
  // Every comparison below is false for NaN, which would accept. A broken clock accepts nothing.
  if (!Number.isFinite(seconds)) return refuse("token_expired", "the clock of the broker is not readable");
  if (exp === undefined) return refuse("token_claim_missing", "the claim exp is required");
  if (!isTime(exp)) return notATime("exp");
  if (nbf !== undefined && !isTime(nbf)) return notATime("nbf");
  if (iat !== undefined && !isTime(iat)) return notATime("iat");
  if (iat === undefined && source.kind !== "spiffe") return refuse("token_claim_missing", "the claim iat is required");
  if (seconds >= exp) return refuse("token_expired", "the token has expired");
  const latest = seconds + MAX_CLOCK_AHEAD_SECONDS;
  if (iat !== undefined && iat > latest) return refuse("token_not_yet_valid", "iat is in the future");
  if (nbf !== undefined && nbf > latest) return refuse("token_not_yet_valid", "nbf is in the future");
  if ((iat !== undefined && exp <= iat) || (nbf !== undefined && exp <= nbf)) {
    return refuse("token_claim_invalid", "exp is not after iat and nbf");
  }
  // A year-long exp, or one in milliseconds, is an issuer's mistake that would outlive it (reliability D2).
  if (exp > latest + MAX_TOKEN_AGE_SECONDS) {
    return refuse("token_lifetime_too_long", `exp is more than ${MAX_TOKEN_AGE_SECONDS} seconds ahead`);
  }
  const allowed = source.max_token_age_seconds;
  if (iat === undefined) {
    return exp - seconds > allowed
      ? refuse("token_lifetime_too_long", `a token without iat must end within ${allowed} seconds`)
      : undefined;
  }
  return seconds - iat > allowed
    ? refuse("token_too_old", `the token was issued more than ${allowed} seconds ago: get a new one`)
    : undefined;
}

/** RFC 7519 §2 allows fractions. Workload issuers send whole seconds, and D2 of reliability.md shows what the rest hides. */
function isTime(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function notATime(claim: string): Refusal {
  return refuse("token_claim_invalid", `${claim} is not a whole number of seconds since 1970`);
}
