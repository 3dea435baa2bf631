import { randomBytes } from "node:crypto";
import { AFTER_SECOND_MS, HORIZON_MS } from "./bullmq.ts";
import type { WakeUps } from "./queue.ts";
import type { WakeJob } from "./server.ts";
import { within } from "./within.ts";

/** Closer than this to its second, the shared job of a bucket may have been taken already. */
const LAST_CALL_MS = 1_000;

/** How long a bucket counts as added. Adding it again is harmless, and repairs what a flushed server forgot. */
const TRUST_MS = 60_000;

/** Buckets remembered. The horizon has 3,600; more can only come from a clock that was set. */
const MAX_BUCKETS = 4_096;

const ADD_LIMIT_MS = 500;
const BREAK_MS = 1_000;
const BATCH = 64;

interface WakeUpsOptions {
  /** Hands jobs to the queue's server. May hang, may fail. */
  readonly add: (jobs: readonly WakeJob[]) => Promise<void>;
  /** Called when an add failed or took too long. */
  readonly onFailure: (error: unknown) => void;
  /** Called with how many wake-ups were lost; the sweep does their work. For a metric. */
  readonly onMiss: (count: number) => void;
}

interface Waiting extends WakeJob {
  /** The second that is remembered as added; absent for jobs of their own. */
  readonly bucket?: number;
}

/**
 * Wake-ups over an unreliable `add`. Calls only note what is wanted; one add at a time is under way, with at most
 * 500 ms for it, and what came meanwhile goes with the next one. After a failure no add is tried for a second, and what
 * is asked for in that time is lost: a server that is down costs neither time nor memory.
 *
 * ## Why a wake-up that was accepted cannot come too early for what it was asked for
 * BullMQ silently ignores an id that exists, also while that job is running and its handler has asked Postgres what is
 * due already (reliability B2). A credential that is committed just then would wait for the sweep. So:
 * - `at` is called after the commit, hence a job that is *taken* after the call finds the credential.
 * - The shared job of a second (`wake-<second>`) is used only a full second or more before it is due: it cannot have been
 *   taken yet, unless the clocks of two of our hosts differ by more than that second, and it is taken when due.
 * - Later than that, the wake-up gets an id of its own, which is never ignored: delayed for the rest of the second, or
 *   `now` if the second is over. Credentials are made with minutes to live, so these are few; those that wait while an
 *   add is under way become one.
 * - A call is never answered by an add that began before it: what is under way is not looked at.
 */
export function createWakeUps({ add, onFailure, onMiss }: WakeUpsOptions): WakeUps {
  const process = randomBytes(6).toString("hex");
  let serial = 0;
  // Bucket → until when it counts as added, by the monotonic clock.
  const added = new Map<number, number>();
  // By id, or by bucket for jobs of their own, so that calls for one second become one.
  const waiting = new Map<string, Waiting>();
  let flushing = false;
  let closedUntil = 0;

  const want = (key: string, job: () => Waiting): void => {
    if (!waiting.has(key)) waiting.set(key, job());
    if (flushing) return;
    flushing = true;
    // Not in this turn: the caller is answering a request, and what it does next may want the same.
    setImmediate(() => void flush());
  };

  const flush = async (): Promise<void> => {
    while (waiting.size > 0) {
      const jobs = [...waiting.values()].slice(0, BATCH);
      for (const key of [...waiting.keys()].slice(0, BATCH)) waiting.delete(key);
      if (performance.now() < closedUntil) {
        lose(jobs);
        continue;
      }
      try {
        await within(ADD_LIMIT_MS, "adding wake-ups", add(jobs));
      } catch (error) {
        closedUntil = performance.now() + BREAK_MS;
        lose(jobs);
        onFailure(error);
      }
    }
    flushing = false;
  };

  const lose = (jobs: readonly Waiting[]): void => {
    for (const { bucket } of jobs) if (bucket !== undefined) added.delete(bucket);
    miss(jobs.length);
  };

  const miss = (count: number): void => {
    try {
      onMiss(count);
    } catch {
      // A broken metric breaks no request.
    }
  };

  const remember = (bucket: number): void => {
    if (added.size >= MAX_BUCKETS) {
      const second = Date.now() / 1_000;
      for (const old of added.keys()) if (old < second) added.delete(old);
      if (added.size >= MAX_BUCKETS) added.clear();
    }
    added.set(bucket, performance.now() + TRUST_MS);
  };

  const own = (): string => `${process}-${++serial}`;
  const now = (): void => want("now", () => ({ id: `now-${own()}`, at: Date.now() }));

  return {
    now,
    at(time) {
      const clock = Date.now();
      const wanted = Number(time);
      if (Number.isNaN(wanted)) return miss(1);
      const latest = clock + HORIZON_MS - 1_000 - AFTER_SECOND_MS;
      const bucket = Math.ceil(Math.min(wanted, latest) / 1_000);
      const at = bucket * 1_000 + AFTER_SECOND_MS;
      if (at <= clock) return now();
      if (at - clock < LAST_CALL_MS) {
        return want(`late ${bucket}`, () => ({ id: `wake-${bucket}-${own()}`, at }));
      }
      if ((added.get(bucket) ?? 0) > performance.now()) return;
      remember(bucket);
      want(`wake-${bucket}`, () => ({ id: `wake-${bucket}`, at, bucket }));
    },
  };
}
