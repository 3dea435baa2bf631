import pg from "pg";
import type { Seeded } from "./seed.ts";

/** Asks the ledger, as the superuser: nothing that is measured goes through here. */
export async function askLedger<Row extends pg.QueryResultRow>(
  { ledgerUrl }: Pick<Seeded, "ledgerUrl">,
  text: string,
  values: readonly unknown[] = [],
): Promise<Row> {
  const client = new pg.Client({ connectionString: ledgerUrl });
  await client.connect();
  try {
    const { rows } = await client.query<Row>(text, [...values]);
    const [row] = rows;
    if (row === undefined) throw new Error("the ledger gave no row");
    return row;
  } finally {
    await client.end();
  }
}

/** Whether everything that was answered is in the database with its decision and its event, and the database flushed it. */
export async function checkLedger(seeded: Seeded, answered: number): Promise<void> {
  const found = await askLedger<Record<string, string>>(
    seeded,
    `select (select count(*) from mayfly.credentials) as credentials, (select count(*) from mayfly.decisions) as decisions,
       (select count(*) from mayfly.audit_events where type = 'credential.issued') as events,
       current_setting('fsync') as fsync, current_setting('synchronous_commit') as commits, current_setting('server_version') as version`,
  );
  const { credentials, decisions, events, fsync, commits, version } = found;
  console.log(
    `PostgreSQL ${version}, fsync ${fsync}, synchronous_commit ${commits}: ${credentials} credentials, ${decisions} decisions, ${events} events of issue for ${answered} answers\n`,
  );
  if ([credentials, decisions, events].some((count) => Number(count) !== answered))
    throw new Error("what was answered and what is in the ledger differ");
}
