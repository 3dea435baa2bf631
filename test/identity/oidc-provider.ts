import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWK } from "jose";
import type { Grant } from "oidc-provider";
import * as openid from "openid-client";
import { newProvider, type Provider } from "../support/quiet-oidc-provider.ts";

/** node-oidc-provider on a free loopback port: an identity provider that is not ours, for agents and for humans. */
export interface IdentityProvider extends AsyncDisposable {
  readonly issuer: string;
  /** A token of the client itself (client credentials), for a resource (RFC 8707); without one it is opaque. */
  clientToken(clientId: string, resource?: string): Promise<string>;
  /** What a human gets who logs in to the client (authorization code with PKCE), through every redirect. */
  logIn(clientId: string, who: string, resource?: string): Promise<{ idToken: string; accessToken: string }>;
  /** Signs with a new key from now on, and no longer publishes the old one. */
  rotate(): Promise<void>;
  /** How often its key set was read. */
  keyReads(): number;
}

export const PLAIN_TYP = "plain-typ";
const SECRET = "a-secret-of-this-test-and-of-nothing-else";
const REDIRECT = "https://app.test/callback";

/** `machines` get tokens for themselves; humans log in to `apps`. Their `groups` are in ID and access tokens. */
export async function identityProvider(given: {
  readonly machines: readonly string[];
  readonly apps: readonly string[];
  readonly groupsOf: Readonly<Record<string, readonly string[]>>;
}): Promise<IdentityProvider> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  let provider: Provider;
  let listener: ReturnType<Provider["callback"]>;
  let keyReads = 0;
  let keys = 0;

  const rotate = async (): Promise<void> => {
    keys += 1;
    const { privateKey } = await generateKeyPair("ES256", { extractable: true });
    const jwk = { ...(await exportJWK(privateKey)), kid: `idp-${keys}`, alg: "ES256", use: "sig" };
    provider = newProvider(issuer, configuration(given, jwk));
    listener = provider.callback();
  };
  await rotate();
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? "/", issuer);
    if (url.pathname === "/jwks") keyReads += 1;
    // Whoever comes to the log-in page is who the cookie of the test says.
    const who = /(?:^|; )who=([a-z]+)/.exec(request.headers.cookie ?? "")?.[1];
    if (url.pathname.startsWith("/interaction/") && who !== undefined)
      void provider.interactionFinished(request, response, { login: { accountId: who } });
    else listener(request, response);
  });

  const clientOf = (clientId: string): Promise<openid.Configuration> =>
    openid.discovery(new URL(issuer), clientId, undefined, openid.ClientSecretPost(SECRET), {
      execute: [openid.allowInsecureRequests],
    });
  return {
    issuer,
    rotate,
    keyReads: () => keyReads,
    async clientToken(clientId, resource) {
      const form = resource === undefined ? {} : { resource };
      return (await openid.clientCredentialsGrant(await clientOf(clientId), form)).access_token;
    },
    async logIn(clientId, who, resource) {
      const client = await clientOf(clientId);
      const verifier = openid.randomPKCECodeVerifier();
      const [state, nonce] = [openid.randomState(), openid.randomNonce()];
      const target = resource === undefined ? {} : { resource };
      const start = openid.buildAuthorizationUrl(client, {
        redirect_uri: REDIRECT,
        scope: resource === undefined ? "openid" : "openid use",
        code_challenge: await openid.calculatePKCECodeChallenge(verifier),
        code_challenge_method: "S256",
        state,
        nonce,
        ...target,
      });
      const end = await followTo(REDIRECT, start, who);
      const checks = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce };
      const tokens = await openid.authorizationCodeGrant(client, end, checks, target);
      return { idToken: tokens.id_token ?? "", accessToken: tokens.access_token };
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function configuration({ machines, apps, groupsOf }: Parameters<typeof identityProvider>[0], jwk: JWK): object {
  const common = { client_secret: SECRET, token_endpoint_auth_method: "client_secret_post" };
  return {
    clients: [
      ...machines.map((client_id) => ({
        ...common,
        client_id,
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: "ES256",
      })),
      ...apps.map((client_id) => ({
        ...common,
        client_id,
        grant_types: ["authorization_code"],
        redirect_uris: [REDIRECT],
        id_token_signed_response_alg: "ES256",
      })),
    ],
    jwks: { keys: [jwk] },
    claims: { openid: ["sub", "groups"] },
    conformIdTokenClaims: false,
    findAccount: (_context: unknown, accountId: string) => ({
      accountId,
      claims: () => ({ sub: accountId, groups: groupsOf[accountId] ?? [] }),
    }),
    extraTokenClaims: (_context: unknown, token: { accountId?: string }) =>
      token.accountId === undefined ? undefined : { groups: groupsOf[token.accountId] ?? [] },
    interactions: { url: (_context: unknown, { uid }: { uid: string }) => `/interaction/${uid}` },
    // Everybody has consented to everything.
    async loadExistingGrant(context: {
      oidc: {
        provider: Provider;
        client: { clientId: string };
        session: { accountId: string };
        resourceServers?: Record<string, unknown>;
      };
    }): Promise<Grant> {
      const { provider, client, session, resourceServers } = context.oidc;
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope("openid");
      for (const resource of Object.keys(resourceServers ?? {})) grant.addResourceScope(resource, "use");
      await grant.save();
      return grant;
    },
    formats: {
      customizers: {
        // As providers do that know nothing of RFC 9068.
        jwt(_context: unknown, token: { clientId: string }, jwt: { header?: object }) {
          if (token.clientId === PLAIN_TYP) jwt.header = { typ: "JWT" };
        },
      },
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (_context: unknown, resource: string) => ({
          scope: "use",
          audience: resource,
          accessTokenTTL: 300,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
    ttl: { AccessToken: 300, ClientCredentials: 300, IdToken: 300, Grant: 300, Interaction: 300, Session: 300 },
  };
}

/** A browser without a face: follows redirects and keeps cookies until it is sent to `last`. */
async function followTo(last: string, start: URL, who: string): Promise<URL> {
  const cookies = new Map([["who", who]]);
  let at = start;
  for (let hops = 0; hops < 10; hops += 1) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(at, { redirect: "manual", headers: { cookie } });
    await response.arrayBuffer();
    for (const set of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(set) ?? [];
      if (value === "") cookies.delete(name);
      else cookies.set(name, value);
    }
    const location = response.headers.get("location");
    if (location === null) throw new Error(`the provider answered ${response.status} and no redirect`);
    at = new URL(location, at);
    if (at.href.startsWith(last)) return at;
  }
  throw new Error("too many redirects");
}
