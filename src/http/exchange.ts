import type { IncomingMessage } from "node:http";
import { performance } from "node:perf_hooks";
import type { Request, RequestHandler, Response } from "express";
import type { Principal } from "../identity/principal.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Answer } from "./answer.ts";
import { requestIdOf, securityHeaders } from "./headers.ts";
import type { HttpMetrics } from "./metrics.ts";
import { pour } from "./pour.ts";
import { type DescribeError, problemAnswer, toMayflyError } from "./problem.ts";

/** One request from its arrival to its last byte. */
export interface Exchange {
  readonly req: Request;
  readonly res: Response;
  readonly requestId: string;
  /** The route pattern, never the path: it is a log field and a metric label. */
  readonly route: string;
  /** Aborts when the caller hangs up, the time limit passes or the server stops waiting and closes. */
  readonly signal: () => AbortSignal;
  /** For the log line. Set as soon as the caller is known. */
  principal: Principal | undefined;
  /** For the log line. */
  error: MayflyError | undefined;
}

/** Produces the answer of one exchange. What it throws becomes a 500, except {@link clientGone}. */
export type Run = (exchange: Exchange) => Promise<Answer>;

/** Thrown when there is nobody left to answer. */
export const clientGone = new Error("the caller hung up");

// A client that is told "no" early is still sending. Reading on for a while lets it see the answer instead of a
// reset; without an end it would be a way to keep us reading.
const DISCARD_AT_MOST = 1024 * 1024;

interface ExchangesDeps {
  readonly log: Log;
  readonly metrics: HttpMetrics | undefined;
  readonly handlerTimeoutMs: number;
  readonly slowReaderMs: number;
}

interface ServeOptions {
  readonly describe?: DescribeError;
  /** Log at `debug`: a probe every few seconds is not news. */
  readonly quiet?: boolean;
}

interface OpenExchange extends Exchange {
  /** Where it is among the open ones. */
  at: number;
  silence(): void;
}

/** What turns {@link Run}s into express handlers, and knows every exchange that is open. */
export interface Exchanges {
  /**
   * An express handler that answers with what `run` gives, within the time limit (503 and an aborted signal
   * after it), writes one log line and one metric, and answers 503 while the server drains.
   */
  serve(route: string, run: Run, options?: ServeOptions): RequestHandler;
  /** Ends every stream, makes every later request a 503 and every answer the last one of its connection. */
  drain(): void;
  /** Resolves when no exchange is open: answers written, handlers ended, also those nobody waits for any more. */
  idle(): Promise<void>;
  /** Whether HTTP itself may answer on this connection; silences the exchange that is half received there. */
  yieldSocket(socket: unknown): boolean;
}

