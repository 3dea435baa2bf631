import type { IncomingHttpHeaders } from "node:http";
import { TLSSocket } from "node:tls";
import type { Certainty, Principal } from "../identity/principal.ts";
import { type ErrorCode, MayflyError, type Reason } from "../lib/errors.ts";
import type { Answer } from "./answer.ts";
import { clientOf } from "./client-assertion.ts";
import type { ReadCertificate } from "./client-certificate.ts";
import type { Endpoint, RequestFacts } from "./endpoint.ts";
import { clientGone, type Exchange, type Run } from "./exchange.ts";
import type { FailedAuthLimit } from "./failed-auth-limit.ts";
import { assertHeadersOnce, ifMatchOf } from "./headers.ts";
import { fingerprintOf, type IdempotencyStore, idempotencyKeyOf, once } from "./idempotency.ts";
import { oauthAnswer } from "./oauth-error.ts";
import { parserOf } from "./parse-request.ts";
import { challenge, type DescribeError, problemAnswer, toMayflyError } from "./problem.ts";
import { DEFAULT_BODY_LIMIT_BYTES, parseFormBody, readRawBody } from "./read-body.ts";
import { assertDeclared, replyAnswer } from "./reply.ts";

/** Says who calls, or throws MayflyError `unauthenticated`. `request` is for proofs bound to method and path. */
export type Authenticate = (
  headers: IncomingHttpHeaders,
  request: RequestFacts,
  certainty: Certainty,
) => Promise<Principal>;

/** A refusal, as data for the audit. It holds pointers, never values. */
export interface Refusal {
  readonly method: string;
  readonly route: string;
  readonly requestId: string;
  readonly code: ErrorCode;
  readonly pointers: readonly string[];
  readonly reasons?: readonly Reason[];
}

/** Records a refusal before it is answered; when it cannot, the caller gets 503 instead (invariant 8). */
export type OnRefused = (principal: Principal | undefined, refusal: Refusal) => Promise<void>;

export interface RunDeps {
  readonly authenticate: Authenticate;
  readonly idempotency: IdempotencyStore;
  readonly onRefused: OnRefused;
  readonly failedAuth: FailedAuthLimit;
  readonly readCertificate: ReadCertificate;
  /** Checks every reply against what its endpoint declares, and fails when it differs. For tests. */
  readonly validateReplies: boolean;
}

/** How this endpoint words its errors. */
export function describeErrorsOf(endpoint: Endpoint): DescribeError {
  return endpoint.errors === "oauth" ? oauthAnswer : problemAnswer;
}

/**
 * An endpoint as a {@link Run}: who calls, may they, is it well formed, was it done before, do it, word the answer.
 * Each step refuses with a MayflyError, and a refusal is recorded before it leaves.
 */
