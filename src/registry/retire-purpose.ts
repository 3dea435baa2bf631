import { sql } from "kysely";
import type { Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { endTask } from "../tasks/end-task.ts";

/**
 * Retires a purpose for ever, ends its tasks as `cancelled` and takes back everything that they hold. Doing it twice is
 * harmless. An orchestrator may retire only what it proposed itself.
 *
 * The purpose is locked against new tasks first (they hold a lock on it while they are opened), then its tasks by id.
 */
export async function retirePurpose(tx: Tx, caller: Principal, id: Id<"purpose">): Promise<void> {
  const { tenantId, subject } = caller;
  const purpose = await tx
    .selectFrom("purposes")
    .select(["state", "proposed_by"])
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (purpose === undefined) throw notFound();
  requireOwnProposal(caller, purpose.proposed_by);
  if (purpose.state !== "retired")
    await tx
      .updateTable("purposes")
      .set((eb) => ({ state: "retired", version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .execute();
  const tasks = await tx
    .selectFrom("tasks")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("purpose_id", "=", id)
    .where("state", "!=", "ended")
    .orderBy("id")
    .forNoKeyUpdate()
    .execute();
  for (const task of tasks) await endTask(tx, { tenantId, taskId: task.id, outcome: "cancelled", by: subject });
}

/** Throws a 403 for an orchestrator that would withdraw what another has proposed. */
export function requireOwnProposal(caller: Principal, proposedBy: string): void {
  const mayAny = caller.roles.some((role) => role === "admin" || role === "approver");
  if (!mayAny && proposedBy !== caller.subject)
    throw new MayflyError("forbidden", "an orchestrator withdraws only what it proposed itself");
}
