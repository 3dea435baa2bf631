import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { deflateSync } from "node:zlib";
import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";
import { TASK_DETAILS } from "../../src/lib/access-token.ts";
import { type Handler, localServer } from "../identity/local-server.ts";

export const AUDIENCE = "https://tickets.test/api";
export const TOOL_TOKEN = "Bearer the-tool's-own-token";

export interface SigningKey {
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly jwk: JWK;
}

export interface Use {
  readonly credential_id: string;
  readonly action: string;
  readonly resource: string;
  readonly outcome: string;
  readonly at: string;
}

type Parts = {
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly header?: Readonly<Record<string, unknown>>;
  readonly key?: SigningKey;
};

/**
 * An issuer that keeps the broker's side of the contract, in memory, and says so loudly when the other side does not: any
 * number of servers may share its state, as replicas share a database. What a test wants otherwise it replaces in `routes`.
 */
export interface Broker extends AsyncDisposable {
  readonly issuer: string;
  readonly key: SigningKey;
  readonly published: JWK[];
  /** What the tool serves, as the stream says. */
  readonly audiences: string[];
  readonly routes: Record<"metadata" | "jwks" | "events" | "uses" | "list", Handler>;
  /** How often each route was asked. */
  readonly asked: Record<string, number>;
  /** The cursors that streams resumed from; undefined for a stream from the start. */
  readonly cursors: (string | undefined)[];
  readonly uses: Use[];
  readonly idempotencyKeys: string[];
  readonly problems: string[];
  now(): number;
  mint(parts?: Parts): Promise<string>;
  setStatus(jti: string, status: number): void;
  /** Ends every open stream as a server that goes away does. */
  endStreams(): void;
  openStreams(): number;
  listToken(parts?: Parts & { readonly statuses?: Readonly<Record<number, number>> }): Promise<string>;
}

export async function signingKey(): Promise<SigningKey> {
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  const bare = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(bare);
  return { kid, privateKey, jwk: { ...bare, kid, alg: "ES256", use: "sig" } };
}

const LIST_BITS = 2;

