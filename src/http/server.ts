import { constants } from "node:crypto";
import { createServer, IncomingMessage, type Server, type ServerOptions, ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from "express";
import type { Registry } from "prom-client";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { assertEndpoints, byPath, routePatternOf } from "./catalogue.ts";
import { certificateReader } from "./client-certificate.ts";
import type { Endpoint } from "./endpoint.ts";
import { createExchanges, type Exchanges, type Run } from "./exchange.ts";
import { createFailedAuthLimit } from "./failed-auth-limit.ts";
import { MAX_HEADERS } from "./headers.ts";
import { alive, type HealthCheck, metricsPage, readiness } from "./health.ts";
import type { IdempotencyStore } from "./idempotency.ts";
import { answerMalformed } from "./malformed.ts";
import { createHttpMetrics } from "./metrics.ts";
import { openApiDocument } from "./openapi.ts";
import { problemAnswer, toMayflyError } from "./problem.ts";
import { type Authenticate, describeErrorsOf, type OnRefused, runEndpoint } from "./run-endpoint.ts";

/** What bounds one server. In milliseconds, bytes or counts. */
export interface HttpLimits {
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  readonly connectionsCheckingIntervalMs: number;
  readonly maxHeaderBytes: number;
  readonly maxRequestsPerSocket: number;
  readonly maxConnections: number;
  /** From the headers of a request to its answer, everything included. Then 503. */
  readonly handlerTimeoutMs: number;
  /** How long a streamed answer waits for its reader. Then it is cut off. */
  readonly slowReaderMs: number;
  /** How long {@link HttpServer.stop} waits for what is in flight. */
  readonly stopTimeoutMs: number;
}

/** The defaults of every server. Node's own are made for the open web (60 s of headers, 300 s of body). */
const httpLimits: HttpLimits = {
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 15_000,
  keepAliveTimeoutMs: 5_000,
  connectionsCheckingIntervalMs: 2_000,
  // A caller's token may have 8 KiB (identity refuses more) and travels in Authorization, perhaps beside a DPoP
  // proof; with 8 KiB for all headers together the largest legal token would be a 431.
  maxHeaderBytes: 16 * 1024,
  maxRequestsPerSocket: 1_000,
  maxConnections: 2_000,
  handlerTimeoutMs: 30_000,
  slowReaderMs: 10_000,
  stopTimeoutMs: 10_000,
};

export interface HttpServerOptions {
  readonly endpoints: readonly Endpoint[];
  readonly authenticate: Authenticate;
  readonly idempotency: IdempotencyStore;
  readonly log: Log;
  /** With it, requests are measured and `/metrics` exists. */
  readonly metrics?: Registry;
  /** What `/readyz` looks at, by name. */
  readonly health: Readonly<Record<string, HealthCheck>>;
  /** The same for what nobody waits for: `/readyz` names it when it fails, and is 200. Default: none. */
  readonly healthWarnings?: Readonly<Record<string, HealthCheck>>;
  readonly onRefused: OnRefused;
  readonly limits?: Partial<HttpLimits>;
  /** Addresses (or networks) of proxies whose `X-Forwarded-For` is believed. Default: none. */
  readonly trustProxy?: readonly string[];
  /** Addresses or networks of proxies whose `Client-Cert` is believed (RFC 9440). Default: none. */
  readonly clientCertProxies?: readonly string[];
  /** PEM. With it there is a second listener, which speaks TLS and asks every client for a certificate. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** Checks every reply against its declaration: on in tests, where a difference must fail. */
  readonly validateReplies?: boolean;
  readonly version?: string;
}

export interface HttpServer {
  readonly app: Express;
  readonly server: Server;
  /** Listens and gives the bound port; `0` picks a free one. */
  start(host: string, port: number): Promise<number>;
  /** The same for the listener that speaks TLS. Rejects when the server was made without it. */
  startTls(host: string, port: number): Promise<number>;
  /**
   * Stops accepting, ends streams, lets what is in flight finish within the limit, then closes every connection, which
   * aborts the rest. Whether everything had finished. Later calls get the same answer.
   */
  stop(): Promise<boolean>;
}

/** The API as an HTTP server: nothing is listening before {@link HttpServer.start}. Throws on a faulty catalogue. */
export function createHttpServer(options: HttpServerOptions): HttpServer {
  const limits = { ...httpLimits, ...options.limits };
  const exchanges = createExchanges({
    log: options.log,
    metrics: options.metrics === undefined ? undefined : createHttpMetrics(options.metrics),
    handlerTimeoutMs: limits.handlerTimeoutMs,
    slowReaderMs: limits.slowReaderMs,
  });
  const app = createApp(options, exchanges);
  const http = {
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: limits.connectionsCheckingIntervalMs,
    maxHeaderSize: limits.maxHeaderBytes,
    requireHostHeader: false,
    ...bornAsExpress(app),
  };
  const server = createServer(http, app);
  const tlsServer =
    options.tls === undefined
      ? undefined
      : createTlsServer(
          { ...http, ...askingForCertificates, ...options.tls, handshakeTimeout: limits.headersTimeoutMs },
          app,
        );
  const servers = tlsServer === undefined ? [server] : [server, tlsServer];
  for (const one of servers) {
    one.on("checkExpectation", exchanges.serve("unmatched", refuseExpectation));
    // One more than we accept, because Node drops the surplus in silence and we want to see it.
    one.maxHeadersCount = MAX_HEADERS + 1;
    one.maxRequestsPerSocket = limits.maxRequestsPerSocket;
    one.maxConnections = limits.maxConnections;
    one.on("clientError", (error, socket) => answerMalformed(error, socket, exchanges, options.log));
  }

  let stopping: Promise<boolean> | undefined;
  return {
    app,
    server,
    start: (host, port) => listen(server, host, port),
    async startTls(host, port) {
      if (tlsServer === undefined) throw new TypeError("this server has no TLS listener");
      return listen(tlsServer, host, port);
    },
    stop: () => (stopping ??= stop(servers, exchanges, limits.stopTimeoutMs)),
  };
}

/**
 * Any certificate is let in: trust is each tenant's own, and is decided where the tenant is known. A connection shows one
 * certificate in a full handshake and never another: no renegotiation, and no session is resumed (reliability D14: what
 * is resumed was verified at another time).
 */
const askingForCertificates = {
  minVersion: "TLSv1.2",
  requestCert: true,
  rejectUnauthorized: false,
  secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
} as const;

/**
 * Requests and responses that have express's prototypes from their birth. Express would give them theirs on arrival,
 * and an object that changes its prototype leaves V8's fast paths for good, in all the code that touches it: a fifth of
 * the processor time of a mint. Node's constructors are functions, and are called as such: `Reflect.construct` costs more
 * than it saves.
 */
function bornAsExpress(app: Express): Pick<ServerOptions, "IncomingMessage" | "ServerResponse"> {
  function Request(this: object, ...given: unknown[]): void {
    Reflect.apply(IncomingMessage as unknown as Constructor, this, given);
  }
  Request.prototype = app.request;
  function Response(this: object, ...given: unknown[]): void {
    Reflect.apply(ServerResponse as unknown as Constructor, this, given);
  }
  Response.prototype = app.response;
  return { IncomingMessage: Request as never, ServerResponse: Response as never };
}

type Constructor = (this: object, ...given: unknown[]) => void;

function createApp(options: HttpServerOptions, exchanges: Exchanges): Express {
  assertEndpoints(options.endpoints);
  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.enable("strict routing");
  app.enable("case sensitive routing");
  app.set("query parser", "simple");
  app.set("trust proxy", options.trustProxy === undefined ? false : [...options.trustProxy]);

  const { serve } = exchanges;
  const deps = {
    authenticate: options.authenticate,
    idempotency: options.idempotency,
    onRefused: options.onRefused,
    failedAuth: createFailedAuthLimit(),
    readCertificate: certificateReader(options.clientCertProxies ?? []),
    validateReplies: options.validateReplies === true,
  };
  for (const [path, endpoints] of byPath(options.endpoints)) {
    const handlers = endpoints.map((endpoint): [string, RequestHandler] => [
      endpoint.method,
      serve(path, runEndpoint(endpoint, deps), { describe: describeErrorsOf(endpoint) }),
    ]);
    mount(app, exchanges, path, new Map(handlers));
  }

  const document = JSON.stringify(openApiDocument(options.endpoints, options.version ?? "0"));
  const jsonDocument = { status: 200, headers: { "content-type": "application/json; charset=utf-8" }, body: document };
  const ready = readiness(options.health, options.healthWarnings ?? {}, (name, err) =>
    options.log.warn({ check: name, err }, "not ready"),
  );
  const quiet = { quiet: true };
  const own: [string, RequestHandler][] = [
    ["/healthz", serve("/healthz", alive, quiet)],
    ["/readyz", serve("/readyz", ready, quiet)],
    ["/openapi.json", serve("/openapi.json", async () => jsonDocument)],
  ];
  if (options.metrics !== undefined) own.push(["/metrics", serve("/metrics", metricsPage(options.metrics), quiet)]);
  for (const [path, handler] of own) mount(app, exchanges, path, new Map([["get", handler]]));

  app.use(
    serve("unmatched", async () => {
      throw new MayflyError("not_found", "there is no such path");
    }),
  );
  app.use(refuseBadPath(exchanges));
  return app;
}

function mount(app: Express, { serve }: Exchanges, path: string, handlers: ReadonlyMap<string, RequestHandler>): void {
  const route = app.route(routePatternOf(path));
  const allow = [...handlers.keys()].map((method) => method.toUpperCase());
  if (handlers.has("get")) allow.push("HEAD");
  allow.push("OPTIONS");
  const headers = { allow: allow.join(", ") };
  for (const [method, handler] of handlers) route[method as "get"](handler);
  route.options(serve(path, async () => ({ status: 204, headers, body: "" })));
  route.all(
    serve(path, async ({ requestId }) => {
      const error = new MayflyError("method_not_allowed", `this path takes ${headers.allow}`);
      const answer = problemAnswer(error, requestId);
      return { ...answer, headers: { ...answer.headers, ...headers } };
    }),
  );
}

// The only expectation there is, is 100-continue, and Node sees to that one (RFC 9110 §10.1.1).
const refuseExpectation: Run = async ({ requestId }) =>
  problemAnswer(new MayflyError("invalid_request", "this expectation cannot be met"), requestId, 417);

/** What express itself refuses: a path that does not decode (404, as for any id that is not one), or a bug. */
function refuseBadPath({ serve }: Exchanges): ErrorRequestHandler {
  // Express tells an error handler by its four parameters.
  return (error: unknown, req, res, next) => {
    const badPath = error instanceof URIError || (error as { status?: unknown }).status === 400;
    const run = serve("unmatched", async () => {
      throw badPath ? notFound() : toMayflyError(error);
    });
    return run(req, res, next);
  };
}

function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}

async function stop(servers: readonly Server[], exchanges: Exchanges, limitMs: number): Promise<boolean> {
  exchanges.drain();
  const closed = Promise.all(servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), limitMs);
  });
  const finished = await Promise.race([exchanges.idle().then(() => true), late]);
  clearTimeout(timer);
  for (const server of servers) server.closeAllConnections();
  await closed;
  return finished;
}
