import { createPrivateKey } from "node:crypto";
import { importPKCS8 } from "jose";
import * as oauth from "oauth4webapi";
import { MayflyError } from "../lib/errors.ts";
import type { AskedToken, OauthConfig } from "./oauth-config.ts";
import { openTargetConnections, refusalOf, type TargetFetch } from "./target-fetch.ts";
import { isLoopback } from "./target-url.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";

/** What errors call the far side. */
export const SERVER = "the authorization server";

/** Endpoints of the server, as its metadata names them. */
export type Endpoint = "token_endpoint" | "revocation_endpoint" | "introspection_endpoint";
export type Hint = "access_token" | "refresh_token";

/** Connections to one authorization server, and to the API that is probed, for one sort of work. */
export interface OauthLane extends AsyncDisposable {
  readonly client: oauth.Client;
  /** The server's metadata, read again after an hour. */
  metadata(signal: AbortSignal): Promise<oauth.AuthorizationServer>;
  /** Where an endpoint is. Throws `target_rejected` when the server has none, or has it where it may not be. */
  endpoint(server: oauth.AuthorizationServer, name: Endpoint): URL;
  token(asked: AskedToken, signal: AbortSignal): Promise<Response>;
  revoke(token: string, hint: Hint, signal: AbortSignal): Promise<Response>;
  introspect(token: string, signal: AbortSignal): Promise<Response>;
  /** Uses a token at the API that is probed. */
  use(url: string, token: string, signal: AbortSignal): Promise<Response>;
}

const METADATA_LIVES_MS = 3_600_000;
const TYPE = "urn:ietf:params:oauth:token-type:";
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";

/** The grants as the token endpoint calls them. */
export const GRANT_TYPES = {
  client_credentials: "client_credentials",
  refresh_token: "refresh_token",
  token_exchange: EXCHANGE,
} as const satisfies Record<OauthConfig["grant"], string>;
/** What an exchange must have made (RFC 8693 §3). */
export const ACCESS_TOKEN_TYPE = `${TYPE}access_token`;

/** Opens connections to the issuer's origin and the others of the config, and to nowhere else. Nothing is sent yet. */
export async function openLanes(config: OauthConfig): Promise<TwoLanes<OauthLane>> {
  const authentication = await clientAuthentication(config);
  return twoLanes(() => openLane(config, authentication));
}

function openLane(config: OauthConfig, authentication: oauth.ClientAuth): OauthLane {
  const issuer = new URL(config.issuer);
  const probed = config.probe_url === undefined ? [] : [new URL(config.probe_url).origin];
  const endpointOrigins = [issuer.origin, ...(config.endpoint_origins ?? [])];
  const connections = new Map(
    [...new Set([...endpointOrigins, ...probed])].map((origin) => [
      origin,
      openTargetConnections({ origin, ca: config.ca, called: SERVER }),
    ]),
  );
  const fetch: TargetFetch = async (url, init) => {
    const there = connections.get(new URL(url).origin);
    if (there === undefined) throw new MayflyError("internal", "an endpoint was not checked before it was used");
    return there.fetch(url, init);
  };
  const transport = {
    // The library's own type names each method and body apart; all of them are what `TargetFetch` takes.
    [oauth.customFetch]: (url: string, options: object) => fetch(url, options),
    [oauth.allowInsecureRequests]: isLoopback(issuer.hostname),
  };
  const client: oauth.Client = { client_id: config.client_id };
  let known: { readonly server: oauth.AuthorizationServer; readonly readAt: number } | undefined;

  const endpoint = (server: oauth.AuthorizationServer, name: Endpoint): URL => {
    const given = server[name];
    if (typeof given !== "string" || !URL.canParse(given))
      throw new MayflyError("target_rejected", `${SERVER} has no ${name}`);
    const url = new URL(given);
    if (!endpointOrigins.includes(url.origin))
      throw new MayflyError(
        "target_rejected",
        `the ${name} of ${SERVER} is at another origin than its issuer: if that is right, list it in endpoint_origins`,
      );
    return url;
  };
  const serverWith = async (name: Endpoint, signal: AbortSignal): Promise<oauth.AuthorizationServer> => {
    if (known === undefined || performance.now() - known.readAt > METADATA_LIVES_MS)
      known = { server: await discover(config.issuer, { ...transport, signal }), readAt: performance.now() };
    endpoint(known.server, name);
    return known.server;
  };
  return {
    client,
    endpoint,
    metadata: (signal) => serverWith("token_endpoint", signal),
    async token(asked, signal) {
      const server = await serverWith("token_endpoint", signal);
      const form = parametersOf(config, asked);
      return oauth.genericTokenEndpointRequest(server, client, authentication, GRANT_TYPES[config.grant], form, {
        ...transport,
        signal,
      });
    },
    async revoke(token, hint, signal) {
      const server = await serverWith("revocation_endpoint", signal);
      const additionalParameters = { token_type_hint: hint };
      return oauth.revocationRequest(server, client, authentication, token, {
        ...transport,
        signal,
        additionalParameters,
      });
    },
    async introspect(token, signal) {
      const server = await serverWith("introspection_endpoint", signal);
      const additionalParameters = { token_type_hint: "access_token" };
      return oauth.introspectionRequest(server, client, authentication, token, {
        ...transport,
        signal,
        additionalParameters,
      });
    },
    use: (url, token, signal) => fetch(url, { headers: { authorization: `Bearer ${token}` }, signal }),
    async [Symbol.asyncDispose]() {
      for (const one of connections.values()) await one[Symbol.asyncDispose]();
    },
  };
}

