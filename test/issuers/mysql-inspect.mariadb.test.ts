import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type MysqlConfig, mysql } from "../../src/issuers/mysql.ts";
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

  async function inspected(roles: readonly string[], changes: Partial<MysqlConfig> = {}): Promise<void> {
    await using client = await mysql.connect({ ...target.config, ...changes });
    await mysql.inspect?.(client, [{ roles: [...roles] }], never());
  }
  const refusal = async (roles: readonly string[]): Promise<string> => {
    const error = await failure(inspected(roles));
    expect(error).toMatchObject({ code: "target_refused" });
    return (error as { detail: string }).detail;
  };

  /** Runs what a refusal says to run. */
  async function follow(detail: string): Promise<string> {
    const remedy = /: ([A-Z].*;)$/.exec(detail)?.[1];
    if (remedy === undefined) throw new Error(`names no statement: ${detail}`);
    for (const statement of remedy.split(";").filter((one) => one.trim() !== "")) await target.sql(statement);
    return remedy;
  }

  test.each(setupSql(ADMIN, ["notes_writer"]))(
    "each documented right is needed, and named when it is missing: %s",
    async (grant) => {
      const rights = /^GRANT (.*?) (ON .*? )?TO /.exec(grant);
      const on = rights?.[2] ?? "";
      for (const right of on.includes("*.*") ? (rights?.[1] ?? "").split(", ") : [rights?.[1] ?? ""]) {
        await target.sql(`REVOKE ${right} ${on}FROM ${ADMIN}`);
        const detail = await refusal([target.role]);
        expect(await follow(detail)).toContain(right);
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
    ["a role to hand on", "GRANT 'plain_role' TO 'too_much' WITH ADMIN OPTION", /handed on/],
    ["several rights on everything", "GRANT SELECT, FILE, SHUTDOWN ON *.* TO 'too_much'", /beyond databases/],
    ["one table of the accounts'", "GRANT SELECT ON mysql.db TO 'too_much'", /own tables/],
  ])("a role with %s is refused, and the statement that it names puts it right", async (_, grant, why) => {
    await target.sql("CREATE ROLE 'inner_role'");
    await target.sql("CREATE ROLE 'plain_role'");
    await target.sql("GRANT PROCESS ON *.* TO 'inner_role'");
    await target.sql("CREATE ROLE 'too_much'");
    await target.sql(`GRANT 'too_much' TO ${ADMIN} WITH ADMIN OPTION`);
    await inspected(["too_much"]);
    await target.sql(grant);
    const detail = await refusal(["too_much"]);
    expect(detail).toMatch(why);
    await follow(detail);
    await inspected(["too_much"]);
    await target.sql("DROP ROLE 'too_much'");
    await target.sql("DROP ROLE 'plain_role'");
    await target.sql("DROP ROLE 'inner_role'");
  });

  test("an admin that is a superuser, a read-only server and two roles at once are refused", async () => {
    expect(await refusal([target.role, target.otherRole])).toMatch(/one default role/);
    await target.sql("set global read_only = 1");
    expect(await refusal([target.role])).toMatch(/read-only/);
    await target.sql("set global read_only = 0");
    await target.sql(`GRANT SUPER ON *.* TO ${ADMIN}`);
    // It is told to take everything, and then what to give, one at a time.
    const said: string[] = [];
    for (;;) {
      const end = await inspected([target.role]).catch((error: unknown) => error);
      if (end === undefined) break;
      expect(end).toMatchObject({ code: "target_refused" });
      said.push(await follow((end as { detail: string }).detail));
    }
    expect(said[0]).toMatch(/^REVOKE ALL/);
    expect(said.length).toBe(7);
  });

  test.each<[string, Partial<MysqlConfig>, string, string]>([
    ["another password", { password: "not the password" }, "target_rejected", "user or password"],
    ["a user that is not there", { user: "nobody" }, "target_rejected", "user or password"],
    ["a port where nobody listens", { port: 1 }, "target_unavailable", "ECONNREFUSED"],
    ["a host that is not there", { host: "none.invalid" }, "target_unavailable", "(E"],
    ["TLS that the server has not", { tls: "verify-full", host: "localhost" }, "target_rejected", "does not offer TLS"],
  ])("%s is refused for what it is", async (_what, changes, code, detail) => {
    expect(await failure(inspected([target.role], changes))).toMatchObject({
      code,
      detail: expect.stringContaining(detail),
    });
  });

  test("an account that is locked is told from a wrong password", async () => {
    await target.sql(`ALTER USER ${ADMIN} ACCOUNT LOCK`);
    expect(await failure(inspected([target.role]))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("locked"),
    });
    await target.sql(`ALTER USER ${ADMIN} ACCOUNT UNLOCK`);
  });

  test("a host that the account is not for is refused by name", async () => {
    await target.sql("RENAME USER 'mayfly_admin'@'%' TO 'mayfly_admin'@'10.0.0.1'");
    expect(await failure(inspected([target.role]))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("not for where Mayfly is"),
    });
    await target.sql("RENAME USER 'mayfly_admin'@'10.0.0.1' TO 'mayfly_admin'@'%'");
  });

  test.each([
    ["MariaDB 10.5", "10.5.29-MariaDB-log", "MariaDB 10.6"],
    ["MySQL 5.7", "5.7.44-log", "MySQL 8.0.17"],
    ["MySQL 8.0.16", "8.0.16", "MySQL 8.0.17"],
  ])("%s is refused", async (_what, version, detail) => {
    await using old = await mysqlTarget([`--version=${version}`]);
    await using client = await mysql.connect(old.config);
    const error = await failure(mysql.inspect?.(client, [{ roles: [old.role] }], never()) ?? Promise.resolve());
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining(detail) });
  });
});
