import { afterAll, beforeAll, describe } from "@jest/globals";
import { mysql } from "../../src/issuers/mysql.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { type MysqlTarget, mysqlTarget } from "./mysql-target.ts";

describe("MariaDB", () => {
  let target: MysqlTarget;
  beforeAll(async () => {
    target = await mysqlTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itIsAnIssuer({
    issuer: mysql,
    config: () => target.config,
    access: () => [{ roles: [target.role] }, { roles: [target.role] }],
    forbidden: () => [{ roles: ["no_such_role"] }],
    works: async (secret) => {
      const client = await target.tryLogin(secret);
      if (client === undefined) return false;
      await using holder = client;
      await holder.query("insert into app.notes values ('hello')");
      return (await holder.query("select 1 from app.notes limit 1")).length === 1;
    },
    hold: async (secret) => {
      const client = await target.login(secret);
      return {
        works: () =>
          client.query("select 1 from app.notes").then(
            () => true,
            () => false,
          ),
        [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
      };
    },
    // A closed port of this host answers at once.
    unreachable: () => ({ ...target.config, port: 1 }),
    refused: () => ({ ...target.config, password: "not the password" }),
  });
});
