import { sql } from "kysely";
import type { Tx } from "./database.ts";

/**
 * Passes the tenant's gate alone (migrations/0002): mints that passed it before have committed, and until this
 * transaction ends no other passes, nor does another change of the registry. A transaction that changes the registry
 * does this first, or two of them could each hold what the other waits for.
 */
export async function closeGate(tx: Tx, tenantId: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(mayfly.gate(${tenantId}))`.execute(tx);
}
