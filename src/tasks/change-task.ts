import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Db, Tx } from "../db/database.ts";
import type { TaskOutcome } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { endTask } from "./end-task.ts";
import { readTaskReply } from "./open-task.ts";
import type { TaskReply } from "./task.ts";

/**
 * Pauses or resumes a task. Pausing takes back everything that the task holds: a paused task must not be able to act.
 * Doing what is already so is harmless; an ended task is a 409.
 */
export async function changeTask(
  db: Db,
  principal: Principal,
  taskId: Id<"task">,
  action: "pause" | "resume",
  requestId: string,
): Promise<TaskReply> {
  const { tenantId } = principal;
  return db.withTenant({ tenantId, actor: principal.subject, requestId }, async (tx) => {
    const task = await lockTask(tx, tenantId, taskId);
    if (task.state === "ended") throw new MayflyError("conflict", `the task has ended (${task.outcome})`);
    const wanted = action === "pause" ? "paused" : "open";
    if (task.state !== wanted) {
      await tx
        .updateTable("tasks")
        .set((eb) => ({ state: wanted, version: eb("version", "+", 1), updated_at: sql`now()` }))
        .where("tenant_id", "=", tenantId)
        .where("id", "=", taskId)
        .execute();
      // Nobody is expected to report while it is paused; the deadline still holds.
      await setHeartbeatDue(tx, tenantId, taskId, action === "pause" ? null : task.heartbeat_seconds);
      if (action === "pause")
        await takeBack(tx, (query) => query.where("task_id", "=", taskId), {
          tenantId,
          by: principal.subject,
          reason: "task_paused",
        });
    }
    return readTaskReply(tx, tenantId, taskId);
  });
}

/** Ends a task with the outcome that the orchestrator gives. A second end keeps the first outcome. */
export async function endTaskById(
  db: Db,
  principal: Principal,
  taskId: Id<"task">,
  outcome: TaskOutcome,
  requestId: string,
): Promise<TaskReply> {
  const { tenantId } = principal;
  return db.withTenant({ tenantId, actor: principal.subject, requestId }, async (tx) => {
    await endTask(tx, { tenantId, taskId, outcome, by: principal.subject });
    return readTaskReply(tx, tenantId, taskId);
  });
}

/**
 * Notes that the task is being worked on; answers when the next heartbeat is due (null when the task asks for none).
 * An agent may do it for its own tasks alone. A heartbeat that comes too late does not bring a task back: the loss is
 * a fact from the moment it was due, whether or not the worker has acted on it yet.
 */
export async function heartbeat(
  db: Db,
  principal: Principal,
  taskId: Id<"task">,
  requestId: string,
): Promise<string | null> {
  const { tenantId } = principal;
  return db.withTenant({ tenantId, actor: principal.subject, requestId }, async (tx) => {
    const task = await tx
      .selectFrom("tasks")
      .select(["agent_id", "state", "outcome", "heartbeat_seconds"])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", taskId)
      .forShare()
      .executeTakeFirst();
    if (task === undefined || (principal.agentId !== undefined && task.agent_id !== principal.agentId))
      throw notFound();
    if (task.state === "ended") throw new MayflyError("conflict", `the task has ended (${task.outcome})`);
    const meter = await tx
      .updateTable("task_meters")
      .set({
        heartbeat_at: sql`clock_timestamp()` as never,
        heartbeat_due_at: sql`case when ${task.state} = 'open' then clock_timestamp() + make_interval(secs => ${task.heartbeat_seconds}::int) end`,
      })
      .where("tenant_id", "=", tenantId)
      .where("task_id", "=", taskId)
      .where((eb) =>
        eb.or([eb("heartbeat_due_at", "is", null), eb("heartbeat_due_at", ">", sql<Date>`clock_timestamp()`)]),
      )
      .returning("heartbeat_due_at")
      .executeTakeFirst();
    if (meter === undefined)
      throw new MayflyError("conflict", "the heartbeat came too late: the task is ending (heartbeat_lost)");
    return meter.heartbeat_due_at?.toISOString() ?? null;
  });
}

async function lockTask(tx: Tx, tenantId: Id<"tenant">, taskId: Id<"task">) {
  const task = await tx
    .selectFrom("tasks")
    .select(["state", "outcome", "heartbeat_seconds"])
    .where("tenant_id", "=", tenantId)
    .where("id", "=", taskId)
    .forUpdate()
    .executeTakeFirst();
  if (task === undefined) throw notFound();
  return task;
}

async function setHeartbeatDue(
  tx: Tx,
  tenantId: Id<"tenant">,
  taskId: Id<"task">,
  seconds: number | null,
): Promise<void> {
  await tx
    .updateTable("task_meters")
    .set({ heartbeat_due_at: sql`clock_timestamp() + make_interval(secs => ${seconds}::int)` })
    .where("tenant_id", "=", tenantId)
    .where("task_id", "=", taskId)
    .execute();
}
