/**
 * Every error that the product answers with, and its HTTP status. The code is the contract: it never changes
 * its meaning. `retryable` says whether the very same request may succeed later.
 */
const codes = {
  invalid_request: { status: 400, retryable: false, title: "The request is not well formed" },
  unauthenticated: { status: 401, retryable: false, title: "The caller's proof of identity was not accepted" },
  denied: { status: 403, retryable: false, title: "The request was refused" },
  forbidden: { status: 403, retryable: false, title: "The caller's role does not allow this" },
  not_found: { status: 404, retryable: false, title: "No such thing" },
  method_not_allowed: { status: 405, retryable: false, title: "The path exists, the method does not" },
  conflict: { status: 409, retryable: false, title: "The present state does not allow this" },
  in_progress: { status: 409, retryable: true, title: "A request with this Idempotency-Key is still running" },
  precondition_failed: { status: 412, retryable: false, title: "It has changed since it was read" },
  payload_too_large: { status: 413, retryable: false, title: "The body is too large" },
  unsupported_media_type: { status: 415, retryable: false, title: "Only application/json is accepted" },
  idempotency_mismatch: { status: 422, retryable: false, title: "The Idempotency-Key was used with another payload" },
  target_refused: { status: 422, retryable: false, title: "The target did not pass its canary" },
  precondition_required: { status: 428, retryable: false, title: "If-Match is required" },
  rate_limited: { status: 429, retryable: true, title: "Too many requests" },
  internal: { status: 500, retryable: true, title: "Mayfly failed" },
  not_supported: { status: 501, retryable: false, title: "Mayfly does not do this" },
  target_rejected: { status: 502, retryable: false, title: "The target system refused" },
  target_unavailable: { status: 503, retryable: true, title: "The target system did not answer" },
  unavailable: { status: 503, retryable: true, title: "Mayfly cannot answer now" },
} as const satisfies Record<string, { status: number; retryable: boolean; title: string }>;

/** A stable error code, as it appears in `code` of a problem document. */
export type ErrorCode = keyof typeof codes;

/** One thing wrong with one field. `pointer` is a JSON pointer (RFC 6901) into the body, or `#/query/x`, `#/path/x`, `#/header/x`. */
export interface FieldError {
  readonly pointer: string;
  readonly detail: string;
}

/**
 * Why a mint was refused, as data: a stable reason code, what it means for the caller, and what would lift it.
 * `remedy` is absent when nothing the caller can do lifts it.
 */
export interface Reason {
  readonly code: string;
  readonly detail: string;
  readonly policy?: string;
  readonly remedy?: string;
}

interface MayflyErrorOptions {
  readonly cause?: unknown;
  readonly errors?: readonly FieldError[];
  readonly reasons?: readonly Reason[];
  /** Seconds after which a retry makes sense; becomes `Retry-After`. */
  readonly retryAfterSeconds?: number;
  /** What the answer must carry so that the caller can try again (`dpop-nonce`). Names in lower case. */
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * The one error class of the product. `detail` goes to the caller: it says what was wrong with what they sent and
 * what to do, and never holds a secret, SQL or another tenant's data. `cause` goes to the log alone.
 */
export class MayflyError extends Error {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly errors: readonly FieldError[];
  readonly reasons: readonly Reason[];
  readonly retryAfterSeconds: number | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor(code: ErrorCode, detail: string, options: MayflyErrorOptions = {}) {
    super(`${code}: ${detail}`, { cause: options.cause });
    this.name = "MayflyError";
    this.code = code;
    this.detail = detail;
    this.errors = options.errors ?? [];
    this.reasons = options.reasons ?? [];
    this.retryAfterSeconds = options.retryAfterSeconds;
    this.headers = options.headers ?? {};
  }

  get status(): number {
    return codes[this.code].status;
  }

  get title(): string {
    return codes[this.code].title;
  }

  get retryable(): boolean {
    return codes[this.code].retryable;
  }
}

/** A 400 that points at one field. */
export function invalid(pointer: string, detail: string): MayflyError {
  return new MayflyError("invalid_request", detail, { errors: [{ pointer, detail }] });
}

/**
 * The one answer for an id that does not exist, is of another kind, or belongs to another tenant. Built here so
 * that the three can never differ by a byte (invariant 10).
 */
export function notFound(): MayflyError {
  return new MayflyError("not_found", "there is nothing with this id here");
}

/** Marks a switch as exhaustive: reaching it is a bug in Mayfly, answered as `internal`, never as a guess. */
export function assertNever(value: never): never {
  throw new MayflyError("internal", "an impossible state was reached", { cause: value });
}
