import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, exportPKCS8, generateKeyPair } from "jose";
import { type LocalServer, localServer } from "../identity/local-server.ts";
import { newProvider, type Provider } from "../support/quiet-oidc-provider.ts";

/**
 * node-oidc-provider as an authorization server of somebody else, with opaque tokens, revocation and introspection, and an
 * API that takes its tokens.
 */
export interface OauthServer extends AsyncDisposable {
  readonly issuer: string;
  /** PKCS#8 of the client `mayfly-key`. */
  readonly privateKey: string;
  /** The API: `GET /` wants `read`, `POST /` wants `write`. It asks the server about every token. */
  readonly api: LocalServer;
  /** A refresh token of a user, for the client. */
  refreshToken(clientId: string): Promise<string>;
  /** What was answered, in order: method and path of the question, its form. */
  readonly asked: { readonly at: string; readonly form: URLSearchParams }[];
  /** Access tokens that are good. */
  live(): number;
  /** A token that is taken back takes with it whatever came of the same refresh token, as the provider does it of itself. */
  grantsDieWhole: boolean;
  /** Answers instead, when it gives something. */
  instead: ((at: string) => Reply | undefined) | undefined;
  /** Changes a JSON answer on its way. */
  change: ((at: string, body: object) => object) | undefined;
}

export interface Reply {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export const SECRET = "a-secret-of-this-test-and-of-nothing-else";
export const API = "https://api.test/";
export const OTHER_API = "https://other.test/";
/** Tokens for it are JWTs, which the server neither takes back nor looks at. */
export const JWT_API = "https://jwt.test/";
/** The server lets tokens live so long. */
export const LIVES_SECONDS = 300;
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";

export async function oauthServer(): Promise<OauthServer> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const key = await generateKeyPair("ES256", { extractable: true });
  const signing = await generateKeyPair("ES256", { extractable: true });
  const store = new Map<string, string>();
  const own = { ...(await exportJWK(signing.privateKey)), kid: "as", alg: "ES256" };
  for (const one of clients(await exportJWK(key.publicKey))) store.set(`Client:${one.client_id}`, JSON.stringify(one));
  const provider = newProvider(issuer, {
    ...configuration(own),
    adapter: (kind: string) => adapter(kind, store, () => made.grantsDieWhole),
  });
  exchanges(provider);
  const api = await localServer((request, response) => void serveApi(issuer, request, response));
  const made: OauthServer = {
    issuer,
    privateKey: await exportPKCS8(key.privateKey),
    api,
    asked: [],
    live: () => [...store.keys()].filter((name) => /^(AccessToken|ClientCredentials):/.test(name)).length,
    grantsDieWhole: false,
    instead: undefined,
    change: undefined,
    async refreshToken(clientId) {
      const client = await provider.Client.find(clientId);
      const grant = new provider.Grant({ clientId, accountId: "ada" });
      grant.addOIDCScope("read write offline_access");
      const grantId = await grant.save();
      const given = {
        client,
        accountId: "ada",
        grantId,
        scope: "read write offline_access",
        gty: "authorization_code",
      };
      return new provider.RefreshToken(given).save();
    },
    async [Symbol.asyncDispose]() {
      await api[Symbol.asyncDispose]();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  provider.use(async (context, next) => {
    const at = `${context.method} ${context.path}`;
    const reply = made.instead?.(at);
    if (reply !== undefined) {
      context.status = reply.status;
      context.set({ "content-type": "application/json", ...reply.headers });
      context.body = reply.body ?? "";
      return;
    }
    await next();
    made.asked.push({ at, form: new URLSearchParams(context.oidc?.body) });
    if (typeof context.body === "object" && made.change !== undefined) context.body = made.change(at, context.body);
  });
  server.on("request", provider.callback());
  return made;
}

function clients(publicKey: object): { readonly client_id: string }[] {
  const client = (client_id: string, method: string, more: object = {}) => ({
    client_id,
    client_secret: SECRET,
    token_endpoint_auth_method: method,
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: "ES256",
    scope: "read write",
    ...more,
  });
  const user = {
    grant_types: ["authorization_code", "refresh_token"],
    redirect_uris: ["https://app.test/callback"],
    response_types: ["code"],
    scope: "read write offline_access openid",
  };
  return [
    client("mayfly", "client_secret_post"),
    client("mayfly-basic", "client_secret_basic"),
    client("mayfly-key", "private_key_jwt", {
      client_secret: undefined,
      token_endpoint_auth_signing_alg: "ES256",
      jwks: { keys: [{ ...publicKey, kid: "k1", use: "sig", alg: "ES256" }] },
    }),
    client("mayfly-user", "client_secret_post", user),
    client("mayfly-rotating", "client_secret_post", user),
    client("mayfly-exchange", "client_secret_post", { grant_types: ["client_credentials", EXCHANGE] }),
    client("api", "client_secret_basic"),
  ];
}

/** What the provider stores, as text: it keeps nothing of the realm that an object was made in. */
function adapter(kind: string, store: Map<string, string>, grantsDieWhole: () => boolean): object {
  const find = async (id: string): Promise<unknown> => {
    const text = store.get(`${kind}:${id}`);
    return text === undefined ? undefined : JSON.parse(text);
  };
  return {
    find,
    upsert: async (id: string, payload: object) => void store.set(`${kind}:${id}`, JSON.stringify(payload)),
    destroy: async (id: string) => void store.delete(`${kind}:${id}`),
    async consume(id: string) {
      store.set(`${kind}:${id}`, JSON.stringify({ ...((await find(id)) as object), consumed: 1 }));
    },
    async revokeByGrantId(grantId: string) {
      if (!grantsDieWhole()) return;
      for (const [key, text] of store)
        if (key.startsWith(`${kind}:`) && text.includes(`"grantId":"${grantId}"`)) store.delete(key);
    },
  };
}

function configuration(signing: object): object {
  return {
    jwks: { keys: [signing] },
    scopes: ["openid", "offline_access", "read", "write", "admin"],
    findAccount: (_context: unknown, accountId: string) => ({ accountId, claims: () => ({ sub: accountId }) }),
    rotateRefreshToken: (context: { oidc: { client: { clientId: string } } }) =>
      context.oidc.client.clientId === "mayfly-rotating",
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: {
        enabled: true,
        allowedPolicy: (_context: unknown, { clientId }: { clientId: string }, token: { clientId: string }) =>
          token.clientId === clientId,
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context: unknown, resource: string) => ({
          scope: "read write",
          audience: resource,
          accessTokenTTL: LIVES_SECONDS,
          ...(resource === JWT_API ? { accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } } : {}),
        }),
      },
    },
    ttl: { AccessToken: LIVES_SECONDS, ClientCredentials: LIVES_SECONDS, RefreshToken: 86_400, Grant: 86_400 },
  };
}

