import { revokeOne } from "../credentials/revoke.ts";
import type { Db } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { ACCESS_TOKEN_TYP } from "../issuers/registry.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { MayflyError } from "../lib/errors.ts";
import { isId } from "../lib/ids.ts";
import { oauthError } from "../lib/oauth-error.ts";
import type { WakeUps } from "../queue/queue.ts";

export interface RevokeTokenDeps {
  readonly db: Db;
  readonly keys: SigningKeys;
  readonly wakeUps: WakeUps;
  readonly issuerUrl: (tenantName: string) => string;
}

/**
 * Takes back the credential that a token is (RFC 7009). Silent for what is no token of ours, or no longer alive. An agent
 * takes back its own alone; for another's it gets `unauthorized_client`: it holds the token, so this tells it nothing.
 */
export async function revokeToken(
  deps: RevokeTokenDeps,
  principal: Principal,
  token: string,
  requestId: string,
): Promise<void> {
  const claims = token.length > 8192 ? undefined : await deps.keys.verify(principal.tenantId, token, ACCESS_TOKEN_TYP);
  const jti = claims?.["iss"] === deps.issuerUrl(principal.tenantName) ? claims["jti"] : undefined;
  if (typeof jti !== "string" || !isId("credential", jti)) return;
  try {
    await revokeOne(deps.db, principal, jti, principal.agentId === undefined ? "revoked" : "released", requestId);
  } catch (error) {
    if (!(error instanceof MayflyError) || error.code !== "not_found") throw error;
    throw oauthError("unauthorized_client", "the token was issued to another client");
  }
  deps.wakeUps.now();
}
