import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { mysql } from "../../src/issuers/mysql.ts";
import { failure, never } from "./conformance.ts";
import { type MysqlTarget, mysqlTarget, setupSql } from "./mysql-target.ts";

const ADMIN = "'mayfly_admin'@'%'";

describe("inspecting a MariaDB", () => {
  let target: MysqlTarget;
  beforeAll(async () => {
    target = await mysqlTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  async function inspected(roles: readonly string[]): Promise<void> {
    await using client = await mysql.connect(target.config);
    await mysql.inspect?.(client, [{ roles: [...roles] }], never());
  }
  const refusal = async (roles: readonly string[]): Promise<string> => {
    const error = await failure(inspected(roles));
    expect(error).toMatchObject({ code: "target_refused" });
    return (error as { detail: string }).detail;
  };

  test.each(setupSql(ADMIN, ["notes_writer"]))(
    "each documented right is needed, and named when it is missing: %s",
    async (grant) => {
      const rights = /^GRANT (.*?) (ON .*? )?TO /.exec(grant);
      const on = rights?.[2] ?? "";
      for (const right of on.includes("*.*") ? (rights?.[1] ?? "").split(", ") : [rights?.[1] ?? ""]) {
        await target.sql(`REVOKE ${right} ${on}FROM ${ADMIN}`);
        const detail = await refusal([target.role]);
        const remedy = detail.slice(detail.search(/(CREATE ROLE|GRANT) /));
        expect(remedy).toContain(right);
        for (const statement of remedy.split(";").filter((one) => one.trim() !== "")) await target.sql(statement);
        await inspected([target.role]);
      }
    },
  );

  test.each([
    ["a right on everything", "GRANT SELECT ON *.* TO 'too_much'", /beyond databases/],
    ["FILE", "GRANT FILE ON *.* TO 'too_much'", /beyond databases/],
    ["the accounts", "GRANT SELECT ON mysql.* TO 'too_much'", /own tables/],
    ["a pattern that the accounts match", "GRANT SELECT ON `m%`.* TO 'too_much'", /own tables/],
    ["a right to hand on", "GRANT SELECT ON app.* TO 'too_much' WITH GRANT OPTION", /handed on/],
    ["a role inside that is too much", "GRANT 'inner_role' TO 'too_much'", /beyond databases/],
  ])("a role with %s is refused", async (_, grant, why) => {
    await target.sql("CREATE ROLE 'inner_role'");
    await target.sql("GRANT PROCESS ON *.* TO 'inner_role'");
    await target.sql("CREATE ROLE 'too_much'");
    await target.sql(`GRANT 'too_much' TO ${ADMIN} WITH ADMIN OPTION`);
    await inspected(["too_much"]);
    await target.sql(grant);
    expect(await refusal(["too_much"])).toMatch(why);
    await target.sql("DROP ROLE 'too_much'");
    await target.sql("DROP ROLE 'inner_role'");
  });

  test("an admin that is a superuser, a read-only server and two roles at once are refused", async () => {
    expect(await refusal([target.role, target.otherRole])).toMatch(/one default role/);
    await target.sql("set global read_only = 1");
    expect(await refusal([target.role])).toMatch(/read-only/);
    await target.sql("set global read_only = 0");
    await target.sql(`GRANT SUPER ON *.* TO ${ADMIN}`);
    expect(await refusal([target.role])).toMatch(/superuser/);
  });
});