function parametersOf(config: OauthConfig, { scope, resource, audience }: AskedToken): Record<string, string> {
  return {
    scope: scope.join(" "),
    ...(resource === undefined ? {} : { resource }),
    ...(audience === undefined ? {} : { audience }),
    ...(config.refresh_token === undefined ? {} : { refresh_token: config.refresh_token }),
    ...(config.subject_token === undefined
      ? {}
      : {
          subject_token: config.subject_token,
          subject_token_type: `${TYPE}${config.subject_token_type ?? "access_token"}`,
          requested_token_type: ACCESS_TOKEN_TYPE,
        }),
  };
}

async function clientAuthentication(config: OauthConfig): Promise<oauth.ClientAuth> {
  const { client_authentication: how, client_secret: secret = "", private_key: pem = "", key_id: kid } = config;
  if (how === "client_secret_basic") return oauth.ClientSecretBasic(secret);
  if (how === "client_secret_post") return oauth.ClientSecretPost(secret);
  const key = await importPKCS8(pem, createPrivateKey(pem).asymmetricKeyType === "rsa" ? "RS256" : "ES256");
  return oauth.PrivateKeyJwt(kid === undefined ? key : { key, kid });
}

/** Reads the metadata of RFC 8414, or else of OpenID Connect; either must name the issuer to the byte. */
async function discover(issuer: string, options: oauth.DiscoveryRequestOptions): Promise<oauth.AuthorizationServer> {
  const url = new URL(issuer);
  let response = await oauth.discoveryRequest(url, { ...options, algorithm: "oauth2" });
  if (response.status >= 400 && response.status < 500 && !refusalOf(response, SERVER).retryable)
    response = await oauth.discoveryRequest(url, { ...options, algorithm: "oidc" });
  if (response.status !== 200) throw refusalOf(response, SERVER, "its metadata could not be read; check issuer");
  const server = await oauth.processDiscoveryResponse(url, response).catch(() => undefined);
  if (server?.issuer !== issuer)
    throw new MayflyError("target_rejected", `the metadata of ${SERVER} is not of the issuer that was registered`);
  return server;
}

/** Codes of RFC 6749, 7009, 8693 and 8707, in our words: the server's may quote what was sent. */
const WHY_NOT: Readonly<Record<string, string>> = {
  invalid_client: "it does not accept the client or its authentication",
  invalid_grant: "it does not accept the refresh token or the subject token (any more)",
  invalid_request: "it does not understand the request",
  invalid_scope: "the client may not have this scope",
  invalid_target: "it does not know the resource or audience",
  unauthorized_client: "the client may not use this grant",
  unsupported_grant_type: "it does not have this grant",
  unsupported_token_type: "it does not look at or take back tokens of this kind (self-contained ones, as a rule)",
};

/** An answer that is not the wanted one, as an error with nothing of it but its status and a code that we know. */
export async function oauthRefusal(response: Response): Promise<MayflyError> {
  const { error } = await readRecord(response);
  const why = typeof error === "string" && Object.hasOwn(WHY_NOT, error) ? `${error}: ${WHY_NOT[error]}` : undefined;
  return refusalOf(response, SERVER, why);
}

/** The JSON object that an answer holds; empty when it holds none. */
export async function readRecord(response: Response): Promise<Readonly<Record<string, unknown>>> {
  try {
    const body: unknown = await response.json();
    return typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
