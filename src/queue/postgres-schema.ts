import { type PgPool, type PgPoolClient, runMigrations } from "bullmq";
import { MayflyError } from "../lib/errors.ts";

/** Where BullMQ keeps its tables. Made by our first migration; nothing of ours is in it. */
export const BULLMQ_SCHEMA = "bullmq";

/**
 * Brings BullMQ's tables to the version of this release, made anew if they were emptied. Any number of processes may
 * do it at once (BullMQ's migrations hold an advisory lock). The tables belong to `mayfly_runtime` where the login is a
 * member of it, so that several logins can share them.
 */
export async function prepareSchema(pool: PgPool): Promise<void> {
  const client = await pool.connect();
  let failed = true;
  try {
    await runMigrations(
      {
        // `create schema if not exists` needs CREATE on the database even when the schema exists, and the runtime role
        // has no business there. It is the first statement under BullMQ's lock, so what it stands for is done instead.
        query: (text, values) =>
          text.startsWith("CREATE SCHEMA")
            ? enterSchema(client)
            : client.query(text, values === undefined ? [] : values),
      },
      BULLMQ_SCHEMA,
    );
    failed = false;
  } catch (error) {
    throw isForbidden(error) ? refusal(error) : error;
  } finally {
    client.release(failed);
  }
}

async function enterSchema(client: PgPoolClient): Promise<{ rows: never[] }> {
  const found = await client.query<{ there: boolean; group: string | null }>(
    `select to_regnamespace($1) is not null as there,
            (select rolname from pg_roles where rolname = 'mayfly_runtime' and pg_has_role(oid, 'MEMBER')) as group`,
    [BULLMQ_SCHEMA],
  );
  const { there, group } = found.rows[0] ?? { there: false, group: null };
  if (!there) {
    await client.query(`create schema ${BULLMQ_SCHEMA}`);
    if (group !== null) await client.query(`grant usage, create on schema ${BULLMQ_SCHEMA} to ${group}`);
  }
  await dropIfEmptied(client);
  if (group !== null) await client.query(`set local role ${group}`);
  return { rows: [] };
}

// Somebody who truncates every table of the schema empties BullMQ's record of its migrations too, and then the
// migrations fail for ever because what they create is there. There is nothing to keep: Postgres is the truth elsewhere.
async function dropIfEmptied(client: PgPoolClient): Promise<void> {
  const ledger = await client.query(`select from pg_tables where schemaname = $1 and tablename = 'migration'`, [
    BULLMQ_SCHEMA,
  ]);
  if (ledger.rows.length > 0) {
    const version = await client.query<{ version: number }>(
      `select coalesce(max(version), 0)::int as version from ${BULLMQ_SCHEMA}.migration`,
    );
    if ((version.rows[0]?.version ?? 0) > 0) return;
  }
  await client.query(DROP_EVERYTHING);
}

// All names are read before the first drop: one drop cascades to what a later line names. The sequences bullmq_jid_*
// belong to whichever login first added a job without an id (we never do), and BullMQ takes those that are there.
const DROP_EVERYTHING = `
do $drop$
declare
  here oid := to_regnamespace('${BULLMQ_SCHEMA}');
  statements text[] := array(
    select format('drop table if exists %s cascade', oid::regclass) from pg_class
     where relnamespace = here and relkind in ('r', 'p')
    union all
    select format('drop sequence if exists %s cascade', oid::regclass) from pg_class
     where relnamespace = here and relkind = 'S' and relname not like 'bullmq_jid_%'
    union all
    select format('drop routine if exists %s cascade', oid::regprocedure) from pg_proc where pronamespace = here
    union all
    select format('drop type if exists %s cascade', oid::regtype) from pg_type
     where typnamespace = here and typtype in ('e', 'd'));
  statement text;
begin
  foreach statement in array statements loop
    execute statement;
  end loop;
end $drop$`;

function isForbidden(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "42501";
}

function refusal(cause: unknown): MayflyError {
  return new MayflyError(
    "unavailable",
    `the role of DATABASE_URL cannot make the queue's tables. Run \`mayfly migrate\`, or as the owner of the database: ` +
      `create schema if not exists ${BULLMQ_SCHEMA}; grant usage, create on schema ${BULLMQ_SCHEMA} to mayfly_runtime`,
    { cause },
  );
}