export async function startBroker(): Promise<Broker> {
  const key = await signingKey();
  const exps = new Map<string, number>();
  const invalid = new Map<string, number>();
  const log: { jti: string; status: number; exp: number }[] = [];
  const streams = new Set<{ response: ServerResponse; sent: number }>();
  const accepted = new Map<string, string>();
  const now = (): number => Math.floor(Date.now() / 1000);

  const push = (stream: { response: ServerResponse; sent: number }): void => {
    const statuses = log.slice(stream.sent);
    stream.sent = log.length;
    if (statuses.length > 0)
      stream.response.write(
        `event: status\nid: c${log.length}\ndata: ${JSON.stringify({ statuses, complete: false, more: false })}\n\n`,
      );
  };
  const alive = setInterval(() => {
    for (const { response } of streams) response.write(`event: alive\ndata: {"at_ms":${Date.now()}}\n\n`);
  }, 200);

  const demand = (request: IncomingMessage, response: ServerResponse): boolean => {
    if (request.headers.authorization === TOOL_TOKEN) return true;
    response.writeHead(401).end();
    return false;
  };
  const json = (response: ServerResponse, body: unknown, type = "application/json"): void => {
    response.writeHead(200, { "content-type": type }).end(JSON.stringify(body));
  };

  const broker: Broker = {
    issuer: "",
    key,
    published: [key.jwk],
    audiences: [AUDIENCE],
    asked: {},
    cursors: [],
    uses: [],
    idempotencyKeys: [],
    problems: [],
    now,
    routes: {
      metadata(_request, response) {
        json(response, {
          issuer: broker.issuer,
          jwks_uri: `${broker.issuer}/.well-known/jwks.json`,
          mayfly_status_events_endpoint: eventsEndpoint(broker),
          mayfly_uses_endpoint: usesEndpoint(broker),
          response_types_supported: [],
        });
      },
      jwks: (_request, response) => json(response, { keys: broker.published }, "application/jwk-set+json"),
      events(request, response) {
        if (!demand(request, response)) return;
        if (request.headers.accept !== "text/event-stream") broker.problems.push("no Accept: text/event-stream");
        const cursor = request.headers["last-event-id"] as string | undefined;
        broker.cursors.push(cursor);
        const from = /^c([0-9]+)$/.exec(cursor ?? "")?.[1];
        if (cursor !== undefined && from === undefined) {
          response.writeHead(400).end();
          return;
        }
        response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
        const stream = { response, sent: from === undefined ? log.length : Number(from) };
        if (from === undefined) {
          const statuses = [...invalid].map(([jti, status]) => ({ jti, status, exp: exps.get(jti) ?? now() + 300 }));
          const all = { statuses, complete: true, more: false, audiences: broker.audiences };
          response.write(`event: status\nid: c${log.length}\ndata: ${JSON.stringify(all)}\n\n`);
        } else push(stream);
        streams.add(stream);
        response.on("close", () => streams.delete(stream));
      },
      uses(request, response) {
        if (!demand(request, response)) return;
        void bodyOf(request).then((text) => {
          const name = request.headers["idempotency-key"];
          if (typeof name !== "string") broker.problems.push("no Idempotency-Key");
          const before = accepted.get(String(name));
          if (before !== undefined && before !== text) broker.problems.push("one Idempotency-Key, two bodies");
          if (before === undefined) broker.uses.push(...checkedUses(text, broker.problems));
          accepted.set(String(name), text);
          broker.idempotencyKeys.push(String(name));
          json(response, { accepted: (JSON.parse(text) as { uses: unknown[] }).uses.length, unknown: 0 });
        });
      },
      list(request, response) {
        if (request.headers.accept !== "application/statuslist+jwt") broker.problems.push("no Accept of a list");
        void broker.listToken().then((token) => {
          response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(token);
        });
      },
    },
    async mint({ claims = {}, header = {}, key: by = key } = {}) {
      const all: Record<string, unknown> = {
        iss: broker.issuer,
        aud: AUDIENCE,
        sub: "agt_reporter",
        client_id: "reporter",
        jti: `crd_${randomUUID().replaceAll("-", "")}`,
        iat: now(),
        exp: now() + 300,
        authorization_details: [
          {
            type: TASK_DETAILS,
            task_id: "tsk_1",
            locations: [AUDIENCE],
            actions: ["read", "comment"],
            resources: ["tickets"],
            constraints: { environment: "production", data_class_max: "internal" },
            purpose: "triage",
          },
        ],
        ...claims,
      };
      exps.set(String(all["jti"]), Number(all["exp"]));
      const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
      return new SignJWT(kept)
        .setProtectedHeader({ alg: "ES256", typ: "at+jwt", kid: by.kid, ...header })
        .sign(by.privateKey);
    },
    setStatus(jti, status) {
      if (status === 0) invalid.delete(jti);
      else invalid.set(jti, status);
      log.push({ jti, status, exp: exps.get(jti) ?? now() + 300 });
      for (const stream of streams) push(stream);
    },
    endStreams() {
      for (const { response } of streams) response.destroy();
    },
    openStreams: () => streams.size,
    async listToken({ claims = {}, header = {}, key: by = key, statuses = {} } = {}) {
      const bytes = Buffer.alloc(1 << 10);
      for (const [index, status] of Object.entries(statuses)) {
        const at = Number(index) * LIST_BITS;
        bytes[at >> 3] = (bytes[at >> 3] ?? 0) | (status << (at & 7));
      }
      const all: Record<string, unknown> = {
        iss: broker.issuer,
        sub: `${broker.issuer}/status/1`,
        iat: now(),
        exp: now() + 60,
        ttl: 15,
        status_list: { bits: LIST_BITS, lst: deflateSync(bytes, { level: 9 }).toString("base64url") },
        ...claims,
      };
      const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
      return new SignJWT(kept)
        .setProtectedHeader({ alg: "ES256", typ: "statuslist+jwt", kid: by.kid, ...header })
        .sign(by.privateKey);
    },
    async [Symbol.asyncDispose]() {
      clearInterval(alive);
      await server[Symbol.asyncDispose]();
    },
  };
  const paths: Record<string, keyof Broker["routes"]> = {
    "/.well-known/oauth-authorization-server/t/acme": "metadata",
    "/t/acme/.well-known/jwks.json": "jwks",
    "/status/events": "events",
    "/v1/uses": "uses",
    "/t/acme/status/1": "list",
  };
  const server = await localServer((request, response) => {
    const route = paths[request.url ?? ""];
    if (route === undefined) {
      response.writeHead(404).end();
      return;
    }
    broker.asked[route] = (broker.asked[route] ?? 0) + 1;
    broker.routes[route](request, response);
  });
  return Object.assign(broker, { issuer: `${server.origin}/t/acme` });
}

/** Both are the deployment's, not the tenant's. */
export function eventsEndpoint({ issuer }: Pick<Broker, "issuer">): string {
  return new URL("/status/events", issuer).href;
}

export function usesEndpoint({ issuer }: Pick<Broker, "issuer">): string {
  return new URL("/v1/uses", issuer).href;
}

export async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of request) text += String(chunk);
  return text;
}

function checkedUses(text: string, problems: string[]): Use[] {
  const { uses } = JSON.parse(text) as { uses: Use[] };
  if (uses.length < 1 || uses.length > 500) problems.push(`a batch of ${uses.length}`);
  for (const use of uses) {
    const { credential_id: id, action, resource, outcome, at, ...others } = use;
    const isGood =
      id.startsWith("crd_") && action !== "" && resource !== "" && ["allowed", "refused"].includes(outcome);
    const moment = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(at);
    if (!isGood || !moment || Object.keys(others).length > 0) problems.push(`not a use: ${JSON.stringify(use)}`);
  }
  return uses;
}
