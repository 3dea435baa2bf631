/**
 * Promptness, nothing more: Postgres knows what is due, the queue only says "look now" (invariant 5). Both calls
 * return at once, never throw and never wait for the queue's server; a call that is lost costs at most one sweep
 * interval.
 */
export interface WakeUps {
  /** Ask some worker to look for due work now. Calls close together become one. */
  now(): void;
  /**
   * Ask some worker to look at this time. One job per second, however many calls (the id of the job is the second):
   * it comes some milliseconds after the first full second that is not before `time`, so a deadline on a full second
   * is looked at without delay. More than an hour ahead, it comes in an hour and finds nothing.
   */
  at(time: Date): void;
}

/** No queue: the sweep alone does the work. */
export const noWakeUps: WakeUps = { now() {}, at() {} };

/** Where the jobs are kept. A Redis that may evict them is refused; Postgres is logged in to as the runtime role. */
export type QueueConfig =
  | { readonly kind: "redis"; readonly url: string }
  | { readonly kind: "postgres"; readonly connectionString: string }
  | { readonly kind: "none" };

/** How many jobs are in which state. All but `delayed` are near zero while workers run and keep up. */
export interface QueueDepth {
  readonly waiting: number;
  readonly delayed: number;
  readonly active: number;
  readonly failed: number;
}

/** What may be set when a worker starts; every default is meant for production. */
export interface WorkerOptions {
  /** How long `stop` waits for the handler. At most 4,000, so that `stop` ends within five seconds. Default 3,500. */
  readonly drainMs?: number;
  /** How often the watchdog looks whether due jobs are taken. Default 5,000. */
  readonly watchdogMs?: number;
}

/** A running worker. */
export interface QueueWorker {
  /**
   * Takes no more jobs, waits for the handler, and gives its job back to other processes if it takes too long. Returns
   * within five seconds, whatever state the server is in.
   */
  stop(): Promise<void>;
}

/** The queue of one process. Disposing stops its workers and closes its connections within five seconds. */
export interface JobQueue extends AsyncDisposable {
  readonly wakeUps: WakeUps;
  /**
   * Calls `handler` for every wake-up that this process takes, never two at once. It is told nothing: it finds in
   * Postgres what is due, and being called twice or for nothing is harmless. What it throws is logged. The worker
   * outlives every loss of its server.
   */
  startWorker(handler: () => Promise<void>, options?: WorkerOptions): QueueWorker;
  /** Rejects with `unavailable` when the server does not answer in two seconds. */
  depth(): Promise<QueueDepth>;
  /**
   * Rejects with `unavailable` while wake-ups cannot be relied on. Mayfly is then late by a sweep interval at most, so
   * this is a warning to show, not a reason to take the process out of service.
   */
  check(): Promise<void>;
}
