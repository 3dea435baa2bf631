import type { Claims } from "./claim-conditions.ts";
import type { ClientAssertion } from "./principal.ts";
import { type Refusal, refuse } from "./refusal.ts";
import type { TrustSource } from "./trust-source.ts";

/** RFC 7523 §2.2. The type for a JWT-SVID is in a draft, and is not offered yet. */
const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/** How far ahead a self-issued assertion may end. It is made for one request. */
const MAX_AHEAD_SECONDS = 300;

/** Whether a client made the assertion itself (`private_key_jwt`: its issuer is its subject). Else a workload's issuer did. */
export function isSelfIssued(claims: Claims, source: TrustSource): boolean {
  return source.kind !== "spiffe" && claims.iss === claims.sub;
}

/**
 * What a token must be besides when it is a client assertion (RFC 7521 §5.2, RFC 7523 §3, rfc7523bis). `client_id` is
 * optional and must be the subject; a self-issued one has a `jti` and ends within five minutes. The audience is checked
 * where every token's is: Mayfly's issuer for the tenant, alone; the token endpoint's URL is not it.
 */
export function checkAssertion(
  claims: Claims,
  source: TrustSource,
  form: ClientAssertion,
  now: Date,
): Refusal | undefined {
  if (form.type !== JWT_BEARER || source.kind === "spiffe")
    return refuse(
      "client_assertion_type_not_allowed",
      `client_assertion_type must be ${JWT_BEARER}, and the trust source not a SPIFFE one`,
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
