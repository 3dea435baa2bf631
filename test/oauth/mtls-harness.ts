import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";
import type { ConnectionOptions } from "node:tls";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { newId } from "../../src/lib/ids.ts";
import { type App, startApp } from "../support/app.ts";
import { type Certified, certify, names } from "../support/certificates.ts";
import type { Seeded } from "../support/seed.ts";

const RESOURCE = "https://tickets.test/api";

/** What came back. */
export interface Reply {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies by name and assert what they find
  readonly body: any;
}

/** The network of the proxies that may send `Client-Cert`. Each test case comes from an address of its own in it. */
const PROXIES = "127.0.1.0/24";

/** Mayfly with a TLS listener of its own, and with proxies that may send `Client-Cert`. */
export async function startTlsApp(
  env: Readonly<Record<string, string>> = {},
): Promise<App & { readonly server: Certified }> {
  const server = certify({ cn: "mayfly", san: [names.ip(127, 0, 0, 1)] });
  const app = await startApp({
    env: {
      MAYFLY_TLS_PORT: "0",
      MAYFLY_TLS_CERT: server.cert,
      MAYFLY_TLS_KEY: server.key,
      MAYFLY_CLIENT_CERT_PROXIES: PROXIES,
      MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02: "true",
      ...env,
    },
  });
  return { ...app, server };
}

/** The origin of the TLS listener. */
export function tlsOrigin(app: App): string {
  return app.broker.mtlsUrl() ?? "";
}

export interface Post {
  readonly url: string;
  readonly form: Readonly<Record<string, string>> | string;
  readonly headers?: Readonly<Record<string, string | string[]>>;
  readonly tls?: ConnectionOptions;
  /** The address to come from, so that refusals are not counted together. */
  readonly from?: string;
}

/** Posts a form on a connection of its own. */
export async function post({ url, form, headers = {}, tls = {}, from = "127.0.1.1" }: Post): Promise<Reply> {
  const isTls = url.startsWith("https:");
  const options = {
    method: "POST",
    agent: false as const,
    localAddress: from,
    headers: { "content-type": "application/x-www-form-urlencoded", ...headers },
  };
  const request = isTls ? tlsRequest(url, { ...options, ...tls }) : plainRequest(url, options);
  request.end(typeof form === "string" ? form : new URLSearchParams(form).toString());
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    body: text === "" ? undefined : JSON.parse(text),
  };
}

/** How a client that holds these certificates connects: it trusts the server's, and may use keys that nobody should. */
export function connectionOf(
  server: Certified,
  client?: Certified,
  chain: readonly Certified[] = [],
): ConnectionOptions {
  return {
    ca: server.cert,
    ciphers: "DEFAULT@SECLEVEL=0",
    ...(client === undefined ? {} : { key: client.key, cert: [client, ...chain].map(({ cert }) => cert).join("") }),
  };
}

/** The form of a token request for a task. */
export function tokenForm(taskId: string, more: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    grant_type: "client_credentials",
    resource: RESOURCE,
    authorization_details: JSON.stringify([
      { type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"] },
    ]),
    ...more,
  };
}

/** Registers a trust source and, with an anchor, an identity of the seeded agent, as an admin does: over the API. */
export async function register(
  app: App,
  s: Seeded,
  source: Readonly<Record<string, unknown>>,
  anchor?: readonly [claim: string, value: string],
): Promise<{ readonly sourceId: string; readonly agentId: string }> {
  const admin = await app.token({ sub: "admin" });
  const made = await app.call(admin, "POST", "/v1/trust-sources", { name: newId("trustSource").slice(-12), ...source });
  if (made.status !== 201) throw new Error(`no trust source: ${made.text}`);
  if (anchor === undefined) return { sourceId: made.body.id, agentId: s.agentId };
  const [claim, value] = anchor;
  const bound = await app.call(admin, "POST", "/v1/identities", {
    trust_source_id: made.body.id,
    agent_id: s.agentId,
    anchor_claim: claim,
    anchor_value: value,
  });
  if (bound.status !== 201) throw new Error(`no identity: ${bound.text}`);
  return { sourceId: made.body.id, agentId: s.agentId };
}
