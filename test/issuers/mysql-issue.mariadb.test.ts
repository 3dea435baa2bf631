import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Issued } from "../../src/issuers/issuer.ts";
import { type MysqlConfig, mysql } from "../../src/issuers/mysql.ts";
import { createStatements } from "../../src/issuers/mysql-account.ts";
import { createLock } from "../../src/issuers/mysql-revoke.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { until } from "../support/until.ts";
import { failure, never } from "./conformance.ts";
import { type MysqlTarget, mysqlTarget } from "./mysql-target.ts";

describe("issuing on MariaDB", () => {
  let target: MysqlTarget;
  beforeAll(async () => {
    target = await mysqlTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  const open = (changes: Partial<MysqlConfig> = {}) => mysql.connect({ ...target.config, ...changes });
  const present = async (user: string): Promise<boolean> =>
    (await target.sql("select 1 from mysql.user where User = ?", [user])).length > 0;
  const text = (secret: Issued["secret"], name: string): string => {
    const value = secret[name];
    return value instanceof Secret ? value.reveal() : String(value);
  };

  test("the account has its role by default, no right of its own, and no more sessions than it may", async () => {
    await using client = await open({ connection_limit: 2 });
    const asked = target.request();
    const { secret } = await mysql.issue(client, asked);
    const { user } = asked.handle;
    const grants = await target.sql(`show grants for '${user}'@'%'`);
    const statements = grants.map((row) =>
      String(Object.values(row)[0]).replace(/ IDENTIFIED BY PASSWORD '\*[0-9A-F]{40}'/, ""),
    );
    expect(statements.sort()).toEqual([
      `GRANT USAGE ON *.* TO \`${user}\`@\`%\` WITH MAX_USER_CONNECTIONS 2`,
      `GRANT \`${target.role}\` TO \`${user}\`@\`%\``,
      `SET DEFAULT ROLE \`${target.role}\` FOR \`${user}\`@\`%\``,
    ]);
    await using one = await target.login(secret);
    await using two = await target.login(secret);
    expect(await failure(target.login(secret))).toMatchObject({ errno: 1226 });
    for (const statement of [
      `grant '${target.role}' to 'root'@'127.0.0.1'`,
      `set role '${target.otherRole}'`,
      `alter user '${user}'@'%' with max_user_connections 0`,
      "create user other",
    ])
      expect(await failure(one.query(statement))).toMatchObject({
        sqlState: expect.stringMatching(/^(42000|[O0]P000|28000)$/),
      });
    expect(await two.query("select 1 from app.notes")).toEqual([]);
    expect(text(secret, "url")).toBe(`mysql://${user}:${text(secret, "password")}@127.0.0.1:${target.config.port}/`);
    await mysql.revoke(client, asked.handle, never());
  });

  test("the password is in no statement that the server sees", async () => {
    await target.sql("set global log_output = 'TABLE'");
    await target.sql("set global general_log = 1");
    await using client = await open();
    const asked = target.request();
    const { secret } = await mysql.issue(client, asked);
    await target.sql("set global general_log = 0");
    const log = await target.sql<{ text: string }>(
      "select convert(argument using utf8mb4) as text from mysql.general_log",
    );
    const all = log.map((row) => row.text).join("\n");
    expect(all).toContain(asked.downstreamName);
    expect(all).not.toContain(text(secret, "password"));
    await mysql.revoke(client, asked.handle, never());
  });

  test("a create that waits on the server until its time is over makes nothing that works (C8)", async () => {
    await using client = await open();
    const asked = target.request({ createWithinMs: 1_800 });
    await using locker = await target.root();
    await locker.query("flush tables with read lock");
    const error = await failure(mysql.issue(client, asked));
    expect(error).toMatchObject({ code: "target_unavailable" });
    await locker.query("unlock tables");
    // MariaDB goes on with a statement whose client has gone; the ones after it see that it is late.
    await until("the server is through with it", async () => {
      const [used] = await target.sql<{ id: unknown }>("select is_used_lock(?) as id", [createLock(asked.handle)]);
      return used?.id === null;
    });
    const unlocked =
      "select 1 from mysql.global_priv where User = ? and not json_value(Priv, '$.account_locked') <=> '1'";
    expect(await target.sql(unlocked, [asked.downstreamName])).toEqual([]);
    await mysql.revoke(client, asked.handle, never());
  });

  test("each effect looks at the server's clock for itself: once it is late, not one more happens (C8)", async () => {
    const asked = target.request();
    const server = { mariadb: true, version: 10_011_006, nowMicros: 0 };
    const statements = (createByMicros: number): string[] =>
      createStatements(server, {
        account: asked.handle,
        password: new Secret("x"),
        roles: [target.role],
        connectionLimit: 1,
        requireTls: false,
        createByMicros,
      });
    await using admin = await target.admin();
    const unlockAt = statements(9e15).findIndex((statement) => statement.includes("ACCOUNT UNLOCK"));
    const late = [...statements(9e15).slice(0, unlockAt - 1), ...statements(1).slice(unlockAt - 1)];
    let last: Record<string, unknown>[] = [];
    for (const statement of late) last = await admin.query(statement);
    expect(last).toEqual([{ done: 0 }]);
    const [row] = await target.sql<{ locked: unknown }>(
      "select json_value(Priv, '$.account_locked') as locked from mysql.global_priv where User = ?",
      [asked.downstreamName],
    );
    expect(String(row?.locked)).toBe("1");
    for (const statement of statements(1)) last = await admin.query(statement);
    expect(last).toEqual([{ done: 0 }]);
    await using client = await open();
    await mysql.revoke(client, asked.handle, never());
    for (const statement of statements(1)) last = await admin.query(statement);
    expect(await present(asked.downstreamName)).toBe(false);
  });

  test("an account that could not be given its role stays locked, and a revoke takes it away", async () => {
    await target.sql("create role 'not_ours'");
    await using client = await open();
    const asked = target.request({ access: [{ roles: ["not_ours"] }] });
    const error = await failure(mysql.issue(client, asked));
    expect(error).toMatchObject({ code: "target_rejected" });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(/IDENTIFIED|\*[0-9A-F]{40}/);
    const [row] = await target.sql<{ locked: unknown }>(
      "select json_value(Priv, '$.account_locked') as locked from mysql.global_priv where User = ?",
      [asked.downstreamName],
    );
    expect(String(row?.locked)).toBe("1");
    await mysql.revoke(client, asked.handle, never());
    expect(await present(asked.downstreamName)).toBe(false);
  });

  test("two roles in one mint are refused before anything is made", async () => {
    await using client = await open();
    const asked = target.request({ access: [{ roles: [target.role] }, { roles: [target.otherRole] }] });
    expect(await failure(mysql.issue(client, asked))).toMatchObject({ code: "target_rejected" });
    expect(await present(asked.downstreamName)).toBe(false);
  });

  test("a read-only server: a mint says later, a probe does not call anything dead", async () => {
    await using client = await open();
    const asked = target.request();
    await target.sql("set global read_only = 1");
    try {
      expect(await failure(mysql.issue(client, asked))).toMatchObject({ code: "target_unavailable" });
      expect(await failure(mysql.revoke(client, asked.handle, never()))).toMatchObject({ code: "target_unavailable" });
      expect(await mysql.probe(client, asked.handle, never())).toMatchObject({ outcome: "unknown" });
    } finally {
      await target.sql("set global read_only = 0");
    }
  });

  test("every id has a name of at most 32 characters, and the name gives the id back", async () => {
    await using client = await open();
    const ids = ["0".repeat(32), "f".repeat(32), newId("credential").slice(-32)].map((hex) => `crd_${hex}` as const);
    for (const credentialId of ids as ReturnType<typeof newId<"credential">>[]) {
      const named = mysql.name(credentialId, { ...target.config, deployment: "t1" });
      expect(mysql.name(credentialId, { ...target.config, deployment: "abcd" }).downstreamName).toHaveLength(32);
      await mysql.issue(client, target.request({ credentialId, ...named }));
      const listed = await mysql.list?.(client, never());
      expect(listed).toEqual([{ credentialId, downstreamName: named.downstreamName, handle: named.handle }]);
      await mysql.revoke(client, named.handle, never());
    }
  });

  test("accounts of others are not listed, whatever their names", async () => {
    const others = [
      "mt1_person",
      `mt2_${"0".repeat(26)}`,
      `mt1_${"8".repeat(26)}`,
      `mt1x${"0".repeat(26)}`,
      `mt1_${"0".repeat(25)}`,
    ];
    for (const other of others) await target.sql(`create user '${other}'@'%'`);
    await target.sql(`create user 'mt1_${"0".repeat(26)}'@'10.%'`);
    await using client = await open();
    expect(await mysql.list?.(client, never())).toEqual([]);
  });

  test("a burst of mints has its deadline, and leaves the client usable", async () => {
    await using client = await open();
    const stop = new AbortController();
    const all = Array.from({ length: 30 }, () => target.request({ signal: stop.signal }));
    const ends = Promise.allSettled(all.map((asked) => mysql.issue(client, asked)));
    await until("the first is there", async () => present(all[0]?.downstreamName ?? ""));
    stop.abort();
    await ends;
    for (const { handle } of all) await mysql.revoke(client, handle, never());
    expect(await mysql.list?.(client, never())).toEqual([]);
  });
});
