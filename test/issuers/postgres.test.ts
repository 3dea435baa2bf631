import { afterAll, beforeAll, describe } from "@jest/globals";
import { postgres } from "../../src/issuers/postgres.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { type PostgresTarget, postgresTarget, servers } from "./postgres-target.ts";

describe.each(servers)("PostgreSQL $name", ({ url }) => {
  let target: PostgresTarget;
  beforeAll(async () => {
    target = await postgresTarget(url);
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itIsAnIssuer({
    issuer: postgres,
    config: () => target.config,
    access: () => [{ roles: [target.group] }, { roles: [target.otherGroup, target.group] }],
    forbidden: () => [{ roles: ["pg_execute_server_program"] }],
    works: async (secret) => {
      const client = await target.login(secret).catch((error: { code: unknown }) => {
        // 28P01 no such role any more, or wrong password; 28000 not permitted to log in.
        if (error.code === "28P01" || error.code === "28000") return undefined;
        throw error;
      });
      if (client === undefined) return false;
      await using holder = client;
      await holder.query("insert into notes values ('hello')");
      return (await holder.query("select from notes limit 1")).length === 1;
    },
    hold: async (secret) => {
      const client = await target.login(secret);
      return {
        works: () =>
          client.query("select from notes").then(
            () => true,
            () => false,
          ),
        [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
      };
    },
    endsAt: async (_secret, { role }) => {
      const [row] = await target.sql<{ at: Date }>("select rolvaliduntil as at from pg_roles where rolname = $1", [
        role,
      ]);
      return row?.at as Date;
    },
    // Port 9 of TEST-NET-1 would hang until the time limit; a closed port of this host answers at once.
    unreachable: () => ({ ...target.config, port: 1 }),
    refused: () => ({ ...target.config, password: "not the password" }),
  });
});
