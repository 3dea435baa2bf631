import type { AuthorizationServer } from "oauth4webapi";
import { MayflyError } from "../lib/errors.ts";
import { GRANT_TYPES, type OauthLane, oauthRefusal, readRecord, SERVER } from "./oauth-client.ts";
import { type AskedToken, askedToken, type OauthAccess, type OauthConfig } from "./oauth-config.ts";
import { checked, look, NO_TOKEN, type OauthHandle, takeBack, tokensIn } from "./oauth-token.ts";

/**
 * Checks in the server's metadata that it can do what will be asked of it; the canary shows that it does. Throws
 * `target_refused` with what to change. What metadata leave out is not held against the server.
 */
export async function inspectOauth(
  lane: OauthLane,
  config: OauthConfig,
  access: readonly OauthAccess[],
  signal: AbortSignal,
): Promise<void> {
  const asked = askedToken(access, "target_refused");
  const server = await lane.metadata(signal).catch(asRefusal);
  demand(server.grant_types_supported, GRANT_TYPES[config.grant], "grant");
  demand(server.token_endpoint_auth_methods_supported, config.client_authentication, "client authentication");
  if (config.revocation === "none") return;
  if (server.revocation_endpoint === undefined)
    throw refused(
      `${SERVER} has no revocation endpoint, so its tokens cannot be taken back: ` +
        'with "revocation": "none" they are registered as what they are, good until their own end',
    );
  demand(server.revocation_endpoint_auth_methods_supported, config.client_authentication, "client authentication");
  at(lane, server, "revocation_endpoint");
  if (config.probe_url === undefined) checkIntrospection(lane, config, server);
  if (config.grant !== "client_credentials") await checkNeighbours(lane, config, asked, signal).catch(asRefusal);
}

function checkIntrospection(lane: OauthLane, config: OauthConfig, server: AuthorizationServer): void {
  if (server.introspection_endpoint === undefined)
    throw refused(
      `${SERVER} has no introspection endpoint, so nothing could prove a revoke: name an API that takes its tokens as probe_url`,
    );
  demand(server.introspection_endpoint_auth_methods_supported, config.client_authentication, "client authentication");
  at(lane, server, "introspection_endpoint");
}

/**
 * Tokens of one refresh token or subject may die together (RFC 7009 §2.1 leaves it to the server), and then no credential
 * could be taken back alone. That is in no metadata, so two are made and one is taken back; the canary then shows whether a
 * third can be had. Should we die meanwhile, the two end by themselves, and nobody has them.
 */
async function checkNeighbours(
  lane: OauthLane,
  config: OauthConfig,
  asked: AskedToken,
  signal: AbortSignal,
): Promise<void> {
  const made: OauthHandle[] = [];
  try {
    for (let i = 0; i < 2; i += 1) {
      const response = await lane.token(asked, signal);
      if (!response.ok) throw await oauthRefusal(response);
      const given = tokensIn(await readRecord(response.clone()), config);
      made.push(given);
      await checked(lane, response, config, asked, given);
    }
    const [one = {}, { token: other = NO_TOKEN } = {}] = made;
    await takeBack(lane, one, signal);
    if ((await look(lane, config, other, signal)).outcome === "dead")
      throw refused(
        `${SERVER} ends other tokens of the same refresh token or subject along with one that is taken back: ` +
          "have it end them one by one, or use another grant",
      );
  } finally {
    for (const one of made) await takeBack(lane, one, signal).catch(() => undefined);
  }
}

function demand(supported: readonly unknown[] | undefined, wanted: string, what: string): void {
  if (supported !== undefined && !supported.includes(wanted))
    throw refused(`${SERVER} does not have the ${what} ${wanted} in its metadata: change the config or the server`);
}

function at(lane: OauthLane, ...[server, name]: Parameters<OauthLane["endpoint"]>): void {
  try {
    lane.endpoint(server, name);
  } catch (error) {
    asRefusal(error);
  }
}

function asRefusal(error: unknown): never {
  throw error instanceof MayflyError && error.code === "target_rejected" ? refused(error.detail) : error;
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
