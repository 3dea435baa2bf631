import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "./embedded.ts";
import { assertMigrated, migrate } from "./migrate.ts";
import { provisionDatabase } from "./provision.ts";

/** The name of the database in the embedded server. */
const DATABASE = "mayfly";

/** A database that is up, migrated and ready for the runtime role. */
export interface Stack extends AsyncDisposable {
  /** For the runtime role. */
  readonly runtimeUrl: string;
  /** The embedded server's superuser, for the demo and the benchmarks, which need targets to mint for. */
  readonly superuserUrl: string | undefined;
}

/** Production: the database is somebody else's; it must have been migrated by `mayfly migrate`. */
export async function openStack(runtimeUrl: string): Promise<Stack> {
  await assertMigrated(runtimeUrl);
  return { runtimeUrl, superuserUrl: undefined, async [Symbol.asyncDispose]() {} };
}

/** Nothing configured: a PostgreSQL of our own under `dataDir`, shared by every process that names it; migrated here. */
export async function openEmbeddedStack(dataDir: string): Promise<Stack> {
  const server = await startEmbeddedPostgres({ directory: join(dataDir, "postgres") });
  try {
    const { ownerUrl, runtimeUrl } = await provisionDatabase(server.superuserUrl, DATABASE);
    await migrate(ownerUrl);
    return { runtimeUrl, superuserUrl: server.superuserUrl, [Symbol.asyncDispose]: () => stopUnlessUsed(server) };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** How long the server may take to notice that this process has closed its own connections. */
const CLOSING_MS = 2_000;

/** The process that started the server need not be the last that uses it: `admin-token` may have come before `serve`. */
async function stopUnlessUsed(server: EmbeddedPostgres): Promise<void> {
  if (!server.started) return;
  const client = new pg.Client({ connectionString: server.superuserUrl });
  await client.connect();
  const inUse = async (): Promise<boolean> => {
    const { rows } = await client.query<{ others: number }>(
      "select count(*)::int as others from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
    );
    return rows[0]?.others !== 0;
  };
  const deadline = performance.now() + CLOSING_MS;
  let used = await inUse();
  for (; used && performance.now() < deadline; used = await inUse()) await delay(50);
  await client.end();
  if (!used) await server.stop();
}
