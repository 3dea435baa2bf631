import { Queue, Worker } from "bullmq";
import { Redis, type RedisOptions } from "ioredis";
import { MayflyError } from "../lib/errors.ts";
import { AFTER_SECOND_MS, consumer, producer, QUEUE_NAME, queueOptions, workerOptions } from "./bullmq.ts";
import type { QueueServer } from "./server.ts";
import { within } from "./within.ts";

// The time-out that Redis counts starts when the command arrives, so it ends a little after the worker meant it to.
const NUDGES_MS = [3, 10, 30].map((late) => AFTER_SECOND_MS + late);

/** BullMQ on the Redis at `url`, under keys that begin with `{prefix}`: one slot, should it ever be a cluster. */
export function redisServer(url: string, prefix: string): QueueServer {
  const keys = `{${prefix}}`;
  return {
    kind: "redis",
    async prepare() {
      const link = openLink(url, { lazyConnect: true, retryStrategy: () => null });
      let reason: unknown;
      link.client.on("error", (error) => (reason ??= error));
      try {
        // A frozen Redis takes the connection and never speaks.
        const info = link.client.connect().then(() => link.client.info("memory"));
        refuseEviction(await within(3_000, "asking Redis", info));
      } catch (error) {
        throw error instanceof MayflyError ? error : (reason ?? error);
      } finally {
        link.cut();
      }
    },
    produce() {
      // Nothing waits in memory for Redis to come back: what was missed is the sweep's.
      const link = openLink(url, { enableOfflineQueue: false });
      const queue = new Queue<object, void>(QUEUE_NAME, { connection: link.client, prefix: keys, ...queueOptions });
      return producer(queue, {
        check: async () => refuseEviction(await link.client.info("memory")),
        discard() {
          link.cut();
          void queue.close().catch(ignore);
        },
      });
    },
    consume(run) {
      const link = openLink(url);
      const options = { connection: link.client, prefix: keys, ...workerOptions };
      let stopNudging = ignore;
      return consumer(
        run,
        (processor) => {
          const worker = new Worker<object, void>(QUEUE_NAME, processor, options);
          stopNudging = nudgeEverySecond(() => link.client.zcard(worker.toKey("delayed")));
          return worker;
        },
        (worker) => {
          stopNudging();
          link.cut();
          void worker.close(true).catch(ignore);
        },
      );
    },
  };
}

type Options = Omit<RedisOptions, "replyMapping">;

interface Link {
  readonly client: Redis;
  /** Ends every connection now, for good, whether or not the server answers. */
  cut(): void;
}

/**
 * A connection and what BullMQ duplicates from it. BullMQ reconnects its blocking connection also after it was closed, if
 * the server was down just then, and such a connection would stay for ever; a link that was cut connects no more.
 */
function openLink(url: string, special: Options = {}): Link {
  let isCut = false;
  const clients: Redis[] = [];
  // The errors come back from what was asked as well, and an error event that nobody listens to is printed.
  const keep = (client: Redis): Redis => {
    const connect = client.connect.bind(client);
    client.connect = () => (isCut ? Promise.reject(new Error("the connection was cut")) : connect());
    client.duplicate = (override: Options = {}) => keep(new Redis(url, { ...options, ...override }));
    client.on("error", ignore);
    clients.push(client);
    return client;
  };
  const options: Options = {
    // BullMQ insists. What waits longer than we do is given up by us.
    maxRetriesPerRequest: null,
    connectTimeout: 2_000,
    disconnectTimeout: 500,
    retryStrategy: (times) => Math.min(50 * 2 ** times, 1_000),
    ...special,
  };
  const client = keep(new Redis(url, options));
  return {
    client,
    cut() {
      isCut = true;
      for (const each of clients) each.disconnect();
    },
  };
}

/**
 * Asks Redis something when the jobs of a second are due. A worker waits for the next delayed job in a blocking command, and an
 * idle Redis looks at the time-outs of those only ten times a second (its `hz`); whenever it is asked something, it looks
 * at once.
 */
function nudgeEverySecond(ask: () => Promise<unknown>): () => void {
  let timer: NodeJS.Timeout;
  const next = (): void => {
    const intoSecond = Date.now() % 1_000;
    const at = NUDGES_MS.find((nudge) => nudge > intoSecond) ?? 1_000 + (NUDGES_MS[0] ?? 0);
    timer = setTimeout(() => {
      ask().then(ignore, ignore);
      next();
    }, at - intoSecond);
  };
  next();
  return () => clearTimeout(timer);
}

/**
 * An evicting Redis drops delayed jobs without a word when its memory is full (reliability B10). INFO says it where
 * CONFIG is forbidden, as with most hosted ones.
 */
function refuseEviction(info: string): void {
  const policy = /^maxmemory_policy:(\S+)/m.exec(info)?.[1] ?? "unknown";
  if (policy === "noeviction") return;
  throw new MayflyError(
    "unavailable",
    `the Redis of REDIS_URL may drop jobs: its maxmemory-policy is ${policy}. Run CONFIG SET maxmemory-policy ` +
      "noeviction and CONFIG REWRITE on it, or set it where it is hosted.",
  );
}

function ignore(): void {}