/** RFC 8693, which the provider does not have: a token that it knows, for one that may do what was asked. */
function exchanges(provider: Provider): void {
  const parameters = ["subject_token", "subject_token_type", "requested_token_type", "scope", "resource", "audience"];
  provider.registerGrantType(
    EXCHANGE,
    async (context) => {
      const { subject_token: subject, subject_token_type: type, scope } = context.oidc.params;
      const known = await provider.ClientCredentials.find(subject ?? "");
      if (known === undefined || type !== "urn:ietf:params:oauth:token-type:access_token") {
        context.status = 400;
        context.body = { error: "invalid_grant" };
        return;
      }
      const made = new provider.ClientCredentials({ client: context.oidc.client, scope });
      context.body = {
        access_token: await made.save(),
        issued_token_type: type,
        token_type: "Bearer",
        expires_in: made.expiration,
        scope,
      };
    },
    parameters,
  );
}

/** An API as they are: it asks the authorization server about each token, and takes those for itself alone. */
async function serveApi(issuer: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const token = /^Bearer (\S+)$/.exec(request.headers.authorization ?? "")?.[1] ?? "";
  const answer = await fetch(`${issuer}/token/introspection`, {
    method: "POST",
    headers: { authorization: `Basic ${Buffer.from(`api:${SECRET}`).toString("base64")}` },
    body: new URLSearchParams({ token }),
  });
  const { active, scope = "" } = (await answer.json()) as { active?: boolean; scope?: string };
  const wanted = request.method === "GET" ? "read" : "write";
  if (active !== true) send(response, { status: 401, headers: { "www-authenticate": 'Bearer error="invalid_token"' } });
  else if (!scope.split(" ").includes(wanted)) send(response, { status: 403 });
  else send(response, { status: 200, body: { hello: "world" } });
}

function send(response: ServerResponse, { status, body, headers = {} }: Reply): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body));
}
