import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { invalid, MayflyError } from "../lib/errors.ts";

/** The most headers that one request may carry. Node drops what is beyond its own limit in silence, so we count. */
export const MAX_HEADERS = 64;

/** On every answer, whatever it is. There is no CORS: a browser page has no business with this API. */
export const securityHeaders: Readonly<Record<string, string>> = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "referrer-policy": "no-referrer",
  "strict-transport-security": "max-age=31536000",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "()",
};

const single = new Set([
  "authorization",
  "client-cert",
  "content-encoding",
  "content-type",
  "dpop",
  "host",
  "idempotency-key",
  "if-match",
]);

/**
 * Refuses a request in which a header that decides something comes twice. Node keeps the first `Authorization` and
 * joins others with commas; a proxy in front may have looked at the other one.
 */
export function assertHeadersOnce(req: IncomingMessage): void {
  const raw = req.rawHeaders;
  if (raw.length > 2 * MAX_HEADERS) {
    throw new MayflyError("invalid_request", `more than ${MAX_HEADERS} headers`);
  }
  let seen: Set<string> | undefined;
  for (let index = 0; index < raw.length; index += 2) {
    const name = (raw[index] ?? "").toLowerCase();
    if (!single.has(name)) continue;
    seen ??= new Set();
    if (seen.has(name)) throw invalid(`#/header/${name}`, "this header was sent more than once");
    seen.add(name);
  }
}

const REQUEST_ID = /^[A-Za-z0-9_-]{8,64}$/;

/** The caller's `X-Request-Id` when it cannot break anything that prints it, else a new one. */
export function requestIdOf(req: IncomingMessage): string {
  const sent = req.headers["x-request-id"];
  return typeof sent === "string" && REQUEST_ID.test(sent) ? sent : randomUUID();
}

const STRONG_TAG = /^"([\x21\x23-\x7e]{1,128})"$/;

/**
 * The entity tag that the caller names in `If-Match`: exactly one strong tag. 428 without the header; a weak tag
 * never matches (RFC 9110 §13.1.1), so it is 412 at once; `*` and lists are refused, because they do not say
 * which version the caller read.
 */
export function ifMatchOf(req: IncomingMessage): string {
  const sent = req.headers["if-match"];
  if (sent === undefined) {
    throw new MayflyError("precondition_required", "send If-Match with the ETag of the version you read");
  }
  if (sent.startsWith("W/")) {
    throw new MayflyError("precondition_failed", "a weak entity tag never matches; send the strong one");
  }
  const tag = STRONG_TAG.exec(sent.trim())?.[1];
  if (tag === undefined) throw invalid("#/header/if-match", "must be one strong entity tag in double quotes");
  return tag;
}

/** Whether `If-None-Match` names this tag (weak comparison, RFC 9110 §13.1.2): the answer is then 304. */
export function noneMatchHas(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  if (header.trim() === "*") return true;
  return header.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag);
}
