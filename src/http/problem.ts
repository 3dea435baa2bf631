import { MayflyError } from "../lib/errors.ts";
import type { Answer } from "./answer.ts";

/**
 * Where the problem types live. The URI of a type is `<base><code>`; clients compare it, so the base never changes,
 * whether or not anything is served there (RFC 9457 §3.1.1).
 */
const PROBLEM_TYPE_BASE = "https://mayfly.dev/problems/";

/** How an endpoint words its errors: a function from the error to the answer that leaves. */
export type DescribeError = (error: MayflyError, requestId: string) => Answer;

/** The same error, or `internal` with the foreign one as its cause: nothing else may reach a caller. */
export function toMayflyError(error: unknown): MayflyError {
  if (error instanceof MayflyError) return error;
  return new MayflyError("internal", "something failed inside Mayfly; quote the request id when you report it", {
    cause: error,
  });
}

/**
 * The RFC 9457 document of an error. It holds what the error says for the caller and nothing of its cause.
 * `status` differs from the code's own only for what HTTP itself refuses (408, 431).
 */
export function problemAnswer(error: MayflyError, requestId: string, status: number = error.status): Answer {
  const document = {
    type: PROBLEM_TYPE_BASE + error.code,
    title: error.title,
    status,
    detail: error.detail,
    instance: `urn:mayfly:request:${requestId}`,
    code: error.code,
    retryable: error.retryable,
    ...(error.errors.length > 0 ? { errors: error.errors } : {}),
    ...(error.reasons.length > 0 ? { reasons: error.reasons } : {}),
  };
  return {
    status,
    headers: { "content-type": "application/problem+json", ...headersOf(error) },
    body: JSON.stringify(document),
  };
}

/** The headers that an error asks for; `Retry-After` in whole seconds, rounded up. */
export function headersOf(error: MayflyError): Readonly<Record<string, string>> {
  if (error.retryAfterSeconds === undefined) return error.headers;
  return { ...error.headers, "retry-after": String(Math.max(1, Math.ceil(error.retryAfterSeconds))) };
}

/**
 * The challenge of a 401 (RFC 6750 §3): bare when the caller sent no credentials, `invalid_token` when it did, in
 * the scheme that it used.
 */
export function challenge(authorization: string | undefined): string {
  if (authorization === undefined) return "Bearer";
  if (/^basic /i.test(authorization)) return 'Basic realm="mayfly"';
  if (/^dpop /i.test(authorization)) return 'DPoP error="invalid_token"';
  return 'Bearer error="invalid_token"';
}
