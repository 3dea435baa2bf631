import { describe, expect, test } from "@jest/globals";
import pg from "pg";
import { testDatabase } from "../support/database.ts";
import { until } from "../support/until.ts";
import { closeAll, freshPrefix, open, wakesUp } from "./open.ts";
import { itIsAQueue } from "./promises.ts";
import { postgresTestServer, query } from "./servers.ts";

const server = itIsAQueue("PostgreSQL", postgresTestServer);

describe("the schema", () => {
  test("what the migrations grant is enough, and several logins share the tables", async () => {
    await using database = await testDatabase();
    const role = `other_${database.name}`;
    await query(database.superuserUrl, `create role ${role} login password 'x' in role mayfly_runtime`);
    await query(database.superuserUrl, `grant connect on database ${database.name} to ${role}`);
    try {
      const prefix = freshPrefix();
      const one = await open({ config: { kind: "postgres", connectionString: database.runtimeUrl } }, prefix);
      const url = new URL(database.runtimeUrl);
      url.username = role;
      url.password = "x";
      const other = await open({ config: { kind: "postgres", connectionString: url.href } }, prefix);
      let calls = 0;
      one.startWorker(async () => void (calls += 1));
      other.wakeUps.now();
      await until("the other login's wake-up", () => calls > 0);
    } finally {
      await closeAll();
      await query(database.superuserUrl, `drop owned by ${role}; drop role ${role}`);
    }
  });

  test("dropped and made again: a running worker recovers", async () => {
    const queue = await open(server(), freshPrefix());
    let calls = 0;
    queue.startWorker(async () => void (calls += 1));
    await wakesUp(queue, () => calls);
    await server().admin("drop schema bullmq cascade");
    await until("the worker is replaced", () => queue.lines.some((line) => line.includes("replaced")));
    await until("a wake-up is lost", () => {
      queue.wakeUps.now();
      return queue.misses() > 0;
    });
    await server().admin("create schema bullmq authorization mayfly_runtime");
    await wakesUp(queue, () => calls);
    await queue.check();
  });

  test("missing, and not ours to make: refused at the start, with the statement that mends it", async () => {
    await server().admin("drop schema bullmq cascade");
    try {
      await expect(open(server(), freshPrefix())).rejects.toMatchObject({
        code: "unavailable",
        detail: expect.stringContaining("grant usage, create on schema bullmq to mayfly_runtime"),
      });
    } finally {
      await server().admin("create schema bullmq; grant usage, create on schema bullmq to mayfly_runtime");
    }
    const queue = await open(server(), freshPrefix());
    await queue.check();
  });

  test("missing, and ours to make: made", async () => {
    const config = { kind: "postgres", connectionString: server().superuserUrl } as const;
    await server().admin("drop schema bullmq cascade");
    try {
      await (await open({ config }, freshPrefix())).check();
      // And the runtime role can share it.
      await (await open(server(), freshPrefix())).check();
    } finally {
      await closeAll();
      await server().admin("drop schema bullmq cascade");
      await server().admin("create schema bullmq; grant usage, create on schema bullmq to mayfly_runtime");
    }
  });
});

test("terminated sessions come back, all of them, again and again", async () => {
  const queue = await open(server(), freshPrefix());
  let calls = 0;
  queue.startWorker(async () => void (calls += 1));
  await wakesUp(queue, () => calls);
  for (let time = 0; time < 5; time++) {
    await server().admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mayfly_app'");
    await wakesUp(queue, () => calls);
  }
});

test("a session that is terminated while the schema is being prepared does not end the process", async () => {
  // BullMQ's lock for migrations, so that preparing stands still with its connection taken out of the pool.
  const holder = new pg.Client({ connectionString: server().superuserUrl });
  await holder.connect();
  await holder.query("begin");
  await holder.query("select pg_advisory_xact_lock(1112886348, hashtext('bullmq'))");
  try {
    const opening = open(server(), freshPrefix());
    await until("it waits for the lock and is terminated", async () => {
      const waiting = "usename = 'mayfly_app' and wait_event_type = 'Lock'";
      const ended = await server().admin(`select pg_terminate_backend(pid) from pg_stat_activity where ${waiting}`);
      return ended.length > 0;
    });
    const queue = await opening;
    expect(queue.lines.join()).toContain("the queue's server is down");
  } finally {
    await holder.end();
  }
});

test("options of the connection string are kept, and do not hide BullMQ's tables", async () => {
  const url = new URL(server().runtimeUrl);
  url.searchParams.set("options", "-c work_mem=5MB");
  const queue = await open({ config: { kind: "postgres", connectionString: url.href } }, freshPrefix());
  await queue.check();
});

test("a wrong password is an error at the start", async () => {
  const url = new URL(server().runtimeUrl);
  url.password = "wrong-password";
  const error: unknown = await open({ config: { kind: "postgres", connectionString: url.href } }, freshPrefix()).catch(
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ code: "unavailable" });
  expect((error as Error).message).not.toContain("wrong-password");
});
