import { type OwnTokenDeps, ownToken } from "../credentials/own-token.ts";
import { revokeOne } from "../credentials/revoke.ts";
import type { Db } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError } from "../lib/errors.ts";
import { oauthError } from "../lib/oauth-error.ts";
import type { WakeUps } from "../queue/queue.ts";

export interface RevokeTokenDeps extends OwnTokenDeps {
  readonly db: Db;
  readonly wakeUps: WakeUps;
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
  const own = await ownToken(deps, principal, token);
  if (own === undefined) return;
  try {
    await revokeOne(deps.db, principal, own.id, principal.agentId === undefined ? "revoked" : "released", requestId);
  } catch (error) {
    if (!(error instanceof MayflyError) || error.code !== "not_found") throw error;
    throw oauthError("unauthorized_client", "the token was issued to another client");
  }
  deps.wakeUps.now();
}