export function runEndpoint(endpoint: Endpoint, deps: RunDeps): Run {
  const route = `${endpoint.method.toUpperCase()} ${endpoint.path}`;
  const describe = describeErrorsOf(endpoint);
  const mutating = endpoint.method !== "get";
  // OAuth knows no Idempotency-Key, and an introspection that is replayed would call the dead alive.
  const honoursKey = endpoint.method === "post" && endpoint.allow !== "public" && endpoint.errors !== "oauth";
  const parse = parserOf(endpoint);

  async function attempt(exchange: Exchange): Promise<Answer> {
    const { req, requestId } = exchange;
    assertHeadersOnce(req);
    const limit = endpoint.bodyLimitBytes ?? DEFAULT_BODY_LIMIT_BYTES;
    const isPublic = endpoint.allow === "public";
    const early = endpoint.clientAssertion ? await readRawBody(req, limit) : undefined;
    const form = early && parseFormBody(req.headers["content-type"], early, endpoint.repeatable ?? []);
    const certificate = isPublic ? undefined : deps.readCertificate(req);
    const request: RequestFacts = {
      ...factsOf(exchange),
      ...(certificate === undefined ? {} : { certificate }),
      ...(form === undefined ? {} : clientOf(req, form, certificate !== undefined)),
    };
    const authenticate = async (certainty: Certainty): Promise<Principal> => {
      const caller = await deps.authenticate(req.headers, request, certainty);
      exchange.principal = caller;
      if (!caller.roles.some((role) => endpoint.allow.includes(role))) {
        // What is remembered may let somebody go on to where it is checked; it refuses nobody.
        if (certainty === "remembered") return authenticate("now");
        throw new MayflyError("forbidden", `this needs one of the roles: ${[...endpoint.allow].join(", ")}`);
      }
      return caller;
    };
    const authenticateAgain = () => authenticate("again");
    const principal = isPublic ? nobody : await authenticate(endpoint.remembersCaller ? "remembered" : "now");
    const ifMatch = endpoint.conditional === true ? ifMatchOf(req) : undefined;
    const raw = early ?? (await readRawBody(req, limit));
    const { params, query, body } = parse(exchange, raw, form);
    const idempotencyKey = honoursKey ? idempotencyKeyOf(req) : undefined;
    const work = async () => {
      const reply = await endpoint.handle({
        principal,
        params,
        query,
        body,
        ifMatch,
        idempotencyKey,
        requestId,
        request,
        authenticateAgain,
        signal: exchange.signal,
      });
      if (deps.validateReplies) assertDeclared(endpoint, reply);
      return replyAnswer(endpoint, reply, req);
    };
    if (idempotencyKey === undefined || endpoint.idempotency === "own") return work();
    const scope = { tenantId: principal.tenantId, subject: principal.subject, route, key: idempotencyKey };
    const outcome = await once(deps.idempotency, scope, fingerprintOf(req, raw), work, (error) =>
      describe(error, requestId),
    );
    if (outcome.refusal !== undefined) await record(exchange, outcome.refusal);
    return outcome.answer;
  }

  async function refuse(exchange: Exchange, thrown: unknown): Promise<Answer> {
    if (thrown === clientGone) throw thrown;
    const failure = toMayflyError(thrown);
    const waitSeconds = failedAuthWait(exchange, failure);
    const error =
      waitSeconds === 0
        ? await recorded(exchange, failure)
        : new MayflyError("rate_limited", "too many failed attempts from this address", {
            retryAfterSeconds: waitSeconds,
            cause: failure,
          });
    exchange.error = error;
    const answer = describe(error, exchange.requestId);
    if (answer.status !== 401) return answer;
    const scheme = challenge(exchange.req.headers.authorization);
    return { ...answer, headers: { ...answer.headers, "www-authenticate": scheme } };
  }

  // A flood of bad credentials must not become a flood of audit rows: beyond its share an address gets 429,
  // unrecorded. Good credentials from the same address still work, or a stranger behind the same proxy could
  // lock everyone out.
  function failedAuthWait(exchange: Exchange, error: MayflyError): number {
    const isRefusal = error.status >= 400 && error.status < 500;
    if (exchange.principal !== undefined || !isRefusal) return 0;
    if (endpoint.allow === "public" && error.code !== "unauthenticated") return 0;
    return deps.failedAuth.take(factsOf(exchange).remoteAddress);
  }

  async function recorded(exchange: Exchange, error: MayflyError): Promise<MayflyError> {
    const isRefusal = error.status >= 400 && error.status < 500;
    if (!isRefusal || !(mutating || error.status === 401)) return error;
    const pointers = error.errors.map(({ pointer }) => pointer);
    try {
      await record(exchange, { code: error.code, pointers, reasons: error.reasons });
      return error;
    } catch (failure) {
      return toMayflyError(failure);
    }
  }

  async function record(exchange: Exchange, what: Pick<Refusal, "code" | "pointers" | "reasons">): Promise<void> {
    const { reasons, ...rest } = what;
    try {
      await deps.onRefused(exchange.principal, {
        method: endpoint.method.toUpperCase(),
        route: endpoint.path,
        requestId: exchange.requestId,
        ...rest,
        ...(reasons === undefined || reasons.length === 0 ? {} : { reasons }),
      });
    } catch (cause) {
      throw new MayflyError("unavailable", "the refusal could not be recorded", { cause, retryAfterSeconds: 1 });
    }
  }

  return async (exchange) => {
    try {
      return await attempt(exchange);
    } catch (error) {
      return refuse(exchange, error);
    }
  };
}

/** What a public endpoint's handler gets: looking at it is a bug, and answered as one. */
const nobody = new Proxy({} as Principal, {
  get() {
    throw new TypeError("a public endpoint has no principal");
  },
});

function factsOf({ req }: Exchange): RequestFacts {
  const { tenant } = req.params;
  return {
    method: req.method,
    path: req.path,
    headers: req.headers,
    remoteAddress: req.ip ?? "",
    door: req.socket instanceof TLSSocket ? "tls" : "plain",
    ...(typeof tenant === "string" ? { tenantName: tenant } : {}),
  };
}
