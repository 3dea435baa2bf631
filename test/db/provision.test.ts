import { readFile } from "node:fs/promises";
import { expect, test } from "@jest/globals";
import pg from "pg";
import { startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { assertMigrated, migrate } from "../../src/db/migrate.ts";
import { provisionDatabase } from "../../src/db/provision.ts";
import { emptyDatabase, testDatabase, testSuperuserUrl } from "../support/database.ts";
import { testDirectory } from "../support/directory.ts";

test("provisioning again, also at the same moment, changes nothing that anybody holds", async () => {
  await using db = await emptyDatabase();
  const again = await Promise.all(Array.from({ length: 4 }, () => provisionDatabase(testSuperuserUrl(), db.name)));
  for (const urls of again) expect(urls).toEqual({ ownerUrl: db.ownerUrl, runtimeUrl: db.runtimeUrl });
  expect(await ask(db.runtimeUrl, "select current_user as name")).toEqual([{ name: "mayfly_app" }]);
});

test("the two logins can do nothing that a role can be given for the whole cluster", async () => {
  await using db = await emptyDatabase();
  const rows = await ask(
    db.ownerUrl,
    `select rolname as name, rolcanlogin as login from pg_roles where rolname like 'mayfly%'
        and not (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls) order by 1`,
  );
  expect(rows).toEqual([
    { name: "mayfly_app", login: true },
    { name: "mayfly_owner", login: true },
    { name: "mayfly_runtime", login: false },
    { name: "mayfly_system", login: false },
  ]);
});

test("the runtime role owns nothing, cannot become who does, and cannot make tables of its own", async () => {
  await using db = await testDatabase();
  expect(
    await ask(
      db.runtimeUrl,
      `select (select count(*) from pg_class where pg_get_userbyid(relowner) in ('mayfly_app', 'mayfly_runtime'))::int as owned,
              pg_has_role('mayfly_owner', 'MEMBER') as owner, pg_has_role('mayfly_system', 'MEMBER') as system`,
    ),
  ).toEqual([{ owned: 0, owner: false, system: false }]);
  for (const statement of ["set role mayfly_owner", "create table public.mine ()", "create temp table mine ()"]) {
    await expect(ask(db.runtimeUrl, statement)).rejects.toThrow(/permission denied/);
  }
});

test("a role that was given more by hand loses it", async () => {
  await using db = await emptyDatabase();
  // Something that no test beside this one can notice, under the lock that provisioning beside this one takes.
  await ask(testSuperuserUrl(), "select pg_advisory_lock(7305791); alter role mayfly_app createdb");
  await provisionDatabase(testSuperuserUrl(), db.name);
  expect(await ask(db.ownerUrl, "select rolcreatedb as more from pg_roles where rolname = 'mayfly_app'")).toEqual([
    { more: false },
  ]);
});

test("a role that was not let in cannot connect", async () => {
  await using db = await testDatabase();
  const stranger = `${db.name}_stranger`;
  await ask(db.superuserUrl, `create role ${stranger} login password 'stranger'`);
  try {
    const url = new URL(db.superuserUrl);
    url.username = stranger;
    url.password = "stranger";
    await expect(ask(url.href, "select 1")).rejects.toThrow(/permission denied for database/);
  } finally {
    await ask(db.superuserUrl, `drop role ${stranger}`);
  }
});

test.each(["", "Mayfly", "may fly", 'm"; drop', "m".repeat(64)])(
  "%j is refused as the name of a database",
  async (name) => {
    await expect(provisionDatabase(testSuperuserUrl(), name)).rejects.toThrow("is not a name for a database");
  },
);

test("a superuser URL without a password is refused, because the logins' passwords follow from it", async () => {
  await expect(provisionDatabase("postgres://postgres@127.0.0.1:1/postgres", "mayfly")).rejects.toThrow(
    "with a password",
  );
});

test("deploy/postgres.sql, run by a managed service's administrator, makes what provisioning makes, and it migrates", async () => {
  await using directory = await testDirectory();
  const server = await startEmbeddedPostgres({ directory: directory.path, durable: false });
  try {
    const as = (user: string, database: string): string => {
      const url = new URL(server.superuserUrl);
      if (user !== "postgres") [url.username, url.password] = [user, "pw"];
      url.pathname = `/${database}`;
      return url.href;
    };
    await ask(server.superuserUrl, "create role administrator login createrole createdb password 'pw'");
    const script = await readFile(new URL("../../deploy/postgres.sql", import.meta.url), "utf8");
    const sql = script.replaceAll(/^\\password (\w+)$/gm, "alter role $1 password 'pw';").replaceAll(/^--.*$/gm, "");
    for (const statement of sql.split(";")) await ask(as("administrator", "postgres"), statement);

    await using provisioned = await emptyDatabase();
    for (const facts of [roleFacts, databaseFacts]) {
      expect(await ask(as("postgres", "mayfly"), facts)).toEqual(await ask(provisioned.superuserUrl, facts));
    }
    await migrate(as("mayfly_owner", "mayfly"));
    await assertMigrated(as("mayfly_app", "mayfly"));
  } finally {
    await server.stop();
  }
});

const roleFacts = `
  select rolname::text as name, rolcanlogin, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
         array(select m.roleid::regrole || ' inherit ' || m.inherit_option || ' set ' || m.set_option || ' admin ' || m.admin_option
                 from pg_auth_members m where m.member = r.oid order by 1) as member_of
    from pg_roles r where rolname like 'mayfly%' order by 1`;

const databaseFacts = `
  select pg_get_userbyid(datdba)::text as owner, pg_encoding_to_char(encoding)::text as encoding, datcollate, datctype,
         array(select a.grantee::regrole || ' ' || a.privilege_type from aclexplode(datacl) a where a.grantee <> 0 order by 1) as granted,
         exists (select from aclexplode(datacl) a where a.grantee = 0) as public
    from pg_database where datname = current_database()`;

async function ask(url: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  try {
    await client.connect();
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}