export function createExchanges(deps: ExchangesDeps): Exchanges {
  // No Set: whenever one outgrows its table, the dead table takes the requests in it along to the old generation.
  const open: OpenExchange[] = [];
  const waiters: (() => void)[] = [];
  const streams = new Set<() => void>();
  let draining = false;

  function serve(route: string, run: Run, options: ServeOptions = {}): RequestHandler {
    const describe = options.describe ?? problemAnswer;
    return (req, res) => {
      const startedAt = performance.now();
      // Made when somebody asks for it: most handlers are done before they would look.
      let controller: AbortController | undefined;
      let aborted: Error | undefined;
      const abort = (reason: Error) => {
        aborted ??= reason;
        controller?.abort(aborted);
      };
      let answered = false;
      const exchange: OpenExchange = {
        req,
        res,
        requestId: requestIdOf(req),
        route,
        // No accessor: V8 keeps a map for each object that has one from a literal, until a full collection, and with it the
        // whole request. Those were a fifth of what this process allocates.
        signal: () => {
          controller ??= new AbortController();
          if (aborted !== undefined) controller.abort(aborted);
          return controller.signal;
        },
        principal: undefined,
        error: undefined,
        at: open.length,
        silence: () => {
          answered = true;
        },
      };
      let isStream = false;
      const answer = (given: Answer): Promise<void> | undefined => {
        if (answered) return undefined;
        if (given.stream !== undefined) {
          answered = isStream = true;
          clearTimeout(deadline);
          // From the arrival to the first byte: how long a stream lasts says nothing about this server.
          deps.metrics?.observe(route, req.method, given.status, (performance.now() - startedAt) / 1000);
          return stream(exchange, given.stream, given, abort);
        }
        write(exchange, given, draining);
        answered = true;
        return undefined;
      };
      const fail = (error: MayflyError) => {
        exchange.error = error;
        void answer(describe(error, exchange.requestId));
      };
      const deadline = setTimeout(() => {
        fail(new MayflyError("unavailable", "the request took too long", { retryAfterSeconds: 1 }));
        abort(new Error("the time limit passed"));
      }, deps.handlerTimeoutMs);

      let parts = 2;
      const release = () => {
        parts -= 1;
        if (parts > 0) return;
        const last = open.pop();
        if (last !== undefined && last !== exchange) {
          open[exchange.at] = last;
          last.at = exchange.at;
        }
        if (open.length === 0) for (const wake of waiters.splice(0)) wake();
      };
      open.push(exchange);
      res.once("close", () => {
        clearTimeout(deadline);
        if (isStream || !res.writableFinished) abort(new Error("the caller hung up"));
        record(exchange, (performance.now() - startedAt) / 1000, options.quiet === true, isStream);
        release();
      });
      const refusal = draining
        ? new MayflyError("unavailable", "this server is stopping", { retryAfterSeconds: 1 })
        : malformed(req);
      if (refusal !== undefined) {
        fail(refusal);
        release();
        return;
      }
      run(exchange)
        .then(answer)
        .catch((error: unknown) => {
          if (error !== clientGone) fail(toMayflyError(error));
        })
        // An answer that cannot be written at all ends its connection, not the process.
        .catch(() => res.destroy())
        .finally(release);
    };
  }

  /** Resolves when the answer has ended, whoever ended it. */
  async function stream(
    exchange: Exchange,
    pieces: AsyncIterable<string>,
    answer: Answer,
    abort: (reason: Error) => void,
  ): Promise<void> {
    const { req, res, requestId } = exchange;
    const signal = exchange.signal();
    const end = () => abort(new Error("the server is stopping"));
    streams.add(end);
    if (draining) end();
    try {
      if (res.destroyed) return;
      res.writeHead(answer.status, headersOf(requestId, answer, draining));
      res.flushHeaders();
      const isRead = req.method === "HEAD" || (await pour(res, pieces, signal, deps.slowReaderMs));
      if (isRead) res.end();
      else res.destroy();
    } catch (error) {
      deps.log.error({ requestId, route: exchange.route, err: error }, "a stream broke off");
      res.destroy();
    } finally {
      streams.delete(end);
      abort(new Error("the stream has ended"));
    }
  }

  function record(exchange: Exchange, seconds: number, quiet: boolean, isMeasured: boolean): void {
    const { req, res, route, principal, error } = exchange;
    const finished = res.writableFinished;
    // 499 is what access logs call "the caller left first"; it never goes over the wire.
    const status = finished ? res.statusCode : 499;
    if (!isMeasured) deps.metrics?.observe(route, req.method, status, seconds);
    const level = finished && status >= 500 ? "error" : quiet ? "debug" : "info";
    deps.log[level](
      {
        requestId: exchange.requestId,
        method: req.method,
        route,
        status,
        ms: Math.round(seconds * 1e5) / 100,
        tenant: principal?.tenantId,
        subject: principal?.subject,
        code: error?.code,
        ...(level === "error" && error !== undefined ? { err: error } : {}),
      },
      "request",
    );
  }

  return {
    serve,
    drain() {
      draining = true;
      for (const end of streams) end();
    },
    idle() {
      if (open.length === 0) return Promise.resolve();
      return new Promise((resolve) => waiters.push(resolve));
    },
    yieldSocket(socket) {
      const here = open.filter((exchange) => exchange.req.socket === socket);
      const [only] = here;
      if (only === undefined) return true;
      // An answer written past a running handler would be read as that handler's: it may well succeed.
      if (here.length > 1 || only.req.complete || only.res.headersSent) return false;
      only.silence();
      return true;
    },
  };
}

function write({ req, res, requestId }: Exchange, answer: Answer, last: boolean): void {
  if (res.destroyed || res.headersSent) return;
  if (!req.complete) discard(req);
  const headers = headersOf(requestId, answer, last);
  if (answer.status !== 204 && answer.status !== 304) headers.push("content-length", Buffer.byteLength(answer.body));
  res.writeHead(answer.status, headers);
  res.end(answer.body);
}

function headersOf(requestId: string, answer: Answer, last: boolean): (string | number)[] {
  // A flat list, because Node takes it as it is; building and walking an object cost twice as much.
  const headers: (string | number)[] = ["x-request-id", requestId];
  for (const [name, value] of everyAnswer) if (answer.headers[name] === undefined) headers.push(name, value);
  for (const name of Object.keys(answer.headers)) headers.push(name, answer.headers[name] ?? "");
  if (last) headers.push("connection", "close");
  return headers;
}

const everyAnswer = Object.entries(securityHeaders);

// RFC 3986 §2. What is not in it (a fragment, a backslash) is where parsers of URLs disagree about the path.
const TARGET = /^[A-Za-z0-9\-._~:/?[\]@!$&'()*+,;=%]*$/;

function malformed(req: IncomingMessage): MayflyError | undefined {
  if (!TARGET.test(req.url ?? "")) return new MayflyError("invalid_request", "the request target is not a URI");
  // RFC 9112 §3.2. Node would refuse it too, with an answer that has none of our headers.
  if (req.headers.host === undefined && req.httpVersion !== "1.0") return invalid("#/header/host", "is missing");
  return undefined;
}

function discard(req: IncomingMessage): void {
  let discarded = 0;
  req.on("data", (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > DISCARD_AT_MOST) req.socket.destroy();
  });
  req.resume();
}
