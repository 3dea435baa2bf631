import { afterAll, beforeAll, describe } from "@jest/globals";
import { mysql } from "../../src/issuers/mysql.ts";
import { itSurvivesWireFaults } from "./faults.ts";
import { type MysqlTarget, mysqlTarget } from "./mysql-target.ts";

describe("MariaDB", () => {
  let target: MysqlTarget;
  beforeAll(async () => {
    target = await mysqlTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesWireFaults({
    issuer: mysql,
    farSide: () => `tcp://${target.config.host}:${target.config.port}`,
    config: (origin) => ({ ...target.config, port: Number(new URL(origin).port) }),
    access: () => [{ roles: [target.role] }],
    works: async (secret) => {
      const holder = await target.tryLogin(secret);
      await holder?.[Symbol.asyncDispose]();
      return holder !== undefined;
    },
    alive: async () => {
      const accounts = await target.sql("select 1 from mysql.user where User like 'mt1|_%' escape '|'");
      return accounts.length;
    },
  });
});
