import { afterAll, beforeAll } from "@jest/globals";
import { redis } from "../../src/issuers/redis.ts";
import { describeWithRedis } from "../support/redis.ts";
import { itSurvivesWireFaults } from "./faults.ts";
import { notes, type RedisTarget, redisTarget } from "./redis-target.ts";

describeWithRedis("Redis", () => {
  let target: RedisTarget;
  beforeAll(async () => {
    target = await redisTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesWireFaults({
    issuer: redis,
    farSide: () => `tcp://127.0.0.1:${target.servers[0]?.port}`,
    config: (origin) => ({ ...target.config, nodes: [{ host: "127.0.0.1", port: Number(new URL(origin).port) }] }),
    access: () => [notes],
    works: (secret) => target.works(secret),
    alive: async () => (await target.users(0)).length,
  });
});
