import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";

/** `migrations/` of this build. It is two levels up both from `src/db` and from `dist/db`. */
const migrationsDirectory = fileURLToPath(new URL("../../migrations", import.meta.url));

// Any number that nothing else locks. The roles in 0001 use another one, inside their transaction.
const MIGRATION_LOCK = 7_305_790;

interface Migration {
  readonly version: number;
  /** `0001_foundation`. */
  readonly name: string;
  readonly text: string;
  readonly sha256: string;
}

interface Applied {
  readonly version: number;
  readonly name: string;
  readonly sha256: string;
}

/**
 * Brings a database up to this build: applies the files that are missing, in order, each in one transaction, and
 * returns their names. Callers at the same time wait for each other. Refuses, before it changes anything, a database
 * whose migrations differ from this build's: newer, edited, or in another order.
 *
 * `ownerUrl` must be a direct connection: the lock belongs to a session, which a transaction pooler does not keep.
 */
export async function migrate(ownerUrl: string, directory: string = migrationsDirectory): Promise<readonly string[]> {
  const migrations = await readMigrations(directory);
  const client = new pg.Client({ connectionString: ownerUrl, application_name: "mayfly migrate" });
  await client.connect();
  try {
    await client.query("select pg_advisory_lock($1)", [MIGRATION_LOCK]);
    await client.query(`create table if not exists public.schema_migrations (
      version int primary key, name text not null, sha256 text not null, applied_at timestamptz not null default now())`);
    const missing = notYetApplied(migrations, await readApplied(client));
    for (const migration of missing) await apply(client, migration);
    // So that assertMigrated can look as the runtime role, which exists once 0001 has run.
    const granted = await client.query("select from pg_roles where rolname = 'mayfly_runtime'");
    if (granted.rowCount === 1) await client.query("grant select on public.schema_migrations to mayfly_runtime");
    return missing.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}

/**
 * Resolves when the database has exactly the migrations of this build, as every process but `migrate` needs it. The
 * error says whether to run `mayfly migrate` or a newer build.
 */
export async function assertMigrated(runtimeUrl: string, directory: string = migrationsDirectory): Promise<void> {
  const migrations = await readMigrations(directory);
  const client = new pg.Client({ connectionString: runtimeUrl, application_name: "mayfly" });
  await client.connect();
  try {
    const there = await client.query(
      "select from pg_tables where (schemaname, tablename) = ('public', 'schema_migrations')",
    );
    const missing = notYetApplied(migrations, there.rowCount === 1 ? await readApplied(client) : []);
    if (missing.length === 0) return;
    const names = missing.map((migration) => migration.name).join(", ");
    throw new Error(`the database lacks ${names}. Run \`mayfly migrate\` with DATABASE_OWNER_URL set.`);
  } finally {
    await client.end();
  }
}

async function readMigrations(directory: string): Promise<readonly Migration[]> {
  const files = (await readdir(directory)).filter((file) => file.endsWith(".sql")).toSorted();
  const migrations = await Promise.all(
    files.map(async (file) => {
      const name = file.slice(0, -".sql".length);
      if (!/^\d{4}_[a-z0-9_]+$/.test(name)) throw new Error(`${file} in ${directory} is not named NNNN_name.sql`);
      const text = await readFile(join(directory, file), "utf8");
      // Git on Windows may have changed the line ends; that is the same migration.
      const sha256 = createHash("sha256").update(text.replaceAll("\r\n", "\n")).digest("hex");
      return { version: Number(name.slice(0, 4)), name, text, sha256 };
    }),
  );
  migrations.forEach((migration, index) => {
    const wanted = index + 1;
    if (migration.version !== wanted)
      throw new Error(`${directory} should have migration ${wanted} at ${migration.name}`);
  });
  return migrations;
}

async function readApplied(client: pg.Client): Promise<readonly Applied[]> {
  const { rows } = await client.query<Applied>(
    "select version, name, sha256 from public.schema_migrations order by version",
  );
  return rows;
}

function notYetApplied(migrations: readonly Migration[], applied: readonly Applied[]): readonly Migration[] {
  const latest = migrations.at(-1)?.name ?? "none";
  applied.forEach((row, index) => {
    const ours = migrations[index];
    if (ours === undefined) {
      throw new Error(
        `the database has ${row.name}, which is newer than this build (its latest is ${latest}). Run a newer build.`,
      );
    }
    if (ours.name !== row.name) {
      throw new Error(
        `the database has ${row.name} where this build has ${ours.name}. They come from different branches.`,
      );
    }
    if (ours.sha256 !== row.sha256) {
      throw new Error(`${row.name}.sql was changed after it had been applied. Restore it and write a new migration.`);
    }
  });
  return migrations.slice(applied.length);
}

async function apply(client: pg.Client, migration: Migration): Promise<void> {
  await client.query("begin");
  try {
    await client.query(migration.text);
    await client.query("insert into public.schema_migrations (version, name, sha256) values ($1, $2, $3)", [
      migration.version,
      migration.name,
      migration.sha256,
    ]);
    await client.query("commit");
  } catch (cause) {
    await client.query("rollback");
    const position = cause instanceof pg.DatabaseError ? Number(cause.position) : Number.NaN;
    const line = Number.isNaN(position) ? "" : `:${migration.text.slice(0, position).split("\n").length}`;
    throw new Error(`${migration.name}.sql${line}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}
