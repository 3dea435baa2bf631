import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Issued } from "../../src/issuers/issuer.ts";
import { type PostgresConfig, postgres } from "../../src/issuers/postgres.ts";
import { Secret } from "../../src/lib/secret.ts";
import { certificateFor } from "./certificate.ts";
import { failure, never } from "./conformance.ts";
import { type PostgresTarget, postgresTarget, servers, until } from "./postgres-target.ts";
import { type Wire, wire } from "./wire.ts";

describe.each(servers)("issuing on PostgreSQL $name", ({ url }) => {
  let target: PostgresTarget;
  beforeAll(async () => {
    target = await postgresTarget(url);
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  const open = (changes: Partial<PostgresConfig> = {}) => postgres.connect({ ...target.config, ...changes });
  const through = (line: Wire, changes: Partial<PostgresConfig> = {}) => open({ port: line.port, ...changes });
  const roleExists = async (role: string): Promise<boolean> =>
    (await target.sql("select from pg_roles where rolname = $1", [role])).length > 0;

  test("the role is a bare member of its groups: no attribute, no grant, no way to become the group", async () => {
    await using client = await open();
    const expiresAt = new Date("2031-02-03T04:05:06.789Z");
    const access = [{ roles: [target.otherGroup, target.group] }, { roles: [target.group] }];
    const asked = target.request({ access, expiresAt });
    const { secret } = await postgres.issue(client, asked);
    const [role] = await target.sql(
      `select r.*, shobj_description(r.oid, 'pg_authid') as comment, rolvaliduntil::timestamptz(3) as until,
         array(select roleid::regrole::text from pg_auth_members m where m.member = r.oid order by 1) as groups
       from pg_roles r where rolname = $1`,
      [asked.downstreamName],
    );
    expect(role).toMatchObject({
      rolcanlogin: true,
      rolinherit: true,
      rolsuper: false,
      rolcreaterole: false,
      rolcreatedb: false,
      rolreplication: false,
      rolbypassrls: false,
      rolconnlimit: 5,
      until: new Date("2031-02-03T04:05:11.789Z"),
      comment: `Mayfly credential ${asked.credentialId}`,
      groups: [target.group, target.otherGroup],
    });
    await using holder = await target.login(secret);
    const name = asked.downstreamName;
    for (const statement of [
      `alter role ${name} valid until 'infinity'`,
      `alter role ${name} connection limit -1`,
      `create role more`,
      ...(target.before16 ? [] : [`set role ${target.group}`, `alter table notes owner to ${target.group}`]),
    ]) {
      expect(await failure(holder.query(statement))).toMatchObject({ code: "42501" });
    }
  });

  test("a credential has no more sessions than its limit", async () => {
    await using client = await open({ connection_limit: 2 });
    const { secret } = await postgres.issue(client, target.request());
    await using _first = await target.login(secret);
    await using _second = await target.login(secret);
    expect(await failure(target.login(secret))).toMatchObject({ code: "53300" });
  });

  test("after its end and the backstop the target refuses the log-in by itself", async () => {
    await using client = await open();
    const over = Date.now() - (postgres.bounds(target.config).backstopSeconds ?? 0) * 1000 - 1;
    const { secret } = await postgres.issue(client, target.request({ expiresAt: new Date(over) }));
    expect(await failure(target.login(secret))).toMatchObject({ code: "28P01" });
  });

  test("the password never crosses the wire, and the target stores a verifier of 4,096 rounds", async () => {
    await using line = await wire(url);
    await using client = await through(line);
    const asked = target.request();
    const { secret } = await postgres.issue(client, asked);
    expect(line.sent()).toContain(asked.downstreamName);
    expect(line.sent()).not.toContain(revealed(secret["password"]));
    const [stored] = await target.sql("select rolpassword from pg_authid where rolname = $1", [asked.downstreamName]);
    expect(stored?.["rolpassword"]).toMatch(/^SCRAM-SHA-256\$4096:/);
  });

  test("what the target's statement statistics see of a credential is the same for all", async () => {
    await using line = await wire(url);
    await using client = await through(line);
    const asked = target.request();
    await postgres.issue(client, asked);
    await postgres.revoke(client, asked.handle, never());
    const blocks = line.sent().match(/do \$mayfly\$.*?\$mayfly\$/gs) ?? [];
    expect(blocks.length).toBeGreaterThanOrEqual(3);
    for (const block of blocks) expect(block).not.toContain(asked.credentialId.slice(4));
  });

  test("the url in the secret is a connection string that works", async () => {
    await using client = await open();
    const { secret } = await postgres.issue(client, target.request());
    const { username, password, hostname, port, pathname, search } = new URL(revealed(secret["url"]));
    const { host, database, port: number } = target.config;
    expect({ hostname, port, pathname, search }).toEqual({
      hostname: host,
      port: `${number}`,
      pathname: `/${database}`,
      search: "?sslmode=disable",
    });
    await using holder = await target.login({ username, password: new Secret(password) });
    expect(await holder.query("select current_user as me")).toEqual([{ me: username }]);
  });

  test("a create that is held up on its way creates nothing when it arrives after its time", async () => {
    await using line = await wire(url);
    await using client = await through(line);
    await postgres.issue(client, target.request()); // connected: the time below is for the create alone
    const asked = target.request({ createWithinMs: 1_500 });
    const kept = line.hold("create role %I login");
    const error = failure(postgres.issue(client, asked));
    await kept;
    expect(await error).toMatchObject({ code: "target_unavailable" });
    expect(await line.release()).toContain("MF001");
    expect(await roleExists(asked.downstreamName)).toBe(false);
  });

  test("a create that waits on the target past its time creates nothing", async () => {
    await using client = await open();
    await using blocker = await target.superuser();
    await postgres.issue(client, target.request());
    const asked = target.request({ createWithinMs: 1_500 });
    await blocker.query(`begin; create role ${asked.downstreamName}`);
    const error = failure(postgres.issue(client, asked));
    await until(async () => (await waitingFor(asked.downstreamName)) > 0);
    expect(await error).toMatchObject({ code: "target_unavailable" });
    await blocker.query("rollback");
    await until(async () => (await waitingFor(asked.downstreamName)) === 0);
    expect(await roleExists(asked.downstreamName)).toBe(false);
  });

  test("a create whose answer is lost is an error, and its revoke finds what was made", async () => {
    await using line = await wire(url);
    await using client = await through(line);
    const asked = target.request();
    line.loseAnswerTo("create role %I login");
    expect(await failure(postgres.issue(client, asked))).toMatchObject({ code: "target_unavailable" });
    expect(await roleExists(asked.downstreamName)).toBe(true);
    expect(await postgres.revoke(client, asked.handle, never())).toEqual({});
    expect(await roleExists(asked.downstreamName)).toBe(false);
  });

  test("a create that loses a deadlock to somebody else's DDL is made again within its time", async () => {
    if (target.before16) return; // there GRANT locks nothing, so there is no deadlock to lose
    await using client = await open();
    await using other = await target.superuser();
    const [first = "", second = ""] = [target.group, target.otherGroup].sort();
    await other.query(`set deadlock_timeout = '30s'`);
    await other.query(`begin; create role bystander_${first}; grant ${second} to bystander_${first}`);
    const asked = target.request({ access: [{ roles: [first, second] }] });
    const issued = postgres.issue(client, asked);
    await until(async () => (await waitingFor(asked.downstreamName)) > 0);
    await other.query(`grant ${first} to bystander_${first}; rollback`);
    const { secret } = await issued;
    await using holder = await target.login(secret);
    expect(await holder.alive()).toBe(true);
  });

  test("a refusal names the SQLSTATE and nothing that the target said", async () => {
    await using client = await open();
    const asked = target.request({ access: [{ roles: ["nobody_made_this_group"] }] });
    const error = await failure(postgres.issue(client, asked));
    expect(error).toMatchObject({ code: "target_rejected", detail: "PostgreSQL refused (SQLSTATE 42704)" });
    expect(await roleExists(asked.downstreamName)).toBe(false);
  });

  test("connections that the target has closed are replaced without anyone noticing", async () => {
    await using client = await open();
    await Promise.all([postgres.issue(client, target.request()), postgres.list?.(client, never())]);
    await target.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [target.config.user]);
    await postgres.issue(client, target.request());
    expect(await postgres.list?.(client, never())).not.toEqual([]);
  });

  test("access names groups only: nothing reserved, nothing quoted, no credential of ours", () => {
    for (const role of [
      "pg_read_all_data",
      "postgres",
      "public",
      "none",
      "rds_superuser",
      `mfy_main_${"0".repeat(32)}`,
    ]) {
      expect(postgres.access.safeParse({ roles: [role] }).success).toBe(false);
    }
    for (const role of ["", "Notes", 'a"b', "a b", "1a", "a".repeat(64), "a;drop"]) {
      expect(postgres.access.safeParse({ roles: [role] }).success).toBe(false);
    }
  });

  describe("with tls: verify-full", () => {
    const verified = (line: Wire, ca: string) => through(line, { tls: "verify-full", ca });

    test("it talks to the server whose certificate is of its authority and of its address", async () => {
      const certificate = certificateFor(target.config.host);
      await using line = await wire(url, { tls: certificate });
      await using client = await verified(line, certificate.cert);
      expect(await postgres.list?.(client, never())).toEqual(expect.any(Array));
    });

    test.each([
      ["the certificate of another authority", "127.0.0.1", true],
      ["the certificate of another address", "127.0.0.2", false],
    ])("it refuses %s before it says anything", async (_name, address, foreign) => {
      const certificate = certificateFor(address);
      await using line = await wire(url, { tls: certificate });
      await using client = await verified(line, foreign ? certificateFor(address).cert : certificate.cert);
      const error = await failure(listed(client));
      expect(error).toMatchObject({ code: "target_rejected", detail: expect.stringContaining("certificate") });
      expect(line.sent()).toBe("");
    });

    test("it does not fall back to plain text", async () => {
      await using line = await wire(url);
      await using client = await verified(line, certificateFor("127.0.0.1").cert);
      const error = await failure(listed(client));
      expect(error).toMatchObject({ code: "target_rejected", detail: "PostgreSQL does not offer TLS" });
      expect(line.sent()).toHaveLength(8);
    });
  });

  const listed = async (client: Parameters<typeof postgres.revoke>[0]): Promise<unknown> =>
    postgres.list?.(client, never());

  async function waitingFor(role: string): Promise<number> {
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%' || $1 || '%'`;
    return (await target.sql(waiting, [role])).length;
  }
});

function revealed(value: Issued["secret"][string] | undefined): string {
  if (!(value instanceof Secret)) throw new Error(`not a Secret: ${inspect(value)}`);
  return value.reveal();
}
