import { MayflyError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { postgresServer } from "./postgres.ts";
import { type JobQueue, noWakeUps, type QueueConfig, type QueueWorker } from "./queue.ts";
import { redisServer } from "./redis.ts";
import type { Producer, QueueServer } from "./server.ts";
import { createWakeUps } from "./wake-ups.ts";
import { within } from "./within.ts";
import { superviseWorker } from "./worker.ts";

const OPEN_LIMIT_MS = 15_000;
const ANSWER_LIMIT_MS = 2_000;

/** What the queue tells while it runs. */
export interface QueueHooks {
  /** So many wake-ups were lost; the sweep does their work. For a counter. */
  readonly onMiss?: (count: number) => void;
}

/**
 * Opens the queue of this process. Rejects when its server is one that cannot be used: a Redis that may evict jobs, a
 * Postgres role that may not keep BullMQ's tables, a wrong password. A server that is merely down is no reason not to
 * start: the sweep works without it, and it is used as soon as it is back.
 *
 * Queues with different prefixes know nothing of each other.
 */
export async function openQueue(
  config: QueueConfig,
  log: Log,
  prefix = "mayfly",
  { onMiss = () => undefined }: QueueHooks = {},
): Promise<JobQueue> {
  if (!/^[\w-]+$/.test(prefix)) throw new TypeError("the prefix of a queue is made of letters, digits, - and _");
  const server = serverOf(config, prefix);
  if (server === undefined) return noQueue();
  const producers = keepProducer(server);
  await producers.current().catch((error: unknown) => {
    if (error instanceof MayflyError) throw error;
    if (!isUnreachable(error)) throw new MayflyError("unavailable", "the queue's server refused us", { cause: error });
    log.warn({ err: error, queue: server.kind }, "the queue's server is down; the sweep goes on without it");
  });

  let missing = false;
  const wakeUps = createWakeUps({
    async add(jobs) {
      const producer = await producers.current();
      await Promise.all(jobs.map((job) => producer.add(job)));
      if (missing) log.info({ queue: server.kind }, "wake-ups reach the queue again");
      missing = false;
    },
    onFailure(error) {
      producers.replace();
      if (!missing) log.warn({ err: error, queue: server.kind }, "wake-ups are lost; the sweep does their work");
      missing = true;
    },
    onMiss,
  });

  const isDueJobStanding = async (): Promise<boolean> => await (await producers.current()).isDueJobStanding();
  const workers = new Set<QueueWorker>();
  return {
    wakeUps,
    startWorker(handler, options) {
      const worker = superviseWorker({ server, handler, isDueJobStanding, log }, options);
      workers.add(worker);
      return worker;
    },
    depth: () => producers.ask((producer) => producer.depth()),
    check: () => producers.ask((producer) => producer.check()),
    async [Symbol.asyncDispose]() {
      await Promise.all([...workers].map((worker) => worker.stop()));
      producers.close();
    },
  };
}

function serverOf(config: QueueConfig, prefix: string): QueueServer | undefined {
  if (config.kind === "redis") return redisServer(config.url, prefix);
  if (config.kind === "postgres") return postgresServer(config.connectionString, prefix);
  return undefined;
}

/**
 * The one producer of a process, opened when it is needed and replaced once it has failed. How long opening takes does
 * not depend on how impatient a caller is, else a server that is far away would never be reached.
 */
function keepProducer(server: QueueServer): {
  current(): Promise<Producer>;
  ask<Answer>(question: (producer: Producer) => Promise<Answer>): Promise<Answer>;
  replace(): void;
  close(): void;
} {
  let opening: Promise<Producer> | undefined;
  let open: Producer | undefined;
  let closed = false;

  const drop = (producer: Producer): void => {
    producer.discard();
    if (producer !== open) return;
    open = undefined;
    opening = undefined;
  };

  const make = async (): Promise<Producer> => {
    await within(OPEN_LIMIT_MS, "preparing the queue", server.prepare());
    const producer = server.produce();
    try {
      await within(OPEN_LIMIT_MS, "opening the queue", Promise.race([producer.ready(), fail(producer.broken)]));
      if (closed) throw new Error("the queue is closed");
    } catch (error) {
      producer.discard();
      throw error;
    }
    open = producer;
    void producer.broken.then(() => drop(producer));
    return producer;
  };

  const current = async (): Promise<Producer> => {
    if (closed) throw new Error("the queue is closed");
    opening ??= make().catch((error: unknown) => {
      opening = undefined;
      throw error;
    });
    return await opening;
  };

  const replace = (): void => {
    if (open !== undefined) drop(open);
  };

  return {
    current,
    async ask(question) {
      try {
        return await within(ANSWER_LIMIT_MS, "asking the queue", current().then(question));
      } catch (error) {
        if (error instanceof MayflyError) throw error;
        replace();
        throw new MayflyError("unavailable", "the queue's server does not answer", { cause: error });
      }
    },
    replace,
    close() {
      closed = true;
      replace();
    },
  };
}

async function fail(reason: Promise<unknown>): Promise<never> {
  throw await reason;
}

// What passes by itself: the network, ours for "no answer", Postgres shutting down, starting or full, Redis loading. What
// is configured wrongly (a password, a certificate, a database that is not there) stays wrong and is said at the start.
const PASSING =
  /^(ECONN(REFUSED|RESET|ABORTED)|ETIMEDOUT|EPIPE|ENOENT|E(HOST|NET)(UNREACH|DOWN)|ENOTFOUND|EAI_AGAIN|57P0\d|53300|08\w{3})$/;

function isUnreachable(error: unknown): boolean {
  if (error instanceof Error && "code" in error && typeof error.code === "string") return PASSING.test(error.code);
  return /closed|terminated|timeout|LOADING/i.test(String(error));
}

function noQueue(): JobQueue {
  return {
    wakeUps: noWakeUps,
    startWorker: () => ({ stop: async () => undefined }),
    depth: async () => ({ waiting: 0, delayed: 0, active: 0, failed: 0 }),
    check: async () => undefined,
    async [Symbol.asyncDispose]() {},
  };
}
