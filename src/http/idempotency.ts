import { createHash } from "node:crypto";
import type { Request } from "express";
import { canonicalJson } from "../lib/canonical-json.ts";
import { type ErrorCode, invalid, MayflyError } from "../lib/errors.ts";
import type { Answer } from "./answer.ts";
import { toMayflyError } from "./problem.ts";

/** Whose key it is. The same key of another caller or for another route is another key. */
export interface IdempotencyScope {
  readonly tenantId: string;
  readonly subject: string;
  /** `POST /v1/tasks`: method and route pattern. */
  readonly route: string;
  readonly key: string;
}

/** A first answer, as it is replayed. `code` is set for refusals. */
export interface StoredReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly code?: ErrorCode;
}

/**
 * What became of a key. `new`: it is now the caller's, who must finish or abandon it with this `lease`; when it
 * does neither (a crash), the key is free again after the store's lock time.
 */
export type Begun =
  | { readonly state: "new"; readonly lease: string }
  | { readonly state: "running" }
  | { readonly state: "done"; readonly reply: StoredReply }
  | { readonly state: "mismatch" };

/** Where keys live. Of many concurrent `begin`s of one scope exactly one gets `new`. */
export interface IdempotencyStore {
  begin(scope: IdempotencyScope, fingerprint: string): Promise<Begun>;
  /** Keeps the answer. Without effect when the lease has passed to someone else. */
  finish(scope: IdempotencyScope, lease: string, reply: StoredReply): Promise<void>;
  /** Frees the key: the next try runs again. Without effect when the lease has passed to someone else. */
  abandon(scope: IdempotencyScope, lease: string): Promise<void>;
}

/** How long a finished key is remembered (published in the API's documentation). */
export const IDEMPOTENCY_RETENTION_HOURS = 24;

const QUOTED = /^"([\x21\x23-\x5b\x5d-\x7e]{1,255})"$/;
const BARE = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,255}$/;

/**
 * The `Idempotency-Key`: a structured-field string (draft-08 §2.1), or the same text without its quotes. Visible
 * ASCII without quotes and backslashes, so the two spellings never differ.
 */
export function idempotencyKeyOf(req: Request): string | undefined {
  const sent = req.headers["idempotency-key"];
  if (sent === undefined) return undefined;
  if (typeof sent === "string") {
    const quoted = QUOTED.exec(sent)?.[1];
    if (quoted !== undefined) return quoted;
    if (BARE.test(sent)) return sent;
  }
  throw invalid("#/header/idempotency-key", "must be 1 to 255 visible ASCII characters, in double quotes");
}

/**
 * What the key is bound to: the path and query that were sent, and every byte of the body. A plain hash, from which a
 * password in the body could be guessed: a store that outlives the process keeps a MAC of it.
 */
export function fingerprintOf(req: Request, raw: Uint8Array): string {
  const question = req.originalUrl.indexOf("?");
  const query = question < 0 ? "" : req.originalUrl.slice(question);
  return createHash("sha256")
    .update(canonicalJson([req.params, query]))
    .update("\n")
    .update(raw)
    .digest("hex");
}

/** An answer under a key. `refusal` is set when it is a stored refusal, which the audit must see again. */
export interface OnceOutcome {
  readonly answer: Answer;
  readonly refusal?: { readonly code: ErrorCode; readonly pointers: readonly string[] };
}

/**
 * Runs `work` for the first request under this key and replays its answer for every later one. What is final is
 * kept, success or refusal; an outage (5xx) or a 429 frees the key. Throws `idempotency_mismatch`, `in_progress`,
 * what `work` throws, and `unavailable` when the store cannot say: then nothing was done.
 *
 * It follows `work` to its end even if nobody waits for the answer any more, so a retry after a time-out gets the
 * first try's outcome and not a second run.
 */
export async function once(
  store: IdempotencyStore,
  scope: IdempotencyScope,
  fingerprint: string,
  work: () => Promise<Answer>,
  describe: (error: MayflyError) => Answer,
): Promise<OnceOutcome> {
  const begun = await store.begin(scope, fingerprint).catch((cause: unknown) => {
    throw new MayflyError("unavailable", "the Idempotency-Key could not be looked up", { cause, retryAfterSeconds: 1 });
  });
  if (begun.state === "mismatch") {
    throw new MayflyError("idempotency_mismatch", "this Idempotency-Key was used with another payload");
  }
  if (begun.state === "running") {
    throw new MayflyError("in_progress", "the first request with this Idempotency-Key is still running", {
      retryAfterSeconds: 1,
    });
  }
  if (begun.state === "done") return replay(begun.reply);

  // The work is done: an answer that says so is worth more than one that says the bookkeeping failed. The key
  // stays locked meanwhile, so a retry gets 409 until the lock time has passed.
  const settle = (answer: Answer, code?: ErrorCode) =>
    settled(store, scope, begun.lease, answer, code).catch(() => undefined);
  try {
    const answer = await work();
    await settle(answer);
    return { answer };
  } catch (thrown) {
    const error = toMayflyError(thrown);
    await settle(describe(error), error.code);
    throw error;
  }
}

function replay(reply: StoredReply): OnceOutcome {
  const { status, headers, body, code } = reply;
  const answer = { status, headers: { ...headers, "idempotency-replayed": "true" }, body };
  return code === undefined ? { answer } : { answer, refusal: { code, pointers: [] } };
}

function settled(
  store: IdempotencyStore,
  scope: IdempotencyScope,
  lease: string,
  { status, headers, body }: Answer,
  code: ErrorCode | undefined,
): Promise<void> {
  const isFinal = typeof body === "string" && status < 500 && code !== "rate_limited" && code !== "in_progress";
  if (!isFinal) return store.abandon(scope, lease);
  return store.finish(scope, lease, { status, headers, body, ...(code === undefined ? {} : { code }) });
}
