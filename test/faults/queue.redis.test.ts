import { describe, expect, test } from "@jest/globals";
import { Queue } from "bullmq";
import { startFleet } from "../support/fleet.ts";
import { describeWithRedis, type TestRedis, testRedis } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { endIt, mintSome } from "./queue.ts";
import { asOperator, redisFaults } from "./redis-faults.ts";

const active = (redis: TestRedis) => asOperator(redis, (client) => client.llen("{mayfly}:wake-ups:active"));
const keys = (redis: TestRedis) => asOperator(redis, (client) => client.keys("{mayfly}:wake-ups:*"));

/** One for now, as every process adds them. */
async function wakeUp({ url }: TestRedis): Promise<void> {
  const queue = new Queue("wake-ups", { connection: { url }, prefix: "{mayfly}" });
  await queue.add("wake", {});
  await queue.close();
}

describeWithRedis("invariant 5: the queue is only promptness (on Redis)", () => {
  describe.each(Object.entries(redisFaults))("with Redis %s (reliability F2)", (_name, { prepare, strike, heal }) => {
    test("mints go on and everything dies meanwhile: what was asked for, what is under way, what is tried again; and the queue is back afterwards", async () => {
      await using redis = await testRedis();
      await using fleet = await startFleet({ REDIS_URL: redis.url });
      const api = await fleet.start("serve");
      const retried = await fleet.openTask(api);
      expect((await fleet.mint(api, retried, 300))?.status).toBe(201);
      await prepare?.(redis);

      // Wake-ups that are in Redis, a revocation that is in retry, and a wake-up that the worker has taken.
      const before = await mintSome(fleet, api);
      await fleet.target.mayMakeRoles(false);
      await endIt(fleet, api, retried);
      await until("a revocation is in retry", async () => {
        const tried = await fleet.sql("select from mayfly.credentials where last_error is not null");
        return tried.length > 0;
      });
      const lock = await fleet.lock("lock table mayfly.credentials in access exclusive mode");
      await wakeUp(redis);
      await until("the worker has taken a wake-up", async () => (await active(redis)) > 0);
      await strike(redis);
      await lock.letGo();
      await fleet.target.mayMakeRoles(true);

      // What nobody could ask for. No balancer takes the API away meanwhile.
      expect((await fleet.call(api, "auditor", "GET", "/readyz"))?.status).toBe(200);
      const during = await mintSome(fleet, api);
      await endIt(fleet, api, before.taskId);
      await endIt(fleet, api, during.taskId);
      expect(await fleet.assertAllDead()).toHaveLength(33);

      await heal?.(redis);
      await asOperator(redis, (client) => client.flushall());
      const again = await fleet.openTask(api);
      await until("wake-ups reach Redis again", async () => {
        expect((await fleet.mint(api, again, 300))?.status).toBe(201);
        return (await keys(redis)).length > 0;
      });
      await endIt(fleet, api, again);
      await fleet.assertAllDead();
      expect(await api.stop()).toBe(0);
    }, 180_000);
  });

  test("a Redis that may evict jobs is refused at start, with what to set", async () => {
    await using redis = await testRedis(["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    await using fleet = await startFleet({ REDIS_URL: redis.url });
    await expect(fleet.start("serve")).rejects.toThrow(/noeviction/);
  });
});
