import { Redis } from "ioredis";
import type { TestRedis } from "../support/redis.ts";

/** What happens to the Redis of the queue. */
export interface RedisFault {
  /** Before anything is in it. */
  readonly prepare?: (redis: TestRedis) => Promise<unknown>;
  readonly strike: (redis: TestRedis) => Promise<unknown>;
  readonly heal?: (redis: TestRedis) => Promise<unknown>;
}

/** One question to it, as its operator. */
export async function asOperator<Answer>({ url }: TestRedis, ask: (client: Redis) => Promise<Answer>): Promise<Answer> {
  const client = new Redis(url, { retryStrategy: () => null });
  client.on("error", () => undefined);
  try {
    return await ask(client);
  } finally {
    client.disconnect();
  }
}

const operator =
  (...command: readonly [string, ...string[]]) =>
  (redis: TestRedis) =>
    asOperator(redis, (client) => client.call(...command));

async function garbage(redis: TestRedis): Promise<void> {
  await asOperator(redis, async (client) => {
    for (const key of await client.keys("*")) await client.set(key, "garbage");
  });
}

/** Every fault of a Redis under a queue (reliability F2). One that may evict is refused at the start. */
export const redisFaults: Readonly<Record<string, RedisFault>> = {
  emptied: { strike: operator("FLUSHALL") },
  "killed, and back empty": { strike: (redis) => redis.kill(), heal: (redis) => redis.restart() },
  "killed, and back as it once was": {
    prepare: operator("SAVE"),
    strike: (redis) => redis.kill(),
    heal: (redis) => redis.restart(),
  },
  frozen: { strike: async (redis) => redis.freeze(), heal: async (redis) => redis.thaw() },
  full: {
    strike: operator("CONFIG", "SET", "maxmemory", "1"),
    heal: operator("CONFIG", "SET", "maxmemory", "0"),
  },
  "a replica that may only be read": {
    strike: operator("REPLICAOF", "127.0.0.1", "1"),
    heal: operator("REPLICAOF", "NO", "ONE"),
  },
  "forbidden to us": {
    strike: operator("ACL", "SETUSER", "default", "-@write", "-@scripting"),
    heal: operator("ACL", "SETUSER", "default", "+@all"),
  },
  "full of garbage in our keys": { strike: garbage, heal: operator("FLUSHALL") },
};
