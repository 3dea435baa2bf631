import { randomBytes } from "node:crypto";
import pg from "pg";
import { adminSetupSql } from "../../src/issuers/postgres-admin.ts";
import { scramVerifier } from "../../src/issuers/scram.ts";
import { Secret } from "../../src/lib/secret.ts";
import { testSuperuserUrl } from "./database.ts";

/** A downstream database with tickets in it, a read and a write group, and the admin role that our documentation makes. */
export interface PostgresTarget extends AsyncDisposable {
  /** As an admin would register it. */
  readonly config: Readonly<Record<string, unknown>> & { readonly deployment: string };
  readonly readers: string;
  readonly writers: string;
  /** Runs SQL in the target as its superuser. */
  asSuperuser(text: string, values?: unknown[]): Promise<pg.QueryResult>;
  /** Takes from the admin and its keepers the right to make and drop roles, or gives it back. */
  mayMakeRoles(may: boolean): Promise<void>;
  /** The roles of this target that exist now. */
  roles(): Promise<string[]>;
  /** Open sessions of this target's roles. */
  sessions(): Promise<number>;
}

export async function postgresTarget(superuserUrl: string = testSuperuserUrl()): Promise<PostgresTarget> {
  const suffix = randomBytes(4).toString("hex");
  const database = `target_${suffix}`;
  const [admin, readers, writers] = [`admin_${suffix}`, `readers_${suffix}`, `writers_${suffix}`];
  const password = new Secret(randomBytes(16).toString("hex"));
  const run = async (name: string, text: string, values: unknown[] = []): Promise<pg.QueryResult> => {
    const url = new URL(superuserUrl);
    url.pathname = `/${name}`;
    const client = new pg.Client({ connectionString: url.href });
    await client.connect();
    try {
      return await client.query(values.length > 0 ? { text, values } : text);
    } finally {
      await client.end();
    }
  };
  await run("postgres", `create database ${database}`);
  await run("postgres", `create role ${readers}; create role ${writers}`);
  await run(
    "postgres",
    adminSetupSql({ admin, groups: [readers, writers], passwordVerifier: await scramVerifier(password) }),
  );
  await run(
    database,
    `create table tickets (id int primary key, title text); insert into tickets values (7, 'printer on fire');
     grant select on tickets to ${readers}; grant select, insert, update on tickets to ${writers}`,
  );
  const { hostname, port } = new URL(superuserUrl);
  return {
    config: {
      host: hostname,
      port: Number(port),
      database,
      user: admin,
      password: password.reveal(),
      tls: "disable",
      deployment: suffix,
    },
    readers,
    writers,
    asSuperuser: (text, values) => run(database, text, values),
    async mayMakeRoles(may) {
      await run(
        database,
        `do $$ declare name text; begin for name in select rolname from pg_roles
           where rolname = '${admin}' or rolname ~ '^mfy_${suffix}_keeper_' loop
           execute format('alter role %I ${may ? "createrole" : "nocreaterole"}', name); end loop; end $$`,
      );
    },
    roles: async () =>
      (
        await run(database, "select rolname from pg_roles where rolname ~ $1", [`^mfy_${suffix}_[0-9a-f]{32}$`])
      ).rows.map((row) => row.rolname),
    sessions: async () =>
      (
        await run(database, "select count(*)::int as n from pg_stat_activity where usename like $1", [
          `mfy\\_${suffix}\\_%`,
        ])
      ).rows[0].n,
    async [Symbol.asyncDispose]() {
      // Those of targets that were registered with another prefix, too: the admin is a member of its keepers.
      const { rows } = await run(
        "postgres",
        `select rolname from pg_roles r where rolname like $1 or (rolname ~ '^mfy_.*_keeper_' and exists (
           select from pg_auth_members m where m.roleid = r.oid and m.member = $2::regrole)) order by rolname ~ 'keeper'`,
        [`mfy\\_${suffix}\\_%`, admin],
      );
      await run("postgres", `drop database ${database} with (force)`);
      for (const { rolname } of rows) await run("postgres", `drop role ${rolname}`);
      await run("postgres", `drop role ${admin}; drop role ${readers}; drop role ${writers}`);
    },
  };
}
