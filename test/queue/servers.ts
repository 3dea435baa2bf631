import { createPostgresBackend, type JobsOptions, type PgPool, Queue } from "bullmq";
import { Redis } from "ioredis";
import pg from "pg";
import { startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { provisionDatabase } from "../../src/db/provision.ts";
import { postgresServer } from "../../src/queue/postgres.ts";
import type { QueueConfig } from "../../src/queue/queue.ts";
import { redisServer } from "../../src/queue/redis.ts";
import type { QueueServer } from "../../src/queue/server.ts";
import { testDirectory } from "../support/directory.ts";
import { postmasterOf } from "../support/postmaster.ts";
import { testRedis } from "../support/redis.ts";

/** A server behind a queue, of one test file's own, that may be mistreated. */
export interface TestServer extends AsyncDisposable {
  readonly config: QueueConfig;
  /** Ends it at once (SIGKILL). */
  kill(): Promise<void>;
  /** Starts it again after `kill`. */
  restart(): Promise<void>;
  /** It keeps its connections and takes new ones, but answers nothing (SIGSTOP), until `thaw`. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Forgets every job of every queue, as an operator may: FLUSHALL, or TRUNCATE of every table of the schema. */
  empty(): Promise<void>;
  /** Everything that is stored about the jobs of a queue. */
  stored(prefix: string): Promise<string>;
  /** Writes into a queue as somebody would who got hold of the server's password. */
  forge(prefix: string, name: string, data: object, options: JobsOptions): Promise<void>;
  /** The back-end itself, as src/queue/connection.ts uses it. */
  backend(prefix: string): QueueServer;
  /** How many connections queues have to it. */
  connections(): Promise<number>;
}

/** A Redis of its own. */
export async function redisTestServer(): Promise<
  TestServer & { admin<Answer>(ask: (redis: Redis) => Promise<Answer>): Promise<Answer> }
> {
  const server = await testRedis();
  const { url } = server;
  const admin = async <Answer>(ask: (redis: Redis) => Promise<Answer>): Promise<Answer> => {
    const redis = new Redis(url, { retryStrategy: () => null });
    redis.on("error", () => undefined);
    try {
      return await ask(redis);
    } finally {
      redis.disconnect();
    }
  };
  return {
    config: { kind: "redis", url },
    admin,
    kill: server.kill,
    restart: server.restart,
    freeze: async () => server.freeze(),
    thaw: async () => server.thaw(),
    empty: async () => void (await admin((redis) => redis.flushall())),
    stored: (prefix) =>
      admin(async (redis) => {
        const found: unknown[] = [];
        for (const key of await redis.keys(`{${prefix}}*`)) {
          const type = await redis.type(key);
          found.push([key, type === "hash" ? await redis.hgetall(key) : type]);
        }
        return JSON.stringify(found);
      }),
    async forge(prefix, name, data, options) {
      const queue = new Queue("wake-ups", { connection: { url }, prefix: `{${prefix}}` });
      await queue.add(name, data, options);
      await queue.close();
    },
    backend: (prefix) => redisServer(url, prefix),
    connections: () =>
      admin(
        async (redis) =>
          String(await redis.client("LIST"))
            .trim()
            .split("\n").length - 1,
      ),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
    },
  };
}

/** A PostgreSQL of its own, with a database as the migrations leave it: a schema for BullMQ, empty. */
export async function postgresTestServer(): Promise<
  TestServer & { readonly superuserUrl: string; readonly runtimeUrl: string; admin(sql: string): Promise<unknown[]> }
> {
  const directory = await testDirectory();
  const start = () => startEmbeddedPostgres({ directory: directory.path, durable: false });
  let server = await start();
  const { ownerUrl, runtimeUrl } = await provisionDatabase(server.superuserUrl, "queue_test");
  await query(ownerUrl, "create schema bullmq; grant usage, create on schema bullmq to mayfly_runtime");
  const superuserUrl = server.superuserUrl.replace(/postgres$/, "queue_test");
  const admin = (sql: string): Promise<unknown[]> => query(superuserUrl, sql);
  // It does not wait for the disk, and a test that kills it must not undo what it was given.
  await admin("checkpoint");
  const postmaster = postmasterOf(directory.path);
  return {
    config: { kind: "postgres", connectionString: runtimeUrl },
    superuserUrl,
    runtimeUrl,
    admin,
    kill: async () => postmaster.kill(),
    async restart() {
      server = await start();
    },
    freeze: async () => postmaster.freeze(),
    thaw: async () => postmaster.thaw(),
    async empty() {
      await admin(`do $$ begin
        execute (select 'truncate ' || string_agg(format('bullmq.%I', tablename), ', ') from pg_tables where schemaname = 'bullmq');
      end $$`);
    },
    async stored(prefix) {
      return JSON.stringify(await admin(`select * from bullmq.job where queue = '${prefix}-wake-ups'`));
    },
    async forge(prefix, name, forged, options) {
      const pool = new pg.Pool({ connectionString: runtimeUrl, options: "-c search_path=bullmq" });
      const backend = createPostgresBackend;
      const queue = new Queue(`${prefix}-wake-ups`, { connection: pool as unknown as PgPool }, backend);
      await queue.add(name, forged, options);
      await queue.close();
      await pool.end();
    },
    backend: (prefix) => postgresServer(runtimeUrl, prefix),
    async connections() {
      const [row] = await admin("select count(*)::int as count from pg_stat_activity where usename = 'mayfly_app'");
      return (row as { count: number }).count;
    },
    async [Symbol.asyncDispose]() {
      await server.stop();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Runs SQL on a connection of its own; again where a deadlock with a running queue made it the loser, as an admin would. */
export async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => undefined);
  await client.connect();
  try {
    for (let lost = 0; ; lost += 1) {
      try {
        return (await client.query(sql)).rows;
      } catch (error) {
        if (lost === 20 || (error as { code?: string }).code !== DEADLOCK) throw error;
      }
    }
  } finally {
    await client.end();
  }
}

const DEADLOCK = "40P01";
