import { afterAll, beforeAll, describe } from "@jest/globals";
import { postgres } from "../../src/issuers/postgres.ts";
import { itSurvivesWireFaults } from "./faults.ts";
import { type PostgresTarget, postgresTarget, servers } from "./postgres-target.ts";

describe("PostgreSQL", () => {
  let target: PostgresTarget;
  beforeAll(async () => {
    target = await postgresTarget(servers[0]?.url ?? "");
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesWireFaults({
    issuer: postgres,
    farSide: () => `tcp://${target.config.host}:${target.config.port}`,
    config: (origin) => ({ ...target.config, port: Number(new URL(origin).port) }),
    access: () => [{ roles: [target.group] }],
    works: async (secret) => {
      const past = { ...secret, host: target.config.host, port: target.config.port };
      const holder = await target.login(past).catch((error: { code: unknown }) => {
        if (error.code === "28P01" || error.code === "28000") return undefined;
        throw error;
      });
      await holder?.[Symbol.asyncDispose]();
      return holder !== undefined;
    },
    alive: async () => {
      const roles = await target.sql("select from pg_roles where rolcanlogin and rolname ~ $1", [
        `^mfy_${target.config.deployment}_`,
      ]);
      return roles.length;
    },
  });
});
