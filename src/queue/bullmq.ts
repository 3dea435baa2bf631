import type { IQueueBackend, Job, JobProgress, Queue, Worker } from "bullmq";
import type { QueueDepth } from "./queue.ts";
import type { Consumer, Producer, WakeJob } from "./server.ts";

/** A wake-up later than an hour is the sweep's. BullMQ takes `NaN` and `1e15` badly (reliability B8). */
export const HORIZON_MS = 3_600_000;

/**
 * The handler asks the database's clock what is due. A wake-up that came a few milliseconds before that clock's full
 * second would find nothing and be gone, so it comes this much after ours (reliability B7).
 */
export const AFTER_SECOND_MS = 20;

/** A delayed job that is later than this stands: BullMQ has failed to promote jobs for hours (reliability B5). */
const OVERDUE_MS = 1_000;

/** The name of the queue. No `:` either. */
export const QUEUE_NAME = "wake-ups";

/** What every worker runs with; the figures are reliability B1's. */
export const workerOptions = {
  // The handler drains everything that is due by itself; a second job at the same time would find nothing.
  concurrency: 1,
  lockDuration: 30_000,
  // A killed worker's job is taken over when its lock has run out and two checks have passed: about 40 seconds.
  stalledInterval: 5_000,
  // A deployment that restarts every worker twice in a row must not turn the job into a failed one.
  maxStalledCount: 10,
  // BullMQ's own waits between tries are 15 s; the worker is replaced long before.
  runRetryDelay: 1_000,
} as const;

/** What every queue runs with: nobody reads BullMQ's event stream. */
export const queueOptions = { streams: { events: { maxLen: 100 } } } as const;

type AnyQueue<B extends IQueueBackend, C> = Queue<object, void, string, object, void, string, B, C>;
type AnyWorker<B extends IQueueBackend, C> = Worker<object, void, string, B, JobProgress, C>;

/** What the two back-ends do differently. */
interface Means {
  readonly check: () => Promise<void>;
  readonly discard: () => void;
}

/** Wraps a BullMQ queue of either back-end. */
export function producer<B extends IQueueBackend, C>(queue: AnyQueue<B, C>, means: Means): Producer {
  const depth = async (): Promise<QueueDepth> => {
    const counts = await queue.getJobCounts("waiting", "delayed", "active", "failed");
    const of = (state: string): number => counts[state] ?? 0;
    return { waiting: of("waiting"), delayed: of("delayed"), active: of("active"), failed: of("failed") };
  };
  return {
    broken: firstError(queue),
    async ready() {
      await queue.waitUntilReady();
    },
    async add(job: WakeJob) {
      const delay = Math.round(Math.min(Math.max(job.at - Date.now(), 0), HORIZON_MS));
      // Kept jobs would block their ids for ever (reliability B2).
      await queue.add("wake", {}, { jobId: job.id, delay, attempts: 1, removeOnComplete: true, removeOnFail: true });
    },
    depth,
    async isDueJobStanding() {
      const { waiting, delayed } = await depth();
      if (waiting > 0) return true;
      if (delayed === 0) return false;
      const [next] = await queue.getDelayed(0, 0);
      return next !== undefined && next.timestamp + next.delay + OVERDUE_MS < Date.now();
    },
    check: means.check,
    discard: means.discard,
  };
}

/** Makes a BullMQ worker of either back-end. `make` is given the processor. */
export function consumer<B extends IQueueBackend, C>(
  run: () => Promise<void>,
  make: (processor: (job: Job, token?: string) => Promise<void>) => AnyWorker<B, C>,
  discard: (worker: AnyWorker<B, C>) => void,
): Consumer {
  let taken = 0;
  let current: { job: Job; token: string | undefined } | undefined;
  const worker = make(async (job, token) => {
    taken += 1;
    current = { job, token };
    // Nothing of the job is passed on: whoever can write to the queue can only say "look now".
    await run();
  });
  // Not when the handler ends: only then does the server know that the job is done.
  for (const event of ["completed", "failed", "error"] as const) worker.on(event, () => (current = undefined));
  return {
    broken: firstError(worker),
    get taken() {
      return taken;
    },
    get busy() {
      return current !== undefined;
    },
    drain: () => worker.pause(),
    async giveBack() {
      await current?.job.moveToWait(current.token);
    },
    discard: () => discard(worker),
  };
}

// The listeners stay for good: an 'error' event that nobody listens to is thrown. BullMQ calls the loss of a
// connection `ioredis:close` on both back-ends.
function firstError(emitter: {
  on(event: "error" | "ioredis:close", listener: (error?: unknown) => void): unknown;
}): Promise<unknown> {
  return new Promise((resolve) => {
    emitter.on("error", resolve);
    emitter.on("ioredis:close", () => resolve(new Error("the connection was closed")));
  });
}
