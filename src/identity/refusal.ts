/**
 * Why a token or a certificate was not accepted. The code is the contract: it appears in audit events, metrics and problem documents
 * and never changes its meaning.
 */
export const refusalCodes = [
  /** Not a compact JWS of strict JSON, or larger than the limit. */
  "token_malformed",
  /** A header member that carries or fetches key material, or changes what is signed (RFC 8725 §3.10). */
  "token_header_not_allowed",
  "token_crit_unsupported",
  "token_alg_not_allowed",
  /** A `typ` that nobody agreed on. */
  "token_typ_not_allowed",
  /** A token of another kind: DPoP proof, security event, access token, delegated token … (RFC 8725 §3.12). */
  "token_kind_confused",
  "token_issuer_unknown",
  "token_audience_mismatch",
  "token_audience_multiple",
  "token_claim_missing",
  /** A claim is there and is not what its specification says. */
  "token_claim_invalid",
  "token_expired",
  "token_not_yet_valid",
  "token_too_old",
  "token_lifetime_too_long",
  /** A client assertion of a type that nobody agreed on, or not for the kind of its trust source. */
  "client_assertion_type_not_allowed",
  /** The form's `client_id` is not whom the client assertion is about. */
  "client_id_mismatch",
  /** A client that names itself (`client_id`) and proves nothing, or proves something and does not name itself. */
  "certificate_missing",
  "client_id_missing",
  /** No trust source of the tenant answers for this `client_id`, or not by certificate. */
  "client_unknown",
  /** The path does not name the tenant, and a certificate does not either. */
  "tenant_missing",
  "certificate_malformed",
  /** Its key, or the algorithm of a signature. */
  "certificate_weak",
  /** No path to an anchor of the client's trust source, or not the certificate that is registered. */
  "certificate_untrusted",
  "certificate_expired",
  "certificate_not_yet_valid",
  /** A CA's certificate, or one for other purposes. */
  "certificate_not_for_clients",
  /** Trusted, and no X.509-SVID. */
  "certificate_not_svid",
  /** The trust source demands something else of its certificates. */
  "certificate_conditions_not_met",
  /** No key of the trust source could have made the signature. */
  "token_key_unknown",
  "token_signature_invalid",
  "token_conditions_not_met",
  /** The token's confirmation (`cnf`, RFC 7800) is not what the trust source promises. */
  "token_binding_mismatch",
  /** The trust source's keys have never been read. Retryable. */
  "keys_unavailable",
  /** The trust source's keys could not be read again for too long. Retryable. */
  "keys_stale",
] as const;
export type RefusalCode = (typeof refusalCodes)[number];

/** A refusal as data. `detail` says what to change and never repeats a byte of the token or the certificate. It fits `Reason` of `lib/errors.ts`. */
export interface Refusal {
  readonly code: RefusalCode;
  readonly detail: string;
}

/** Builds a refusal. `detail` must be made of our own words, config and numbers alone. */
export function refuse(code: RefusalCode, detail: string): Refusal {
  return { code, detail };
}
