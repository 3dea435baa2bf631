import { type Expression, type SqlBool, sql } from "kysely";
import type { Db, Tx } from "../db/database.ts";
import type { CredentialState } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { type CredentialRow, credentialColumns, toCredential } from "./credential-reply.ts";
import { descendantsOf } from "./take-back.ts";

/** Which credentials; all given members must hold. */
export interface HistoryFilter {
  readonly agent?: string | undefined;
  readonly task?: string | undefined;
  readonly owner?: string | undefined;
  readonly purpose?: string | undefined;
  readonly target?: string | undefined;
  readonly state?: CredentialState | undefined;
  readonly stuck?: boolean | undefined;
  readonly issuer?: string | undefined;
  readonly data_class?: string | undefined;
  readonly environment?: string | undefined;
  readonly downstream_name?: string | undefined;
  /** Only what was minted from this credential, at any depth. */
  readonly minted_from?: string | undefined;
  readonly issued_after?: string | undefined;
  readonly issued_before?: string | undefined;
  readonly valid_at?: string | undefined;
}

/**
 * Everything that was ever issued, newest first, keyset by id. `valid_at` asks what could have been used at that
 * moment: active by then and not yet proven dead (a token of ours: not past its end either). An agent sees its own.
 */
export async function listCredentials(
  db: Db,
  principal: Principal,
  filter: HistoryFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<CredentialRow[]> {
  const own = principal.roles.every((role) => role === "agent") ? principal.agentId : undefined;
  return db.withTenant({ tenantId: principal.tenantId, actor: principal.subject }, (tx) =>
    tx
      .selectFrom("credentials")
      .select(credentialColumns)
      .where("tenant_id", "=", principal.tenantId)
      .where((eb) => {
        const all: Expression<SqlBool>[] = [];
        if (own !== undefined) all.push(eb("agent_id", "=", own));
        if (filter.agent !== undefined) all.push(eb("agent_id", "=", filter.agent as Id<"agent">));
        if (filter.task !== undefined) all.push(eb("task_id", "=", filter.task as Id<"task">));
        if (filter.owner !== undefined) all.push(eb("owner_id", "=", filter.owner as Id<"owner">));
        if (filter.purpose !== undefined) all.push(eb("purpose_id", "=", filter.purpose as Id<"purpose">));
        if (filter.target !== undefined) all.push(eb("target_id", "=", filter.target as Id<"target">));
        if (filter.state !== undefined) all.push(eb("state", "=", filter.state));
        if (filter.stuck !== undefined) all.push(eb("stuck", "=", filter.stuck));
        if (filter.issuer !== undefined) all.push(eb("issuer", "=", filter.issuer));
        if (filter.data_class !== undefined) all.push(eb("data_class", "=", filter.data_class));
        if (filter.environment !== undefined) all.push(eb("environment", "=", filter.environment));
        if (filter.downstream_name !== undefined) all.push(eb("downstream_name", "=", filter.downstream_name));
        if (filter.minted_from !== undefined)
          all.push(
            sql<SqlBool>`id = any (array(${descendantsOf(sql`array[${filter.minted_from}]::text[]`, principal.tenantId)}))`,
          );
        if (filter.issued_after !== undefined) all.push(eb("created_at", ">", new Date(filter.issued_after)));
        if (filter.issued_before !== undefined) all.push(eb("created_at", "<", new Date(filter.issued_before)));
        if (filter.valid_at !== undefined) all.push(validAt(new Date(filter.valid_at)));
        if (page.after !== undefined) all.push(eb("id", "<", page.after as Id<"credential">));
        return eb.and(all);
      })
      .orderBy("id", "desc")
      .limit(page.limit)
      .execute(),
  );
}

function validAt(at: Date): Expression<SqlBool> {
  return sql<SqlBool>`activated_at <= ${at} and coalesce(ended_at, 'infinity') > ${at}
    and (not self_contained or expires_at > ${at})`;
}

/** One credential with everything that an auditor asks next: its chain, decision, task, purpose, owner and target. */
export async function readCredential(db: Db, principal: Principal, id: Id<"credential">): Promise<object> {
  const { tenantId } = principal;
  return db.withTenant({ tenantId, actor: principal.subject }, async (tx) => {
    const row = await tx
      .selectFrom("credentials")
      .select(credentialColumns)
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined || (principal.agentId !== undefined && row.agent_id !== principal.agentId)) throw notFound();
    const decision = await tx
      .selectFrom("decisions")
      .select(["id", "outcome", "policy_version", "determining", "reasons", "input", "input_hash", "decided_at"])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", row.decision_id)
      .executeTakeFirstOrThrow();
    const related = await tx
      .selectFrom("tasks as t")
      .innerJoin("purposes as p", (join) =>
        join.onRef("p.id", "=", "t.purpose_id").onRef("p.tenant_id", "=", "t.tenant_id"),
      )
      .innerJoin("owners as o", (join) => join.onRef("o.tenant_id", "=", "t.tenant_id").on("o.id", "=", row.owner_id))
      .innerJoin("agents as a", (join) => join.onRef("a.tenant_id", "=", "t.tenant_id").on("a.id", "=", row.agent_id))
      .innerJoin("targets as g", (join) => join.onRef("g.tenant_id", "=", "t.tenant_id").on("g.id", "=", row.target_id))
      .select([
        "t.objective",
        "t.state as task_state",
        "t.outcome",
        "t.initiated_by",
        "t.opened_by",
        "p.name as purpose_name",
        "p.approved_by",
        "p.approved_at",
        "o.name as owner_name",
        "o.kind as owner_kind",
        "a.name as agent_name",
        "a.kind as agent_kind",
        "g.name as target_name",
      ])
      .where("t.tenant_id", "=", tenantId)
      .where("t.id", "=", row.task_id)
      .executeTakeFirstOrThrow();
    return {
      ...toCredential(row),
      chain: await readChain(tx, tenantId, id),
      agent: { id: row.agent_id, name: related.agent_name, kind: related.agent_kind },
      owner: { id: row.owner_id, name: related.owner_name, kind: related.owner_kind },
      target: { id: row.target_id, name: related.target_name },
      task: {
        id: row.task_id,
        state: related.task_state,
        outcome: related.outcome,
        objective: related.objective,
        initiated_by: related.initiated_by,
        opened_by: related.opened_by,
      },
      purpose: {
        id: row.purpose_id,
        name: related.purpose_name,
        approved_by: related.approved_by,
        approved_at: related.approved_at?.toISOString() ?? null,
      },
      decision: { ...decision, decided_at: decision.decided_at.toISOString() },
    };
  });
}

/** Who initiated it, which agents passed it on, and who uses it: the root first, the credential itself last. */
async function readChain(tx: Tx, tenantId: Id<"tenant">, id: Id<"credential">): Promise<object[]> {
  const { rows } = await sql<Record<string, unknown>>`
    select c.id as credential_id, c.state, c.agent_id, a.name as agent_name, c.task_id, t.initiated_by, t.opened_by, c.actions, c.binding
      from credentials own
     cross join unnest(own.ancestors || own.id) with ordinality l (id, nth)
      join credentials c on c.tenant_id = ${tenantId} and c.id = l.id
      join agents a on a.tenant_id = ${tenantId} and a.id = c.agent_id
      join tasks t on t.tenant_id = ${tenantId} and t.id = c.task_id
     where own.tenant_id = ${tenantId} and own.id = ${id} order by l.nth`.execute(tx);
  return rows;
}
