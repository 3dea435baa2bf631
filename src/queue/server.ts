import type { QueueDepth } from "./queue.ts";

/** One wake-up. It carries nothing: no tenant, no credential, so there is nothing to leak or to forge. */
export interface WakeJob {
  /** Without `:`, which BullMQ rejects. An id that exists already is silently ignored (reliability B2). */
  readonly id: string;
  /** Epoch milliseconds by this process's clock. */
  readonly at: number;
}

/** An open connection that adds jobs and looks at them. Good until its first error, then replaced. */
export interface Producer {
  /** Resolves with its first error. */
  readonly broken: Promise<unknown>;
  ready(): Promise<void>;
  add(job: WakeJob): Promise<void>;
  depth(): Promise<QueueDepth>;
  /** Whether a job is there that a worker should have taken by now. */
  isDueJobStanding(): Promise<boolean>;
  /** Rejects unless the server is fit for use: what {@link QueueServer.prepare} asks for, looked at again. */
  check(): Promise<void>;
  /** Cuts its connections. Never throws and never waits. */
  discard(): void;
}

/** A BullMQ worker: takes one job at a time and calls `run`. Good until its first error, then replaced. */
export interface Consumer {
  /** Resolves with its first error. */
  readonly broken: Promise<unknown>;
  /** How many jobs it has taken, and whether it works on one. */
  readonly taken: number;
  readonly busy: boolean;
  /** Takes no more jobs and resolves when the last one is finished. May wait for ever when the server is down. */
  drain(): Promise<void>;
  /** Lets another worker have the job that this one works on. */
  giveBack(): Promise<void>;
  /** Cuts its connections. Never throws and never waits. */
  discard(): void;
}

/** The server behind a queue: BullMQ on Redis, or BullMQ on Postgres. */
export interface QueueServer {
  readonly kind: "redis" | "postgres";
  /**
   * Makes the server fit for use, or rejects: a Redis that may evict jobs, a schema that cannot be made. Such a refusal
   * is a {@link MayflyError}; that the server cannot be reached is any other error.
   */
  prepare(): Promise<void>;
  produce(): Producer;
  consume(run: () => Promise<void>): Consumer;
}
