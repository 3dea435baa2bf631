import { expect, test } from "@jest/globals";
import { Redis } from "ioredis";
import { describeWithRedis, testRedis } from "../support/redis.ts";
import { everyEnd, expectedEnds } from "./every-end.ts";

describeWithRedis("every kind of credential ends in every way as it does with any queue (reliability F8)", () => {
  test("with the queue on Redis", async () => {
    await using redis = await testRedis();
    const { ends, tables } = await everyEnd({ REDIS_URL: redis.url });
    expect(ends).toEqual(expectedEnds());
    expect(tables).toBe(0);
    const client = new Redis(redis.url);
    expect(await client.keys("{mayfly}:wake-ups:*")).not.toEqual([]);
    await client.quit();
  }, 300_000);
});
