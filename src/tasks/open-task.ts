import { sql } from "kysely";
import { denied } from "../credentials/check-records.ts";
import type { Db, Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { invalid, notFound } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import type { OpenTask, TaskReply } from "./task.ts";

const LONGEST_TASK_DAYS = 30;

/**
 * Opens a task. The agent and the purpose must be fit for it now, so that an orchestrator learns at once what its
 * agent would learn at the first mint. Throws `denied` with every reason, or a 400 that points at an unknown id.
 */
export async function openTask(db: Db, principal: Principal, body: OpenTask, requestId: string): Promise<TaskReply> {
  const acting = { tenantId: principal.tenantId, actor: principal.subject, requestId };
  return db.withTenant(acting, async (tx) => {
    const { tenantId } = principal;
    // The purpose before the agent: the order of all locks (ARCHITECTURE.md).
    const purpose = await tx
      .selectFrom("purposes")
      .select([
        "state",
        sql<boolean>`expires_at <= now()`.as("expired"),
        sql<boolean>`review_by <= now()`.as("overdue"),
      ])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", body.purpose_id)
      .where("agent_id", "=", body.agent_id)
      .forShare()
      .executeTakeFirst();
    const agent = await tx
      .selectFrom("agents as a")
      .innerJoin("owners as o", (join) =>
        join.onRef("o.id", "=", "a.owner_id").onRef("o.tenant_id", "=", "a.tenant_id"),
      )
      .select(["a.state", "o.status as owner_status"])
      .where("a.tenant_id", "=", tenantId)
      .where("a.id", "=", body.agent_id)
      .forShare("a")
      .executeTakeFirst();
    if (agent === undefined) throw invalid("/agent_id", "there is no agent with this id");
    if (purpose === undefined) throw invalid("/purpose_id", "this agent has no purpose with this id");

    const reasons = [
      ...(agent.state === "active" ? [] : [{ code: "agent_not_active", detail: `the agent is ${agent.state}` }]),
      ...(agent.owner_status === "active"
        ? []
        : [{ code: "owner_inactive", detail: "the agent's owner has departed" }]),
      ...(purpose.state === "approved"
        ? []
        : [{ code: "purpose_not_approved", detail: `the purpose is ${purpose.state}` }]),
      ...(purpose.expired ? [{ code: "purpose_expired", detail: "the purpose has expired" }] : []),
      ...(purpose.overdue ? [{ code: "purpose_review_overdue", detail: "the purpose was not reviewed in time" }] : []),
    ];
    if (reasons.length > 0) throw denied(reasons);

    const deadline = new Date(body.deadline);
    const { rows } = await sql<{ fits: boolean }>`select ${deadline}::timestamptz > now()
      and ${deadline}::timestamptz <= now() + make_interval(days => ${LONGEST_TASK_DAYS}) as fits`.execute(tx);
    if (rows[0]?.fits !== true)
      throw invalid("/deadline", `must be in the future and at most ${LONGEST_TASK_DAYS} days ahead`);

    const id = newId("task");
    await tx
      .insertInto("tasks")
      .values({
        tenant_id: tenantId,
        id,
        agent_id: body.agent_id,
        purpose_id: body.purpose_id,
        objective: body.objective,
        initiated_by: JSON.stringify(body.initiated_by),
        opened_by: principal.subject,
        deadline,
        heartbeat_seconds: body.heartbeat_seconds ?? null,
        max_credentials: body.budget?.max_credentials ?? null,
        max_per_minute: body.budget?.max_per_minute ?? null,
        max_live_seconds: body.budget?.max_live_seconds ?? null,
      })
      .execute();
    await tx
      .insertInto("task_meters")
      .values({
        tenant_id: tenantId,
        task_id: id,
        heartbeat_due_at: sql`now() + make_interval(secs => ${body.heartbeat_seconds ?? null}::int)` as never,
      })
      .execute();
    return readTaskReply(tx, tenantId, id);
  });
}

/** A task as the caller may see it: an agent sees its own, anything else is not there. */
export async function readTask(db: Db, principal: Principal, taskId: Id<"task">): Promise<TaskReply> {
  return db.withTenant({ tenantId: principal.tenantId, actor: principal.subject }, async (tx) => {
    const task = await readTaskReply(tx, principal.tenantId, taskId);
    if (principal.agentId !== undefined && task.agent_id !== principal.agentId) throw notFound();
    return task;
  });
}

/** The wire form, read inside the transaction that changed it. Throws `not_found`. */
export async function readTaskReply(tx: Tx, tenantId: Id<"tenant">, id: Id<"task">): Promise<TaskReply> {
  const row = await tx
    .selectFrom("tasks as t")
    .innerJoin("task_meters as m", (join) =>
      join.onRef("m.task_id", "=", "t.id").onRef("m.tenant_id", "=", "t.tenant_id"),
    )
    .selectAll("t")
    .select(["m.issued", "m.issued_live_seconds", "m.heartbeat_due_at"])
    .where("t.tenant_id", "=", tenantId)
    .where("t.id", "=", id)
    .executeTakeFirst();
  if (row === undefined) throw notFound();
  const counts = await tx
    .selectFrom("credentials")
    .select((eb) => [
      eb.fn.countAll<string>().filterWhere("state", "in", ["pending", "active"]).as("live"),
      eb.fn.countAll<string>().filterWhere("state", "=", "revoking").as("revoking"),
      eb.fn.countAll<string>().filterWhere("stuck", "=", true).as("stuck"),
      eb.fn.countAll<string>().filterWhere("due_at", "is", null).as("dead"),
    ])
    .where("tenant_id", "=", tenantId)
    .where("task_id", "=", id)
    .executeTakeFirstOrThrow();
  return {
    id: row.id,
    agent_id: row.agent_id,
    purpose_id: row.purpose_id,
    state: row.state,
    outcome: row.outcome,
    objective: row.objective,
    initiated_by: row.initiated_by,
    opened_by: row.opened_by,
    ended_by: row.ended_by,
    created_at: row.created_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
    deadline: row.deadline.toISOString(),
    heartbeat_seconds: row.heartbeat_seconds,
    heartbeat_due_at: row.heartbeat_due_at?.toISOString() ?? null,
    budget: {
      max_credentials: row.max_credentials,
      max_per_minute: row.max_per_minute,
      max_live_seconds: row.max_live_seconds,
    },
    used: { credentials: row.issued, live_seconds: Number(row.issued_live_seconds) },
    credentials: {
      live: Number(counts.live),
      revoking: Number(counts.revoking),
      stuck: Number(counts.stuck),
      dead: Number(counts.dead),
    },
    version: row.version,
  };
}
