import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { postgres } from "../../src/issuers/postgres.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { until } from "../support/until.ts";
import { failure, never } from "./conformance.ts";
import { mint, type PostgresTarget, postgresTarget, servers } from "./postgres-target.ts";

type Client = Awaited<ReturnType<typeof postgres.connect>>;

// Before 16 there are no keepers: nothing has to be shared out there.
describe.each(servers.filter(({ name }) => Number(name) >= 16))(
  "who makes the roles on PostgreSQL $name",
  ({ url }) => {
    let target: PostgresTarget;
    let client: Client;
    beforeEach(async () => {
      target = await postgresTarget(url);
      client = await postgres.connect(target.config);
    });
    afterEach(async () => {
      await client[Symbol.asyncDispose]();
      await target[Symbol.asyncDispose]();
    });

    const makersOf = async (role: string): Promise<string[]> =>
      (
        await target.sql<{ maker: string }>(
          `select k.rolname as maker from pg_auth_members m join pg_roles r on r.oid = m.roleid join pg_roles k on k.oid = m.member
         where r.rolname = $1 order by 1`,
          [role],
        )
      ).map(({ maker }) => maker);
    const keepers = (): Promise<{ rolname: string }[]> =>
      target.sql("select * from pg_roles where rolname ~ $1 order by 1", [`^mfy_${target.config.deployment}_keeper_`]);
    const gone = async (role: string): Promise<boolean> =>
      (await target.sql("select from pg_roles where rolname = $1", [role])).length === 0;

    test("a credential's role has one maker, which cannot log in, and nobody but the admin may act as it", async () => {
      const { downstreamName, secret } = await mint(target, client);
      const [maker = "", ...more] = await makersOf(downstreamName);
      expect(more).toEqual([]);
      expect(maker).toMatch(new RegExp(`^mfy_${target.config.deployment}_keeper_\\d{1,2}$`));
      expect(await keepers()).toEqual([
        expect.objectContaining({
          rolname: maker,
          rolcanlogin: false,
          rolcreaterole: true,
          rolsuper: false,
          rolcreatedb: false,
          rolreplication: false,
          rolbypassrls: false,
        }),
      ]);
      expect(await makersOf(maker)).toEqual([target.config.user, target.config.user]);
      await using holder = await target.login(secret);
      expect(await failure(holder.query(`set role ${maker}`))).toMatchObject({ code: "42501" });
    });

    test("no maker is handed a group that was not asked for, and the admin gets the rights of neither", async () => {
      const { downstreamName } = await mint(target, client);
      const [maker = ""] = await makersOf(downstreamName);
      const groups = await target.sql(
        `select roleid::regrole::text as name, admin_option, inherit_option, set_option from pg_auth_members m
       where m.member = $1::regrole and roleid <> $2::regrole`,
        [maker, downstreamName],
      );
      expect(groups).toEqual([{ name: target.group, admin_option: true, inherit_option: false, set_option: false }]);
      await using admin = await target.admin();
      expect(await failure(admin.query("select from notes"))).toMatchObject({ code: "42501" });
      // What the maker is a member of would count as the admin's, and be walked through for each of its statements.
      expect(await admin.query("select pg_has_role(current_user, $1::regrole, 'USAGE') as inherits", [maker])).toEqual([
        { inherits: false },
      ]);
      await admin.query(`set role ${maker}`);
      expect(await failure(admin.query("select from notes"))).toMatchObject({ code: "42501" });
    });

    test("many at once, of two groups, share a few makers; all are made, and all are taken back", async () => {
      const minted = await Promise.all(
        Array.from({ length: 100 }, async (_, index) => {
          const asked = target.request({ access: [{ roles: [index % 2 === 0 ? target.group : target.otherGroup] }] });
          await postgres.issue(client, asked);
          return asked;
        }),
      );
      const makers = new Set<string>();
      for (const { downstreamName } of minted) for (const maker of await makersOf(downstreamName)) makers.add(maker);
      expect(makers).not.toContain(target.config.user);
      expect(makers.size).toBeGreaterThan(8);
      expect(makers.size).toBeLessThanOrEqual(32);
      expect(await postgres.list?.(client, never())).toHaveLength(minted.length);
      await Promise.all(minted.map(({ handle }) => postgres.revoke(client, handle, never())));
      expect(await postgres.list?.(client, never())).toEqual([]);
    });

    test("an admin who has lost CREATEROLE makes nothing more through them, and what was made is still taken back", async () => {
      const { handle } = await mint(target, client);
      await target.sql(`alter role ${target.config.user} nocreaterole`);
      // Of the same maker, which exists and could: the end of the name decides.
      let asked = target.request();
      while (asked.handle.role.slice(-2) !== handle.role.slice(-2)) asked = target.request();
      expect(await failure(postgres.issue(client, asked))).toMatchObject({ code: "target_rejected" });
      expect(await gone(asked.handle.role)).toBe(true);
      await postgres.revoke(client, handle, never());
      expect(await gone(handle.role)).toBe(true);
    });

    test.each([
      [
        "may not act as it any more",
        (maker: string, admin: string) => `revoke ${maker} from ${admin} granted by ${admin}`,
      ],
      ["finds it without CREATEROLE", (maker: string) => `alter role ${maker} nocreaterole`],
    ])("an admin who %s takes back what it made", async (_, loss) => {
      const { handle, secret } = await mint(target, client);
      await using holder = await target.login(secret);
      const [maker = ""] = await makersOf(handle.role);
      await target.sql(loss(maker, target.config.user));
      await postgres.revoke(client, handle, never());
      expect(await gone(handle.role)).toBe(true);
      expect(await holder.alive()).toBe(false);
    });

    test("a role that the admin made itself is taken back, too", async () => {
      const asked = target.request();
      await using admin = await target.admin();
      await admin.query(`create role ${asked.handle.role} login; grant ${target.group} to ${asked.handle.role}`);
      await postgres.revoke(client, asked.handle, never());
      expect(await gone(asked.handle.role)).toBe(true);
    });

    /** Credentials that one maker makes: the end of the name decides. */
    const ofOneMaker = (count: number) =>
      Promise.all(
        Array.from({ length: count }, async () => {
          const credentialId = `${newId("credential").slice(0, -2)}00` as Id<"credential">;
          const asked = target.request({ credentialId, ...postgres.name(credentialId, target.config) });
          return { ...asked, ...(await postgres.issue(client, asked)) };
        }),
      );
    const functions = (): Promise<{ call: string }[]> =>
      target.sql("select oid::regproc::text as call from pg_proc where proname ~ $1", [
        `^mfy_${target.config.deployment}_keeper_`,
      ]);

    test("a maker of many is reached through functions that only the session may call, and that go with it", async () => {
      const minted = await ofOneMaker(60);
      const made = await functions();
      expect(made.length).toBeGreaterThan(0);
      for (const { downstreamName } of minted)
        expect(await makersOf(downstreamName)).toEqual([`mfy_${target.config.deployment}_keeper_0`]);
      await using holder = await target.login(minted[0]?.secret ?? {});
      await using admin = await target.admin();
      for (const caller of [holder, admin])
        for (const { call } of made)
          expect(await failure(caller.query(`select ${call}('select 1')`))).toMatchObject({ code: "42501" });
      await Promise.all(minted.map(({ handle }) => postgres.revoke(client, handle, never())));
      expect(await postgres.list?.(client, never())).toEqual([]);
      await client[Symbol.asyncDispose]();
      await until("the functions are gone", async () => (await functions()).length === 0);
    });

    test("where nobody may have temporary objects, a maker of many is reached all the same", async () => {
      await target.sql(`revoke temporary on database ${target.config.database} from public`);
      const minted = await ofOneMaker(60);
      expect(await functions()).toEqual([]);
      await Promise.all(minted.map(({ handle }) => postgres.revoke(client, handle, never())));
      expect(await postgres.list?.(client, never())).toEqual([]);
    });

    test("the page's statements remove a maker whose functions are left, and the next mint makes both again", async () => {
      for (const time of ["first", "second"]) {
        const minted = await ofOneMaker(60);
        expect((await functions()).length).toBeGreaterThan(0);
        await Promise.all(minted.map(({ handle }) => postgres.revoke(client, handle, never())));
        await removeKeepers();
        expect({ time, left: await keepers() }).toEqual({ time, left: [] });
      }
    });

    const removeKeepers = async (): Promise<void> => {
      const page = await readFile(new URL("../../docs/issuers/postgres.md", import.meta.url), "utf8");
      const statement = /```sql\n(DO [\s\S]*?)```/.exec(page)?.[1] ?? "";
      await using admin = await target.admin();
      await admin.query(statement.replace("<deployment>", target.config.deployment));
    };

    test("the page's statements remove what is left of a target", async () => {
      const { handle } = await mint(target, client);
      await postgres.revoke(client, handle, never());
      await removeKeepers();
      expect(await keepers()).toEqual([]);
      // And it goes on as if there never had been one.
      const again = await mint(target, client);
      await postgres.revoke(client, again.handle, never());
      expect(await gone(again.handle.role)).toBe(true);
    });
  },
);
