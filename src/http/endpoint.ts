import type { IncomingHttpHeaders } from "node:http";
import type { z } from "zod";
import type { ClientAssertion, ClientCertificate, Principal, Role } from "../identity/principal.ts";

/**
 * The request as it arrived. For proofs that are bound to it (DPoP's `htm` and `htu`, client authentication on
 * `/oauth`); everything else is in {@link Call}, parsed. A name in `headers` that a rule says comes once did.
 */
export interface RequestFacts {
  readonly method: string;
  /** The path as sent, without the query. */
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** The caller's address: the socket's, or what a trusted proxy says. */
  readonly remoteAddress: string;
  /** By which listener it came: the one that speaks TLS itself, or the plain one. */
  readonly door: "plain" | "tls";
  /** The tenant that the path names, as it was sent, where the path names one. */
  readonly tenantName?: string;
  /** The certificate of the connection, where the caller has shown one. */
  readonly certificate?: ClientCertificate;
  /** How the caller proves who it is in the form, where the endpoint takes that. */
  readonly client?: ClientAssertion;
  /** Whom the form says the caller is, when nothing but a certificate could prove it. */
  readonly clientId?: string;
}

/** What a handler is given: everything is parsed and checked, nothing is raw. */
export interface Call<Params, Query, Body> {
  readonly principal: Principal;
  readonly params: Params;
  readonly query: Query;
  readonly body: Body;
  /** The entity tag of `If-Match` without quotes. Present exactly when the endpoint asks for it. */
  readonly ifMatch: string | undefined;
  /** Present when the caller sent one. The endpoint runner already holds it; only a mint looks at it. */
  readonly idempotencyKey: string | undefined;
  readonly requestId: string;
  readonly request: RequestFacts;
  /** Who calls, true at this moment. For endpoints that say `remembersCaller`, when they see another generation. */
  readonly authenticateAgain: () => Promise<Principal>;
  /** Aborts when the caller hangs up or the server stops waiting. */
  readonly signal: () => AbortSignal;
}

/**
 * What a handler answers. `etag` becomes a strong ETag. `headers` win over the defaults (`Cache-Control`, the media type).
 * `body` of an endpoint that says `stream` is an AsyncIterable of text.
 */
export interface Reply {
  readonly status: number;
  readonly body?: unknown;
  readonly etag?: string | number;
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * One endpoint as data: routing, authentication, parsing, problem documents, OpenAPI and (under test) reply
 * validation come from it.
 */
export interface Endpoint<Params = unknown, Query = unknown, Body = unknown> {
  readonly method: "get" | "post" | "put" | "patch" | "delete";
  /** OpenAPI spelling: `/v1/tasks/{task_id}/end`. */
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  /** Any of these roles may call. `public` needs no caller; its handler gets a principal nobody may look at. */
  readonly allow: readonly Role[] | "public";
  /**
   * The principal may be from memory: true only under its `generation`, which the handler must compare with the one that
   * its own statement reads, before anything is done for the caller. Saves the hot paths a round trip.
   */
  readonly remembersCaller?: true;
  readonly params?: z.ZodType<Params>;
  readonly query?: z.ZodType<Query>;
  readonly body?: z.ZodType<Body>;
  /** `form`: application/x-www-form-urlencoded with no parameter twice (RFC 6749 §3.1). Default `json`. */
  readonly bodyKind?: "json" | "form";
  /** The caller may prove who it is by the form instead of `Authorization`: `client_assertion` (RFC 7521 §4.2), or
   * `client_id` and a certificate (RFC 8705 §2). */
  readonly clientAssertion?: true;
  /** Requires `If-Match` (428 without). */
  readonly conditional?: boolean;
  /** Form parameters that may come more than once (RFC 8693 §2.1): they always arrive as an array. */
  readonly repeatable?: readonly string[];
  /** The largest body, in bytes. Default 64 KiB. */
  readonly bodyLimitBytes?: number;
  /** The most members and elements of a JSON body. Default 500. */
  readonly bodyLimitMembers?: number;
  /** POST endpoints honour `Idempotency-Key` unless `own`: then the handler does it itself. An endpoint whose reply
   * holds a secret must be `own`, because the runner stores the reply to replay it (invariant 11). */
  readonly idempotency?: "own";
  /** The body schema of each success status; `null` when it has no body. */
  readonly replies: Readonly<Record<number, z.ZodType | null>>;
  /** The media type of success bodies. Default `application/json`; without `json` in it, `body` is text or bytes. */
  readonly mediaType?: string;
  /**
   * The body is made while it is read: one piece is asked for when the reader has taken the one before, and the answer ends
   * when the pieces do, when the caller hangs up, reads too slowly, or the server stops. `signal` aborts in each of these
   * cases; the time limit of a request is over once the first byte has left.
   */
  readonly stream?: true;
  /** `oauth`: errors are RFC 6749 §5.2 documents instead of problem documents. */
  readonly errors?: "oauth";
  handle(call: Call<Params, Query, Body>): Promise<Reply>;
}

/** Names an endpoint's types without spelling them. */
export function endpoint<Params, Query, Body>(definition: Endpoint<Params, Query, Body>): Endpoint {
  return definition;
}
