import { describe, expect, test } from "@jest/globals";
import { mysql } from "../../src/issuers/mysql.ts";
import { createStatements } from "../../src/issuers/mysql-account.ts";
import { quote } from "../../src/issuers/mysql-client.ts";
import { Secret } from "../../src/lib/secret.ts";
import { sqlNames } from "./corpus.ts";

const CONFIG = { host: "db.example", user: "mayfly", password: "p", tls: "verify-full", deployment: "t1" };

describe("what goes into a statement", () => {
  test.each(sqlNames.filter((name) => /[^A-Za-z0-9._%:/-]/.test(name) || name.length === 0))(
    "account_host, a handle's host and a handle's user %j are refused",
    (name) => {
      expect(mysql.config.safeParse({ ...CONFIG, account_host: name }).success).toBe(false);
      const user = "mt1_00000000000000000000000000";
      expect(mysql.handle.safeParse({ user, host: name }).success).toBe(false);
      expect(mysql.handle.safeParse({ user: `${user}${name}`, host: "%" }).success).toBe(name === "");
      expect(mysql.config.safeParse({ ...CONFIG, deployment: name }).success).toBe(false);
    },
  );

  test("all of it is quoted besides: a name that got through would stay a name", () => {
    expect(quote("a'; DROP USER root; -- ")).toBe("'a''; DROP USER root; -- '");
    expect(() => quote("a\\")).toThrow(expect.objectContaining({ code: "internal" }));
  });

  test("MySQL gets its own kind of hash, several default roles, and TLS when the target has it", () => {
    const account = { user: "mt1_00000000000000000000000000", host: "%" };
    const statements = createStatements(
      { mariadb: false, version: 8_000_017, nowMicros: 0 },
      {
        account,
        password: new Secret("clear"),
        roles: ["a", "b"],
        connectionLimit: 5,
        requireTls: true,
        createByMicros: 1,
      },
    );
    const effects = statements
      .map((statement) => /^SET @mayfly_do = if\(@mayfly_on, '(.*)', 'DO 0'\)$/.exec(statement)?.[1])
      .filter((effect) => effect !== undefined);
    const name = "''mt1_00000000000000000000000000''@''%''";
    expect(effects.map((effect) => effect.replace(/0x[0-9a-f]{140}/, "0x…"))).toEqual([
      `CREATE USER ${name} IDENTIFIED WITH caching_sha2_password AS 0x… REQUIRE SSL WITH MAX_USER_CONNECTIONS 5 ACCOUNT LOCK`,
      `GRANT ''a'', ''b'' TO ${name}`,
      `SET DEFAULT ROLE ''a'', ''b'' TO ${name}`,
      `ALTER USER ${name} ACCOUNT UNLOCK`,
    ]);
    expect(statements.join()).not.toContain("clear");
  });

  test("without TLS only this machine, and with it only a name: the driver checks no address", () => {
    const accepts = (changes: object): boolean => mysql.config.safeParse({ ...CONFIG, ...changes }).success;
    expect(accepts({})).toBe(true);
    expect(accepts({ tls: "disable" })).toBe(false);
    for (const host of ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
      expect(accepts({ tls: "disable", host })).toBe(true);
    for (const host of ["127.0.0.1", "::1", "10.0.0.5", "fe80::1"]) expect(accepts({ host })).toBe(false);
    for (const host of ["127.evil.example", "localhost.example"]) expect(accepts({ tls: "disable", host })).toBe(false);
  });
});
