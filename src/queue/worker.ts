import type { Log } from "../lib/log.ts";
import type { QueueWorker, WorkerOptions } from "./queue.ts";
import type { Consumer, QueueServer } from "./server.ts";
import { pause, within } from "./within.ts";

const PREPARE_LIMIT_MS = 15_000;
const PROBE_LIMIT_MS = 5_000;
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 2_000;
/** A worker that ran this long was well: the next failure is a new one. */
const WELL_MS = 30_000;
/** What stop() gives the server for saying goodbye, after the handler is done. */
const GOODBYE_MS = 500;
const MAX_DRAIN_MS = 4_000;

interface WorkerDeps {
  readonly server: QueueServer;
  readonly handler: () => Promise<void>;
  /** Whether a due job is standing in the queue. Rejects when the server does not say. */
  readonly isDueJobStanding: () => Promise<boolean>;
  readonly log: Log;
}

/**
 * Keeps one BullMQ worker running for as long as it is wanted. BullMQ's own recovery is not relied on: after some losses
 * its worker waits for ever (reliability B5, B6), and after others, a dropped schema or Postgres starting up, it asks
 * again without a pause, thousands of times a second. So the first error of any kind, and a watchdog's finding, end a
 * worker, and after a pause the server is prepared anew (schema included) and a new one is made.
 */
export function superviseWorker(deps: WorkerDeps, options: WorkerOptions = {}): QueueWorker {
  const { server, isDueJobStanding, log } = deps;
  const { drainMs = 3_500, watchdogMs = 5_000 } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const stopped = new Promise<undefined>((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
  let isOver = false;
  const run = oneAtATime(async () => {
    // BullMQ may have fetched a job in the last moment. Its lock runs out, and another process takes it over.
    if (!isOver) await deps.handler();
  }, log);
  let wasWell = true;

  const ended = supervise();
  return {
    async stop() {
      stopping.abort();
      await ended;
      isOver = true;
    },
  };

  async function supervise(): Promise<void> {
    let wait = FIRST_WAIT_MS;
    while (!signal.aborted) {
      const worker = await open();
      if (worker !== undefined) {
        const since = performance.now();
        const watching = new AbortController();
        const reason = await Promise.race([worker.broken, watch(worker, watching.signal), stopped]);
        watching.abort();
        if (signal.aborted) await handOver(worker);
        else complain(reason);
        worker.discard();
        if (performance.now() - since > WELL_MS) wait = FIRST_WAIT_MS;
      }
      // Spread out, so that a server that comes back is not met by every worker at once.
      await pause(wait * (0.8 + 0.4 * Math.random()), signal);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  }

  async function open(): Promise<Consumer | undefined> {
    try {
      const prepared = within(PREPARE_LIMIT_MS, "preparing the queue", server.prepare()).then(() => true);
      if ((await Promise.race([prepared, stopped])) === undefined) return undefined;
      const worker = server.consume(run);
      if (!wasWell) log.info({ queue: server.kind }, "the queue worker is back");
      wasWell = true;
      return worker;
    } catch (error) {
      complain(error);
      return undefined;
    }
  }

  // Once per outage: the tries go on every two seconds.
  function complain(error: unknown): void {
    if (wasWell)
      log.warn({ err: error, queue: server.kind }, "the queue worker is replaced; the sweep goes on without it");
    wasWell = false;
  }

  // Twice in a row due jobs were standing although the worker had nothing to do in between: it has lost the thread.
  async function watch(worker: Consumer, watching: AbortSignal): Promise<unknown> {
    let idleSince: number | undefined;
    for (;;) {
      await pause(watchdogMs, watching);
      if (watching.aborted) return undefined;
      try {
        const standing = await within(PROBE_LIMIT_MS, "looking at the queue", isDueJobStanding());
        const idle = standing && !worker.busy;
        if (idle && idleSince === worker.taken) return new Error("due jobs are standing and the worker takes none");
        idleSince = idle ? worker.taken : undefined;
      } catch (error) {
        return error;
      }
    }
  }

  async function handOver(worker: Consumer): Promise<void> {
    const limit = worker.busy ? Math.min(drainMs, MAX_DRAIN_MS) : GOODBYE_MS;
    await within(limit, "draining", worker.drain()).catch(() => undefined);
    if (!worker.busy) return;
    log.warn({ queue: server.kind }, "the wake-up handler did not end in time; its job is given to another process");
    await within(GOODBYE_MS, "giving a job back", worker.giveBack()).catch(() => undefined);
  }
}

// A replaced worker's handler may still be running when the new worker takes a job.
function oneAtATime(handler: () => Promise<void>, log: Log): () => Promise<void> {
  let last: Promise<void> = Promise.resolve();
  return () => {
    last = last.then(handler).catch((error: unknown) => {
      log.error({ err: error }, "the wake-up handler failed; the sweep tries again");
    });
    return last;
  };
}
