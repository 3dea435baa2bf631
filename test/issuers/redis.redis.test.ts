import { afterAll, beforeAll } from "@jest/globals";
import { redis } from "../../src/issuers/redis.ts";
import { describeWithRedis } from "../support/redis.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { notes, type RedisTarget, redisTarget } from "./redis-target.ts";

for (const count of [1, 3]) {
  describeWithRedis(`Redis on ${count} nodes`, () => {
    let target: RedisTarget;
    beforeAll(async () => {
      target = await redisTarget(count);
    });
    afterAll(async () => {
      await target[Symbol.asyncDispose]();
    });

    itIsAnIssuer({
      issuer: redis,
      config: () => target.config,
      access: () => [notes, { keys: [{ pattern: "jobs:*", mode: "read" }], commands: ["lrange"] }],
      forbidden: () => [{ keys: [{ pattern: "notes:*", mode: "read" }], commands: ["nosuchcommand"] }],
      works: (secret) => target.works(secret),
      hold: async (secret) => {
        const client = await target.login(secret, count - 1);
        return {
          works: async () =>
            (await client?.get("notes:1").then(
              () => true,
              () => false,
            )) === true,
          async [Symbol.asyncDispose]() {
            client?.disconnect();
          },
        };
      },
      // A closed port of this host answers at once.
      unreachable: () => ({ ...target.config, nodes: [{ host: "127.0.0.1", port: 1 }] }),
      refused: () => ({ ...target.config, password: "not the password" }),
    });
  });
}
