import { type Expression, type ExpressionBuilder, type SqlBool, sql } from "kysely";
import { z } from "zod";
import type { Db, Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import type { Database } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { invalid, MayflyError, notFound } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import { idSchema, moment } from "../lib/wire.ts";
import { classifications, environments } from "../policy/request.ts";
import { takeBack, withDescendants } from "./take-back.ts";

/** What a kill switch can aim at. All given members must hold; at least one is needed. */
export const selectorSchema = z.strictObject({
  agent_id: idSchema("agent").optional(),
  owner_id: idSchema("owner").optional(),
  task_id: idSchema("task").optional(),
  purpose_id: idSchema("purpose").optional(),
  target_id: idSchema("target").optional(),
  resource_id: idSchema("resource").optional(),
  identity_id: idSchema("identity").optional(),
  issuer: z.string().max(64).optional(),
  environment: z.enum(environments).optional(),
  data_class: z.enum(classifications).optional(),
  issued_before: moment.optional(),
  everything: z.literal(true).optional().describe("Every live credential of the tenant."),
});
export type Selector = z.infer<typeof selectorSchema>;

/** What a revocation by selector hit, or would hit. */
export interface Revocation {
  /** Absent for a preview. */
  readonly id?: Id<"revocation">;
  readonly preview: boolean;
  readonly matched: number;
  readonly blocks_until?: string;
  readonly by_agent: Readonly<Record<string, number>>;
  readonly by_target: Readonly<Record<string, number>>;
  readonly by_task: Readonly<Record<string, number>>;
}

/** How far a revocation by selector has come. `remaining` 0 is the statement that everything it meant is proven dead. */
export interface RevocationProgress {
  readonly id: Id<"revocation">;
  readonly selector: Readonly<Record<string, unknown>>;
  readonly reason: string;
  readonly ordered_by: string;
  readonly ordered_at: string;
  readonly blocks_until: string;
  readonly matched: number;
  readonly remaining: number;
  readonly stuck: number;
  readonly completed_at: string | null;
}

/**
 * Takes one credential back. Agents may only give back their own (`release`). Doing it twice, or to a dead one, is
 * harmless; an id that is unknown, foreign or another agent's is `not_found`.
 */
export async function revokeOne(
  db: Db,
  principal: Principal,
  id: Id<"credential">,
  reason: "released" | "revoked",
  requestId: string,
): Promise<void> {
  const { tenantId } = principal;
  await db.withTenant({ tenantId, actor: principal.subject, requestId }, async (tx) => {
    const row = await tx
      .selectFrom("credentials")
      .select(["agent_id"])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined || (reason === "released" && row.agent_id !== principal.agentId)) throw notFound();
    await takeBack(tx, (query) => query.where("id", "=", id), { tenantId, by: principal.subject, reason });
  });
}

/**
 * The kill switch: takes back every live credential that the selector meets, in one statement, and lets no new one of
 * the kind through for `blockSeconds`; or only counts them (`preview`), by agent, target and task.
 *
 * The tenant's gate is taken first, which every mint shares: a mint in flight either committed before (and is taken back)
 * or sees the block.
 */
export async function revokeBySelector(
  db: Db,
  principal: Principal,
  {
    selector,
    preview,
    reason,
    blockSeconds,
  }: { selector: Selector; preview: boolean; reason: string; blockSeconds: number },
  requestId: string,
): Promise<Revocation> {
  const { tenantId } = principal;
  if (Object.values(selector).every((value) => value === undefined))
    throw invalid("/selector", "must name at least one thing; for every credential of the tenant say everything: true");
  return db.withTenant({ tenantId, actor: principal.subject, requestId }, async (tx) => {
    if (!preview) await closeGate(tx, tenantId);
    const blast = await countLive(tx, tenantId, selector);
    if (preview) return { preview, ...blast };
    const id = newId("revocation");
    const { blocks_until } = await tx
      .insertInto("revocations")
      .values({
        tenant_id: tenantId,
        id,
        selector: JSON.stringify(selector),
        reason,
        ordered_by: principal.subject,
        blocks_until: sql`clock_timestamp() + make_interval(secs => ${blockSeconds})`,
        matched: blast.matched,
      })
      .returning("blocks_until")
      .executeTakeFirstOrThrow();
    const matched = await takeBack(tx, (query) => query.where((eb) => meets(eb as never, selector)), {
      tenantId,
      by: principal.subject,
      reason: "killed",
      revocationId: id,
    });
    await tx
      .insertInto("audit_events")
      .values({
        tenant_id: tenantId,
        type: "revocation.ordered",
        actor: principal.subject,
        subject_id: id,
        data: JSON.stringify({ selector, reason, matched, blocks_until }),
        request_id: requestId,
      })
      .execute();
    return { id, preview, ...blast, matched, blocks_until: blocks_until.toISOString() };
  });
}

