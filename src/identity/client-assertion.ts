import type { Claims } from "./decode-token.ts";
import type { ClientAssertion } from "./principal.ts";
import { type Refusal, refuse } from "./refusal.ts";
import type { TokenSource } from "./trust-source.ts";

/** RFC 7523 §2.2. */
const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/** A JWT-SVID (draft-ietf-oauth-spiffe-client-auth-02). Its `sub` names the client; `iss` and `jti` may be absent. */
export const JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/** How far ahead a self-issued assertion may end. It is made for one request. */
const MAX_AHEAD_SECONDS = 300;

/** Whether a client made the assertion itself (`private_key_jwt`: its issuer is its subject). Else a workload's issuer did. */
export function isSelfIssued(claims: Claims, source: TokenSource): boolean {
  return source.kind !== "spiffe" && claims.iss === claims.sub;
}

/**
 * What a token must be besides when it is a client assertion (RFC 7521 §5.2, RFC 7523 §3, rfc7523bis). `client_id` is
 * optional and must be the subject; a self-issued one has a `jti` and ends within five minutes. A SPIFFE trust domain's
 * comes under the type of its own, while the operator has the draft on. The audience is checked where every token's is:
 * Mayfly's issuer for the tenant, alone; the token endpoint's URL is not it, though the draft's example shows one.
 */
export function checkAssertion(
  claims: Claims,
  source: TokenSource,
  form: ClientAssertion,
  now: Date,
  draftSpiffe: boolean,
): Refusal | undefined {
  const isSvid = source.kind === "spiffe";
  if ((isSvid || form.type === JWT_SPIFFE) && !draftSpiffe)
    return refuse(
      "client_assertion_type_not_allowed",
      `client_assertion_type must be ${JWT_BEARER}, of a trust source that is not a SPIFFE one: JWT-SVIDs are taken while the operator sets MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02`,
    );
  if (form.type !== (isSvid ? JWT_SPIFFE : JWT_BEARER))
    return refuse(
      "client_assertion_type_not_allowed",
      `client_assertion_type must be ${JWT_SPIFFE} for a JWT-SVID and ${JWT_BEARER} for every other token`,
    );
  if (form.clientId !== undefined && form.clientId !== claims.sub)
    return refuse("client_id_mismatch", "client_id must be the sub of the client assertion, or be left out");
  if (!isSelfIssued(claims, source)) return undefined;
  if (claims.jti === undefined) return refuse("token_claim_missing", "the claim jti is required");
  const { exp } = claims;
  return typeof exp === "number" && exp - now.getTime() / 1000 <= MAX_AHEAD_SECONDS
    ? undefined
    : refuse("token_lifetime_too_long", `exp of a client assertion is at most ${MAX_AHEAD_SECONDS} seconds ahead`);
}
