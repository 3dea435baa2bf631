import { describe, expect, test } from "@jest/globals";
import { Worker } from "bullmq";
import { MayflyError } from "../../src/lib/errors.ts";
import { describeWithRedis, testRedis } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { freshPrefix, open, wakesUp } from "./open.ts";
import { itIsAQueue } from "./promises.ts";
import { redisTestServer } from "./servers.ts";

describeWithRedis("on Redis", () => {
  const server = itIsAQueue("Redis", redisTestServer);

  const commands = async (): Promise<number> =>
    Number(/total_commands_processed:(\d+)/.exec(await server().admin((redis) => redis.info("stats")))?.[1]);

  describe("a Redis that may evict jobs (reliability B10)", () => {
    test("is refused at the start, with the command that mends it", async () => {
      await using evicting = await testRedis(["--maxmemory-policy", "allkeys-lru"]);
      const refused = open({ config: { kind: "redis", url: evicting.url } }, freshPrefix());
      await expect(refused).rejects.toBeInstanceOf(MayflyError);
      await expect(refused).rejects.toMatchObject({
        code: "unavailable",
        detail: expect.stringMatching(/allkeys-lru.*CONFIG SET maxmemory-policy noeviction/),
      });
    });

    test("is seen by check() when it becomes one later", async () => {
      const queue = await open(server(), freshPrefix());
      await queue.check();
      await server().admin((redis) => redis.config("SET", "maxmemory-policy", "volatile-ttl"));
      try {
        await expect(queue.check()).rejects.toMatchObject({ detail: expect.stringContaining("volatile-ttl") });
      } finally {
        await server().admin((redis) => redis.config("SET", "maxmemory-policy", "noeviction"));
      }
      await queue.check();
    });
  });

  test("a wrong password is an error at the start, and the URL with it is in neither the error nor the log", async () => {
    await using locked = await testRedis(["--requirepass", "right"]);
    const url = locked.url.replace("redis://", "redis://:wrong-password@");
    const error: unknown = await open({ config: { kind: "redis", url } }, freshPrefix()).catch(
      (reason: unknown) => reason,
    );
    expect(error).toMatchObject({ code: "unavailable" });
    expect((error as Error).message).not.toContain("wrong-password");
  });

  test("keys of another type in the place of ours cost a pause, not a hot loop, and are got over when removed", async () => {
    const prefix = freshPrefix();
    const queue = await open(server(), prefix);
    let calls = 0;
    queue.startWorker(async () => void (calls += 1));
    await wakesUp(queue, () => calls);
    const key = `{${prefix}}:wake-ups:delayed`;
    await server().admin((redis) => redis.set(key, "garbage"));
    await until("the worker is replaced", () => queue.lines.some((line) => line.includes("replaced")));
    const before = await commands();
    const began = performance.now();
    await until("a second", () => performance.now() - began > 1_000);
    // BullMQ alone asks again at once, some thousand times in that second.
    expect((await commands()) - before).toBeLessThan(500);
    await server().admin((redis) => redis.del(key));
    await wakesUp(queue, () => calls);
  });

  test("an idle Redis is asked something when the jobs of a second are due, for else it wakes a worker 100 ms late", async () => {
    const queue = await open(server(), freshPrefix());
    let calls = 0;
    queue.startWorker(async () => void (calls += 1));
    await wakesUp(queue, () => calls);
    const asked = async (): Promise<number> =>
      Number(/cmdstat_zcard:calls=(\d+)/.exec(await server().admin((redis) => redis.info("commandstats")))?.[1] ?? 0);
    const before = await asked();
    await until("several seconds' worth", async () => (await asked()) >= before + 9, 10_000);
  });

  test("a full Redis costs wake-ups, not the process", async () => {
    await using full = await testRedis(["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    const queue = await open({ config: { kind: "redis", url: full.url } }, freshPrefix());
    queue.startWorker(async () => undefined);
    await until("they are counted", () => {
      queue.wakeUps.now();
      return queue.misses() > 0;
    });
  });

  test("cut connections (CLIENT KILL) come back", async () => {
    const queue = await open(server(), freshPrefix());
    let calls = 0;
    queue.startWorker(async () => void (calls += 1));
    await wakesUp(queue, () => calls);
    for (let time = 0; time < 5; time++) {
      await server().admin((redis) => redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"));
      await wakesUp(queue, () => calls);
    }
  });

  test("the job of a worker that died is taken over", async () => {
    const prefix = freshPrefix();
    const { config } = server();
    if (config.kind !== "redis") throw new Error("not Redis");
    const queue = await open(server(), prefix);
    // A worker that takes a job and is never heard of again; its lock is short so that the test is.
    const doomed = new Worker("wake-ups", null, {
      connection: { url: config.url, maxRetriesPerRequest: null },
      prefix: `{${prefix}}`,
      lockDuration: 1_000,
    });
    queue.wakeUps.now();
    await until("it has the job", () => doomed.getNextJob("token", { block: false }));
    await doomed.close(true);
    let calls = 0;
    queue.startWorker(async () => void (calls += 1));
    await until("the job is taken over", () => calls > 0);
  });
});
