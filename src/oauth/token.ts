import type { MintRequest } from "../credentials/mint-facts.ts";
import { mintRecorded, type RecordedMintDeps } from "../credentials/mint-recorded.ts";
import type { RememberedCaller } from "../identity/principal.ts";
import { MayflyError } from "../lib/errors.ts";
import { type OAuthErrorCode, oauthError } from "../lib/oauth-error.ts";
import { Secret } from "../lib/secret.ts";
import { ACCESS_TOKEN_TYPE, type ExchangeForm, exchangeError, parentOf } from "./exchange.ts";
import { parseTaskDetails } from "./task-details.ts";

/** The form of a token request, as far as it is known here. */
export interface TokenForm extends ExchangeForm {
  readonly grant_type: string;
  readonly resource?: readonly string[] | undefined;
  readonly authorization_details?: string | undefined;
  readonly scope?: string | undefined;
}

/** The answer to a token request (RFC 6749 §5.1, RFC 9396 §7; `issued_token_type`: RFC 8693 §2.2.1). */
export interface TokenAnswer {
  readonly access_token: string;
  readonly issued_token_type?: string;
  readonly token_type: "Bearer" | "DPoP";
  readonly expires_in: number;
  readonly scope?: string;
  readonly authorization_details: readonly unknown[];
}

export const grantTypes = ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"] as const;
const EXCHANGE = grantTypes[1];

type TokenCall = RememberedCaller & { readonly requestId: string; readonly body: TokenForm };

/**
 * A task's access token in one standard call: the same mint as everywhere, with the same checks, rows and events. By
 * token exchange it is minted from the subject token's credential, for the agent that authenticates, which is the actor.
 * Throws the errors of RFC 6749, RFC 8693, RFC 8707 and RFC 9396; `access_denied`, with every reason, where records or
 * policy refuse.
 */
export async function issueToken(deps: RecordedMintDeps, call: TokenCall): Promise<TokenAnswer> {
  const { grant_type: grant, scope } = call.body;
  if (!(grantTypes as readonly string[]).includes(grant))
    throw oauthError("unsupported_grant_type", `grant_type must be ${grantTypes.join(" or ")}`);
  if (scope !== undefined)
    throw oauthError("invalid_scope", "what a token may do is asked for in authorization_details, not in scope");
  const parent = grant === EXCHANGE ? await parentOf(deps, call) : undefined;
  // Without a resource, an exchange is for the subject token's own audience: there is no other.
  const resource = oneResource(call.body.resource ?? (parent === undefined ? undefined : [parent.audience]));
  const { task_id, actions, resources, delegation } = parseTaskDetails(call.body.authorization_details, resource);
  const request: MintRequest = {
    task_id,
    target: resource,
    actions,
    resources,
    delegation,
    ...(parent === undefined ? {} : { parent_credential_id: parent.id }),
  };
  const minted = await mintRecorded(deps, call, request).catch((error: unknown) => {
    throw parent === undefined ? asOAuth(error) : exchangeError(asOAuth(error));
  });
  const token = minted.secret["access_token"];
  if (!(token instanceof Secret)) throw new MayflyError("internal", "the target's credentials are no access tokens");
  const { scope: granted, authorization_details: details = [] } = (minted.claims ?? {}) as {
    readonly scope?: string;
    readonly authorization_details?: readonly unknown[];
  };
  return {
    access_token: token.reveal(),
    ...(parent === undefined ? {} : { issued_token_type: ACCESS_TOKEN_TYPE }),
    token_type: minted.secret["token_type"] === "DPoP" ? "DPoP" : "Bearer",
    expires_in: minted.lifetime.ttlSeconds,
    ...(granted === undefined ? {} : { scope: granted }),
    authorization_details: details,
  };
}

/** RFC 8707 §2: an absolute URI without a fragment. One audience per token, so one resource per request. */
function oneResource(sent: readonly string[] | undefined): string {
  const [resource, second] = sent ?? [];
  if (resource === undefined)
    throw oauthError("invalid_target", "resource is needed: the audience of the API that the token is for");
  if (second !== undefined)
    throw oauthError("invalid_target", "one token is for one resource: ask for another token for the other one");
  if (!/^[\x21-\x7e]{1,512}$/.test(resource) || !URL.canParse(resource) || resource.includes("#"))
    throw oauthError("invalid_target", "resource must be an absolute URI without a fragment");
  return resource;
}

const notFoundAs: Readonly<Record<string, readonly [OAuthErrorCode, string]>> = {
  "/target": ["invalid_target", "no API of this tenant, or more than one, has this audience"],
  "/parent_credential_id": ["invalid_request", "subject_token is not one that this client may mint from"],
};

/** What the mint did not find, in OAuth's words. It stays the refusal that it was: recorded, and only once. */
function asOAuth(error: unknown): unknown {
  if (!(error instanceof MayflyError) || error.code !== "not_found") return error;
  const [code, detail] = notFoundAs[error.errors[0]?.pointer ?? ""] ?? [
    "invalid_authorization_details",
    "there is no such task of this client",
  ];
  return new MayflyError("not_found", detail, { reasons: [{ code, detail }] });
}
