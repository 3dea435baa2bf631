import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Db, Tx } from "../db/database.ts";
import type { TaskOutcome } from "../db/schema.ts";
import type { Id } from "../lib/ids.ts";

/**
 * Ends a task and takes back every credential of it, in the caller's transaction. Ending twice is harmless: the first
 * outcome stays. Returns how many credentials were taken back.
 *
 * The task's row and its meter are updated first: a mint in flight holds the meter, so it either commits before this
 * update (and is taken back by the next statement) or sees the task ended and is refused.
 */
export async function endTask(
  tx: Tx,
  { tenantId, taskId, outcome, by }: { tenantId: string; taskId: Id<"task">; outcome: TaskOutcome; by: string },
): Promise<number> {
  await tx
    .updateTable("tasks")
    .set((eb) => ({
      state: "ended",
      outcome,
      ended_by: by,
      ended_at: sql`clock_timestamp()`,
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", tenantId as Id<"tenant">)
    .where("id", "=", taskId)
    .where("state", "!=", "ended")
    .execute();
  await tx
    .updateTable("task_meters")
    .set({ heartbeat_due_at: null })
    .where("tenant_id", "=", tenantId as Id<"tenant">)
    .where("task_id", "=", taskId)
    .execute();
  return takeBack(tx, (query) => query.where("task_id", "=", taskId), { tenantId, by, reason: "task_ended" });
}

const BY = "mayfly:worker";

/** Ends the tasks of one tenant that are past their deadline or whose heartbeat was lost. Each in a transaction of its own. */
export async function endDueTasks(db: Db, tenantId: Id<"tenant">): Promise<void> {
  const due = await db.withTenant({ tenantId, actor: BY }, (tx) =>
    tx
      .selectFrom("tasks as t")
      .innerJoin("task_meters as m", (join) =>
        join.onRef("m.task_id", "=", "t.id").onRef("m.tenant_id", "=", "t.tenant_id"),
      )
      .select(["t.id", sql<boolean>`t.deadline <= statement_timestamp()`.as("late")])
      .where("t.tenant_id", "=", tenantId)
      .where("t.state", "!=", "ended")
      .where((eb) =>
        eb.or([
          eb("t.deadline", "<=", sql<Date>`statement_timestamp()`),
          eb("m.heartbeat_due_at", "<=", sql<Date>`statement_timestamp()`),
        ]),
      )
      .execute(),
  );
  for (const { id, late } of due) {
    await db.withTenant({ tenantId, actor: BY }, async (tx) => {
      // A heartbeat may have arrived since: look again under the locks, in the order of all locks.
      await tx
        .selectFrom("tasks")
        .select("id")
        .where("tenant_id", "=", tenantId)
        .where("id", "=", id)
        .forUpdate()
        .execute();
      const meter = await tx
        .selectFrom("task_meters")
        .select(sql<boolean>`coalesce(heartbeat_due_at <= clock_timestamp(), false)`.as("lost"))
        .where("tenant_id", "=", tenantId)
        .where("task_id", "=", id)
        .forUpdate()
        .executeTakeFirst();
      if (late || meter?.lost) {
        await endTask(tx, { tenantId, taskId: id, outcome: late ? "deadline" : "heartbeat_lost", by: BY });
      }
    });
  }
}
