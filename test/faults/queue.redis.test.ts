import { expect, test } from "@jest/globals";
import { Redis } from "ioredis";
import { startFleet } from "../support/fleet.ts";
import { describeWithRedis, testRedis } from "../support/redis.ts";
import { endIt, mintSome } from "./queue.ts";

describeWithRedis("invariant 5: the queue is only promptness (on Redis)", () => {
  test("with Redis flushed under the running processes, everything dies", async () => {
    await using redis = await testRedis();
    await using fleet = await startFleet({ REDIS_URL: redis.url });
    const api = await fleet.start("serve");
    const { taskId } = await mintSome(fleet, api);
    const client = new Redis(redis.url);
    await client.flushall();
    await client.quit();
    await endIt(fleet, api, taskId);
    expect(await fleet.assertAllDead()).toHaveLength(16);
  }, 120_000);

  test("with Redis dead before the first expiry and never back, everything dies and new mints go on", async () => {
    await using redis = await testRedis();
    await using fleet = await startFleet({ REDIS_URL: redis.url });
    const api = await fleet.start("serve");
    const { taskId } = await mintSome(fleet, api);
    await redis.kill();
    await endIt(fleet, api, taskId);
    const more = await mintSome(fleet, api);
    await endIt(fleet, api, more.taskId);
    expect(await fleet.assertAllDead()).toHaveLength(32);
  }, 120_000);

  test("a Redis that may evict jobs is refused at start, with what to set", async () => {
    await using redis = await testRedis(["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    await using fleet = await startFleet({ REDIS_URL: redis.url });
    await expect(fleet.start("serve")).rejects.toThrow(/noeviction/);
  });
});