/** How far an order has come, from the ledger. */
export async function readRevocation(db: Db, principal: Principal, id: Id<"revocation">): Promise<RevocationProgress> {
  const { tenantId } = principal;
  return db.withTenant({ tenantId, actor: principal.subject }, async (tx) => {
    const order = await tx
      .selectFrom("revocations")
      .selectAll()
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (order === undefined) throw notFound();
    const counts = await tx
      .selectFrom("credentials")
      .select((eb) => [
        eb.fn.countAll<string>().filterWhere("due_at", "is not", null).as("remaining"),
        eb.fn.countAll<string>().filterWhere("stuck", "=", true).as("stuck"),
        eb.fn.max("ended_at").as("last"),
      ])
      .where("tenant_id", "=", tenantId)
      .where("revocation_id", "=", id)
      .executeTakeFirstOrThrow();
    const done = Number(counts.remaining) === 0;
    return {
      id,
      selector: order.selector,
      reason: order.reason,
      ordered_by: order.ordered_by,
      ordered_at: order.ordered_at.toISOString(),
      blocks_until: order.blocks_until.toISOString(),
      matched: order.matched,
      remaining: Number(counts.remaining),
      stuck: Number(counts.stuck),
      completed_at: done ? (counts.last ?? order.ordered_at).toISOString() : null,
    };
  });
}

async function countLive(tx: Tx, tenantId: Id<"tenant">, selector: Selector) {
  const live = tx
    .selectFrom("credentials")
    .where("tenant_id", "=", tenantId)
    .where("state", "in", ["pending", "active"])
    .where("due_at", "is not", null);
  const meant = live.select(["id", "delegation"]).where((eb) => meets(eb, selector));
  const counted = await live
    .select((eb) => ["agent_id", "target_id", "task_id", eb.fn.countAll<string>().as("number")])
    .where(sql<SqlBool>`id = any (array(${withDescendants(meant, tenantId)}))`)
    .groupBy(["agent_id", "target_id", "task_id"])
    .execute();
  const tally = (column: "agent_id" | "target_id" | "task_id"): Record<string, number> => {
    const sums: Record<string, number> = {};
    for (const row of counted) sums[row[column]] = (sums[row[column]] ?? 0) + Number(row.number);
    return sums;
  };
  return {
    matched: counted.reduce((sum, row) => sum + Number(row.number), 0),
    by_agent: tally("agent_id"),
    by_target: tally("target_id"),
    by_task: tally("task_id"),
  };
}

function meets(eb: ExpressionBuilder<Database, "credentials">, selector: Selector): Expression<SqlBool> {
  const all: Expression<SqlBool>[] = [];
  const { agent_id, owner_id, task_id, purpose_id, target_id, identity_id } = selector;
  if (agent_id !== undefined) all.push(eb("agent_id", "=", agent_id));
  if (owner_id !== undefined) all.push(eb("owner_id", "=", owner_id));
  if (task_id !== undefined) all.push(eb("task_id", "=", task_id));
  if (purpose_id !== undefined) all.push(eb("purpose_id", "=", purpose_id));
  if (target_id !== undefined) all.push(eb("target_id", "=", target_id));
  if (identity_id !== undefined) all.push(eb("identity_id", "=", identity_id));
  if (selector.resource_id !== undefined) all.push(sql<SqlBool>`${selector.resource_id} = any(resource_ids)`);
  if (selector.issuer !== undefined) all.push(eb("issuer", "=", selector.issuer));
  if (selector.environment !== undefined) all.push(eb("environment", "=", selector.environment));
  if (selector.data_class !== undefined) all.push(eb("data_class", "=", selector.data_class));
  if (selector.issued_before !== undefined) all.push(eb("created_at", "<", new Date(selector.issued_before)));
  if (all.length === 0 && selector.everything !== true)
    throw new MayflyError("internal", "an empty selector reached the kill switch");
  return eb.and(all);
}
