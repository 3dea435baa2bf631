import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type PostgresHandle, postgres } from "../../src/issuers/postgres.ts";
import { newId } from "../../src/lib/ids.ts";
import { failure, never } from "./conformance.ts";
import { mint, type PostgresTarget, postgresTarget, servers, until } from "./postgres-target.ts";
import { wire } from "./wire.ts";

type Client = Awaited<ReturnType<typeof postgres.connect>>;

describe.each(servers)("revoking on PostgreSQL $name", ({ url }) => {
  let target: PostgresTarget;
  let client: Client;
  beforeAll(async () => {
    target = await postgresTarget(url);
    client = await postgres.connect(target.config);
  });
  afterAll(async () => {
    await client[Symbol.asyncDispose]();
    await target[Symbol.asyncDispose]();
  });

  const revoke = (handle: PostgresHandle) => postgres.revoke(client, handle, never());
  const probe = (handle: PostgresHandle) => postgres.probe(client, handle, never());

  const minted = () => mint(target, client);

  const roleExists = async (role: string): Promise<boolean> =>
    (await target.sql("select from pg_roles where rolname = $1", [role])).length > 0;

  describe("open sessions", () => {
    test("one that has become its group with SET ROLE reads nothing any more", async () => {
      const { secret, handle, downstreamName } = await minted();
      await target.sql(`grant ${target.group} to ${downstreamName}`);
      await using session = await target.login(secret);
      await session.query(`set role ${target.group}`);
      expect(await revoke(handle)).toEqual({});
      expect(await session.alive()).toBe(false);
    });

    test("one that somebody lets in between the last look and the drop does not outlive it", async () => {
      await using line = await wire(url);
      await using slow = await postgres.connect({ ...target.config, port: line.port });
      const { secret, handle, downstreamName } = await minted();
      const kept = line.hold("drop role %I");
      const revoked = postgres.revoke(slow, handle, never());
      await kept;
      await target.sql(`alter role ${downstreamName} login`);
      await using session = await target.login(secret);
      expect(await session.alive()).toBe(true);
      line.pass();
      expect(await revoked).toEqual({});
      expect(await session.alive()).toBe(false);
    });

    test("one in the middle of a statement ends, too", async () => {
      const { secret, handle } = await minted();
      await using session = await target.login(secret);
      const busy = failure(session.query("select pg_sleep(60)"));
      await until(
        async () => (await target.sql("select from pg_stat_activity where query ~ '^select pg_sleep'")).length > 0,
      );
      expect(await revoke(handle)).toEqual({});
      expect(await busy).toMatchObject({ code: "57P01" });
    });

    test("a session of the credential cannot hold up its own end with locks", async () => {
      const { secret, handle, downstreamName } = await minted();
      await using session = await target.login(secret);
      await session.query(`begin; comment on role ${downstreamName} is null`).catch(() => {});
      await session.query("rollback; begin; select pg_advisory_lock(g) from generate_series(1, 100) g");
      await session.query("create temp table own (x int)");
      expect(await revoke(handle)).toEqual({});
    });
  });

  describe("beside others", () => {
    test.each(["commit", "rollback"])("a create that has not committed yet is waited for (%s)", async (ending) => {
      const { handle, downstreamName } = target.request();
      await using creator = await target.admin();
      await creator.query(`begin; create role ${downstreamName} login`);
      let over = false;
      const revoked = revoke(handle).finally(() => (over = true));
      await until(async () => (await target.lockWaits()) > 0);
      expect(over).toBe(false);
      await creator.query(ending);
      expect(await revoked).toEqual({});
      expect(await roleExists(downstreamName)).toBe(false);
    });

    test("forty at a time, minted and taken back on one server, never meet each other", async () => {
      const all = await Promise.all(Array.from({ length: 40 }, minted));
      await Promise.all(all.map(({ handle }) => revoke(handle)));
      for (const { handle } of all) expect(await probe(handle)).toMatchObject({ outcome: "dead" });
    });

    test("only roles of this deployment are listed, and only names of ours are handles", async () => {
      const hex = newId("credential").slice(4);
      const tag = target.config.deployment;
      const foreign = [
        `mfy_x${tag.slice(1)}_${hex}`,
        `mfy_${tag}_${hex}0`,
        `mfy_${tag}_${hex.slice(1)}`,
        `jit_${tag}_${hex}`,
      ];
      for (const name of foreign) await target.sql(`create role ${name} login`);
      const { downstreamName, credentialId, handle } = await minted();
      const listed = (await postgres.list?.(client, never())) ?? [];
      expect(listed).toContainEqual({ downstreamName, credentialId, handle });
      expect(listed.filter((one) => foreign.includes(one.downstreamName))).toEqual([]);
      expect(listed.filter((one) => !postgres.handle.safeParse(one.handle).success)).toEqual([]);
      await revoke(handle);
      expect(await Promise.all(foreign.map(roleExists))).toEqual([true, true, true, true]);
      for (const role of [...foreign.slice(1), "postgres", `${foreign[0]}"; drop role x; --`]) {
        expect(postgres.handle.safeParse({ role }).success).toBe(false);
      }
      for (const name of foreign) await target.sql(`drop role ${name}`);
    });
  });

  describe("a role that cannot be dropped", () => {
    test("because it owns something keeps nothing but its name, and says so", async () => {
      await target.sql(`grant create on schema public to ${target.group}`);
      const { secret, handle, downstreamName } = await minted();
      await using session = await target.login(secret);
      await session.query("create table mine (x int)");
      for (let again = 0; again < 2; again += 1) {
        expect(await revoke(handle)).toEqual({ residue: expect.stringContaining(downstreamName) });
        expect(await probe(handle)).toMatchObject({ outcome: "dead", by: "pg_catalog" });
      }
      expect(await session.alive()).toBe(false);
      expect(await failure(target.login(secret))).toMatchObject({ code: "28P01" });
      const [left] = await target.sql(
        `select rolcanlogin, rolpassword, (select count(*) from pg_auth_members where member = a.oid)::int as groups
         from pg_authid a where rolname = $1`,
        [downstreamName],
      );
      expect(left).toEqual({ rolcanlogin: false, rolpassword: null, groups: 0 });
      await target.sql("drop table mine");
      expect(await revoke(handle)).toEqual({});
    });

    test("because another transaction is about to name it loses its access at once", async () => {
      const { handle, downstreamName } = await minted();
      await using other = await target.superuser();
      await other.query(`begin; grant select on notes to ${downstreamName}`);
      expect(await revoke(handle)).toEqual({ residue: expect.stringContaining(downstreamName) });
      expect(await probe(handle)).toMatchObject({ outcome: "dead" });
      await other.query("rollback");
      expect(await revoke(handle)).toEqual({});
    });

    test.each([
      ["of a group that is not the admin's", () => `extra_${target.config.deployment}`],
      ["that somebody else granted as well", () => target.group],
    ])("with a membership %s is not called revoked", async (_name, named) => {
      const { handle, downstreamName } = await minted();
      const group = named();
      if (group !== target.group) await target.sql(`create role ${group}`);
      await target.sql(`grant ${group} to ${downstreamName}; grant select on notes to ${downstreamName}`);
      // Before 16 the admin may revoke any membership.
      if (!target.before16) {
        expect(await failure(revoke(handle))).toMatchObject({ code: "target_rejected" });
        expect(await probe(handle)).toMatchObject({ outcome: "alive" });
      }
      await target.sql(`revoke select on notes from ${downstreamName}`);
      expect(await revoke(handle)).toEqual({});
      if (group !== target.group) await target.sql(`drop role ${group}`);
    });
  });

  test("a role that somebody else made under our name is not touched", async () => {
    const { handle, downstreamName } = target.request();
    await target.sql(`create role ${downstreamName} login`);
    if (!target.before16) {
      expect(await failure(revoke(handle))).toMatchObject({ code: "target_rejected" });
      expect(await roleExists(downstreamName)).toBe(true);
    }
    await target.sql(`drop role ${downstreamName}`);
  });

  test("nothing in the database's own schemas is ever run as the admin", async () => {
    await target.sql(`create table called (by text default current_user);
      grant insert on called to public;
      create function pg_terminate_backend(int) returns bool language sql as 'insert into public.called default values returning true';
      create view pg_roles as select * from pg_catalog.pg_roles where false;
      grant select on pg_roles to public;
      alter role ${target.config.user} set search_path = public, pg_catalog`);
    await using fresh = await postgres.connect(target.config);
    const asked = target.request();
    const { secret } = await postgres.issue(fresh, asked);
    await using session = await target.login(secret);
    expect(await postgres.revoke(fresh, asked.handle, never())).toEqual({});
    expect(await session.alive()).toBe(false);
    expect(await target.sql("select * from called")).toEqual([]);
    await target.sql(`alter role ${target.config.user} reset search_path;
      drop function public.pg_terminate_backend(int); drop view public.pg_roles; drop table called`);
  });
});
