import { createHmac } from "node:crypto";
import pg from "pg";

// Serialises provisioning in a cluster: two transactions that alter one role would else fail with "tuple concurrently updated".
const PROVISION_LOCK = 7_305_791;

/** How to log in to a database of Mayfly: as who migrates it, and as who uses it. */
export interface LoginUrls {
  readonly ownerUrl: string;
  readonly runtimeUrl: string;
}

/**
 * Makes sure that a database and the roles it needs exist, and returns how to log in: as `mayfly_owner`, who owns the
 * database and runs the migrations, and as `mayfly_app`, who only has what `mayfly_runtime` was granted and is subject
 * to row-level security. Idempotent and safe to call from several processes at once. `deploy/postgres.sql` is the same
 * for a server that Mayfly does not run.
 *
 * The passwords follow from the superuser's, so that every process that shares an embedded server gets the same ones
 * and none has to be stored.
 */
export async function provisionDatabase(superuserUrl: string, name: string): Promise<LoginUrls> {
  if (!/^[a-z][a-z0-9_]{0,62}$/.test(name)) throw new Error(`${name} is not a name for a database of Mayfly`);
  const urls = loginUrls(superuserUrl, name);
  const client = new pg.Client({ connectionString: superuserUrl, application_name: "mayfly provision" });
  await client.connect();
  try {
    await client.query("select pg_advisory_lock($1)", [PROVISION_LOCK]);
    // The owner creates no roles: these two exist before the first migration, which grants to them and hands
    // functions to mayfly_system.
    await ensureRole(client, "mayfly_runtime", "nologin");
    await ensureRole(client, "mayfly_system", "nologin");
    await ensureRole(client, "mayfly_owner", `login password '${new URL(urls.ownerUrl).password}'`);
    await ensureRole(client, "mayfly_app", `login password '${new URL(urls.runtimeUrl).password}'`);
    await client.query("grant mayfly_system to mayfly_owner");
    await client.query("grant mayfly_runtime to mayfly_app");
    const there = await client.query("select from pg_database where datname = $1", [name]);
    if (there.rowCount === 0) {
      await client.query(`create database ${name} owner mayfly_owner template template0 encoding 'UTF8' locale 'C'`);
    }
    await limitDatabase(client, name);
    return urls;
  } finally {
    await client.end();
  }
}

/** What {@link provisionDatabase} returns for a database that it has provisioned before. Touches nothing. */
export function loginUrls(superuserUrl: string, name: string): LoginUrls {
  return { ownerUrl: urlOf(superuserUrl, name, "mayfly_owner"), runtimeUrl: urlOf(superuserUrl, name, "mayfly_app") };
}

/** Lets only the owner and the runtime role into a database. Not part of a template: a clone needs it again. */
export async function limitDatabase(client: pg.Client, name: string): Promise<void> {
  await client.query(`revoke all on database ${name} from public`);
  await client.query(`grant connect on database ${name} to mayfly_app`);
}

async function ensureRole(client: pg.Client, role: string, attributes: string): Promise<void> {
  const there = await client.query("select from pg_roles where rolname = $1", [role]);
  const verb = there.rowCount === 0 ? "create" : "alter";
  // Spelled out, so that a role that was given more by hand loses it again.
  const denied = "nosuperuser nocreatedb nocreaterole noreplication nobypassrls";
  await client.query(`${verb} role ${role} ${denied} ${attributes}`);
}

function urlOf(superuserUrl: string, database: string, role: string): string {
  const url = new URL(superuserUrl);
  if (url.password === "") throw new Error("provisioning needs a superuser URL with a password");
  url.password = createHmac("sha256", url.password).update(role).digest("hex");
  url.username = role;
  url.pathname = `/${database}`;
  return url.href;
}
