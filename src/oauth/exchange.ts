import { type OwnTokenDeps, ownToken } from "../credentials/own-token.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { type OAuthErrorCode, oauthError } from "../lib/oauth-error.ts";

/** The parameters of a token exchange (RFC 8693 §2.1) beside those of every token request. */
export interface ExchangeForm {
  readonly subject_token?: string | undefined;
  readonly subject_token_type?: string | undefined;
  readonly actor_token?: string | undefined;
  readonly requested_token_type?: string | undefined;
  readonly audience?: readonly string[] | undefined;
}

/** The one kind of token that is taken and given (RFC 8693 §3). */
export const ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token";

/**
 * The credential that the subject token is. Only an access token of this tenant is one; whether it is alive, and whether
 * this client is one that it was delegated to, the mint decides. Throws `invalid_request` (RFC 8693 §2.2.2).
 *
 * The token need not name us in `aud`, as the tokens of others would: it says itself which agents may have it passed on
 * to them, so an API that was merely sent it gains nothing.
 */
export async function parentOf(
  deps: OwnTokenDeps,
  { principal, body }: { readonly principal: Principal; readonly body: ExchangeForm },
): Promise<{ readonly id: Id<"credential">; readonly audience: string }> {
  const { subject_token: token, subject_token_type: type, requested_token_type: wanted = ACCESS_TOKEN_TYPE } = body;
  if (token === undefined) throw oauthError("invalid_request", "subject_token is needed: the token to mint from");
  if (type !== ACCESS_TOKEN_TYPE)
    throw oauthError("invalid_request", `subject_token_type must be ${ACCESS_TOKEN_TYPE}`);
  if (wanted !== ACCESS_TOKEN_TYPE)
    throw oauthError("invalid_request", `requested_token_type must be ${ACCESS_TOKEN_TYPE}, or be left out`);
  if (body.actor_token !== undefined)
    throw oauthError("invalid_request", "the actor is the client that authenticates: send no actor_token");
  if (body.audience !== undefined)
    throw oauthError("invalid_target", "an API is named by resource here, not by audience");
  const own = await ownToken(deps, principal, token);
  const audience = own?.claims["aud"];
  if (own === undefined || typeof audience !== "string")
    throw oauthError("invalid_request", "subject_token is not an access token of this tenant");
  return { id: own.id, audience };
}

/**
 * A refusal because of the subject token, in RFC 8693's words: `invalid_target` for another API, else `invalid_request`.
 * It stays the refusal that it was: recorded already, with these reasons.
 */
export function exchangeError(error: unknown): unknown {
  if (!(error instanceof MayflyError) || error.code !== "denied") return error;
  const isAudience = error.reasons.some(({ code }) => code === "audience_outside_parent");
  const code: OAuthErrorCode = isAudience ? "invalid_target" : "invalid_request";
  return new MayflyError("denied", error.detail, { reasons: [{ code, detail: error.detail }, ...error.reasons] });
}
