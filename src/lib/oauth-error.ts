import { type ErrorCode, MayflyError } from "./errors.ts";

/** The error codes that RFC 6749 §5.2 and its extensions register for the endpoints under `/oauth`. */
export const oauthErrorCodes = [
  "invalid_request",
  "invalid_client",
  "invalid_grant",
  "unauthorized_client",
  "unsupported_grant_type",
  "unsupported_token_type",
  "invalid_scope",
  "invalid_target",
  "invalid_authorization_details",
  "invalid_dpop_proof",
  "use_dpop_nonce",
  "authorization_pending",
  "slow_down",
  "expired_token",
  "access_denied",
  "insufficient_user_authentication",
] as const;

export type OAuthErrorCode = (typeof oauthErrorCodes)[number];

/**
 * An error that an `/oauth` endpoint answers with this registered code. It is an ordinary MayflyError whose first
 * reason names the code, so audit and log see one error model.
 */
export function oauthError(
  error: OAuthErrorCode,
  detail: string,
  code: ErrorCode = error === "invalid_client" ? "unauthenticated" : "invalid_request",
): MayflyError {
  return new MayflyError(code, detail, { reasons: [{ code: error, detail }] });
}
