import { once } from "node:events";
import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders } from "node:http";
import { connect, type Socket } from "node:net";
import type { Registry } from "prom-client";
import { z } from "zod";
import { type Endpoint, endpoint } from "../../src/http/endpoint.ts";
import type { Refusal } from "../../src/http/run-endpoint.ts";
import { createHttpServer, type HttpServer, type HttpServerOptions } from "../../src/http/server.ts";
import type { Principal, Role } from "../../src/identity/principal.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { type Id, idPattern } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { memoryIdempotency } from "../support/memory-idempotency.ts";
import { until } from "../support/until.ts";

/** What a test got back. `json` is the parsed body, `{}` for an empty one. */
export interface Got {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly text: string;
  readonly json: Readonly<Record<string, unknown>>;
}

export interface Ask {
  readonly method?: string;
  readonly path?: string;
  /** Null sends no Authorization. Default: an agent of tenant acme. */
  readonly as?: string | null;
  readonly headers?: OutgoingHttpHeaders;
  /** An object is sent as JSON. */
  readonly body?: unknown;
}

/** A server under test on a free port; it stops when disposed. */
export interface Serving extends AsyncDisposable {
  readonly http: HttpServer;
  readonly port: number;
  readonly log: Readonly<Record<string, unknown>>[];
  readonly refusals: (Refusal & { readonly subject: string | undefined })[];
  ask(ask?: Ask): Promise<Got>;
  /** Sends these bytes on a connection of their own and gives all that comes back until it closes. */
  raw(bytes: string | Buffer): Promise<string>;
  open(): Promise<Socket>;
  /** The log line of a request, once it is written. */
  logged(requestId: string): Promise<Readonly<Record<string, unknown>>>;
}

export type ServingOptions = Partial<HttpServerOptions> & { readonly metrics?: Registry };

export async function serving(endpoints: readonly Endpoint[], options: ServingOptions = {}): Promise<Serving> {
  const log: Record<string, unknown>[] = [];
  const refusals: (Refusal & { readonly subject: string | undefined })[] = [];
  const http = createHttpServer({
    endpoints,
    authenticate: authenticateForTest,
    idempotency: memoryIdempotency(),
    log: createLog("debug", { write: (line) => log.push(JSON.parse(line) as Record<string, unknown>) }),
    health: {},
    onRefused: async (principal, refusal) => {
      refusals.push({ ...refusal, subject: principal?.subject });
    },
    validateReplies: true,
    ...options,
  });
  const port = await http.start("127.0.0.1", 0);
  return {
    http,
    port,
    log,
    refusals,
    ask: (ask) => send(port, ask ?? {}),
    raw: (bytes) => sendRaw(port, bytes),
    open: () => opened(port),
    logged: (requestId) =>
      until(`the log line of ${requestId}`, () => log.find((line) => line["requestId"] === requestId)),
    [Symbol.asyncDispose]: async () => {
      await http.stop();
    },
  };
}

/** `Bearer <role>[@<tenant>][/<subject>]` is a caller; anything else is not. */
export async function authenticateForTest(headers: { authorization?: string | undefined }): Promise<Principal> {
  const match = /^Bearer ([a-z]+)(?:@([a-z]+))?(?:\/([a-z0-9-]+))?$/.exec(headers.authorization ?? "");
  if (match === null) throw new MayflyError("unauthenticated", "send a token of one of the tenant's trust sources");
  const [, role = "", tenantName = "acme", subject = "caller-1"] = match;
  const hex = Buffer.from(tenantName).toString("hex").padEnd(32, "0").slice(0, 32);
  return {
    tenantId: `ten_${hex}` as Id<"tenant">,
    tenantName,
    subject,
    roles: [role as Role],
    binding: "bearer",
    generation: 1,
  };
}

export const TASK_ID = `tsk_${"0".repeat(31)}1`;

/** Where most tests post to: answers 201 with what it was given. */
export const Note = z.strictObject({
  text: z.string().max(100_000),
  level: z.number().int().min(1).max(10).optional(),
  tags: z.array(z.strictObject({ name: z.string() })).optional(),
});

export function noteEndpoint(handle?: Endpoint<unknown, unknown, z.infer<typeof Note>>["handle"]): Endpoint {
  return endpoint({
    method: "post",
    path: "/v1/notes",
    summary: "Write a note",
    tag: "notes",
    allow: ["agent", "admin"],
    body: Note,
    replies: { 201: z.strictObject({ note: Note }) },
    handle: handle ?? (async ({ body }) => ({ status: 201, body: { note: body } })),
  });
}

export function taskEndpoint(overrides: Partial<Endpoint> = {}): Endpoint {
  return endpoint({
    method: "get",
    path: "/v1/tasks/{task_id}",
    summary: "Read a task",
    tag: "tasks",
    allow: ["agent"],
    params: z.strictObject({ task_id: z.string().regex(idPattern("task")) }),
    replies: { 200: z.strictObject({ id: z.string() }) },
    handle: async ({ params }) => ({ status: 200, body: { id: params.task_id }, etag: 7 }),
    ...(overrides as object),
  });
}

async function send(port: number, ask: Ask): Promise<Got> {
  const isJson = ask.body !== undefined && typeof ask.body !== "string" && !Buffer.isBuffer(ask.body);
  const payload = isJson ? JSON.stringify(ask.body) : ask.body;
  const request = httpRequest({
    host: "127.0.0.1",
    port,
    agent: false,
    method: ask.method ?? (payload === undefined ? "GET" : "POST"),
    path: ask.path ?? "/v1/notes",
    headers: {
      ...(ask.as === null ? {} : { authorization: ask.as ?? "Bearer agent" }),
      ...(payload === undefined ? {} : { "content-type": "application/json" }),
      ...(payload === undefined || ask.headers?.["transfer-encoding"] !== undefined
        ? {}
        : { "content-length": Buffer.byteLength(payload) }),
      ...ask.headers,
    },
  });
  request.end(payload);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString("utf8");
  const type = response.headers["content-type"] ?? "";
  return {
    status: response.statusCode ?? 0,
    headers: response.headers as Record<string, string>,
    text,
    json: text !== "" && type.includes("json") ? (JSON.parse(text) as Record<string, unknown>) : {},
  };
}

async function opened(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
}

async function sendRaw(port: number, bytes: string | Buffer): Promise<string> {
  const socket = await opened(port);
  socket.write(bytes);
  return received(socket);
}

/** All that comes on a connection until it closes, a reset included. */
export async function received(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.on("error", () => undefined);
  await once(socket, "close");
  return Buffer.concat(chunks).toString("latin1");
}

/** A promise and its key. */
export function gate<Value = void>(): { readonly passed: Promise<Value>; readonly open: (value: Value) => void } {
  let open: (value: Value) => void = () => undefined;
  const passed = new Promise<Value>((resolve) => {
    open = resolve;
  });
  return { passed, open };
}
