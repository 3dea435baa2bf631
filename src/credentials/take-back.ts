import { type RawBuilder, type SelectQueryBuilder, sql } from "kysely";
import type { Tx } from "../db/database.ts";
import type { Database } from "../db/schema.ts";
import type { Id } from "../lib/ids.ts";

/** Narrows which live credentials are meant. The tenant and "not ended, not already on its way" are added here. */
export type WhichCredentials = <Output>(
  query: SelectQueryBuilder<Database, "credentials", Output>,
) => SelectQueryBuilder<Database, "credentials", Output>;

/** Who takes back, and why: the reason ends up in the row, the audit event and the receipt. */
export interface TakingBack {
  readonly tenantId: string;
  readonly by: string;
  readonly reason: TakeBackReason;
  /** The order of the kill switch, when it is one: what its completion is read from. */
  readonly revocationId?: Id<"revocation">;
}

export type TakeBackReason =
  | "released"
  | "revoked"
  | "killed"
  | "task_ended"
  | "task_paused"
  | "agent_inactive"
  | "owner_departed"
  | "target_inactive"
  | "purpose_retired"
  | "identity_removed"
  | "tenant_suspended"
  | "replayed"
  | "key_compromised"
  | "mint_failed"
  | "missing_downstream";

/**
 * Takes back every live credential that `which` selects, and everything that was ever minted from one of them, at any
 * depth, in one statement: tokens of ours are `revoked` with this commit (introspection is their proof), the rest is
 * `revoking` and due now. Returns how many. Idempotent: what is already on its way or dead is left alone. The caller asks
 * the worker to look (`wakeUps.now()`) after the commit.
 *
 * Run it *after* the statement that closes what the credentials hang on (the task, the agent …) in the same
 * transaction: a mint that commits in between is then seen here (migrations/0004, mint_commit).
 */
export async function takeBack(tx: Tx, which: WhichCredentials, taking: TakingBack): Promise<number> {
  const { tenantId } = taking;
  const meant = which(
    tx
      .selectFrom("credentials")
      .select(["id", "delegation"])
      .where("tenant_id", "=", tenantId as Id<"tenant">)
      .where("state", "in", ["pending", "active"])
      .where("due_at", "is not", null),
  );
  const { taken, roots } = await takeBackOnce(tx, withDescendants(meant, tenantId), taking);
  if (roots === null) return taken;
  // A mint that held one of them while we waited for it has made a child since. No other can: they are ours now.
  const late = await takeBackOnce(tx, descendantsOf(sql`${roots}::text[]`, tenantId), taking);
  return taken + late.taken;
}

/** Credentials, and all that was minted from them: a query of ids. */
export function withDescendants(
  meant: SelectQueryBuilder<Database, "credentials", unknown>,
  tenantId: string,
): RawBuilder<unknown> {
  return sql`with meant as materialized (${meant})
    select id from meant union ${descendantsOf(sql`array(select id from meant where delegation is not null)`, tenantId)}`;
}

/**
 * All that was minted from `ids`, at any depth: a query of ids. From parent to child, because row-level security keeps
 * `ancestors && ids` from being a search in an index.
 */
export function descendantsOf(ids: RawBuilder<unknown>, tenantId: string): RawBuilder<unknown> {
  return sql`(with recursive minted as (
      select id from credentials where tenant_id = ${tenantId} and parent_id = any (${ids})
      union all
      select c.id from minted m cross join lateral (
        select id from credentials where tenant_id = ${tenantId} and parent_id = m.id offset 0) c
    ) select id from minted)`;
}

async function takeBackOnce(
  tx: Tx,
  ids: RawBuilder<unknown>,
  { tenantId, by, reason, revocationId }: TakingBack,
): Promise<{ readonly taken: number; readonly roots: readonly string[] | null }> {
  const { rows } = await sql<{ taken: number; roots: string[] | null }>`
    with chosen as (
      select id from credentials
       where tenant_id = ${tenantId} and state in ('pending', 'active') and due_at is not null and id = any (array(${ids}))
       order by id for update
    ), done as (
      update credentials set
          state = case when self_contained then 'revoked' else 'revoking' end,
          state_at = now(), state_by = ${by}, state_reason = ${reason},
          revocation_id = coalesce(${revocationId ?? null}, revocation_id),
          revoking_at = clock_timestamp(),
          ended_at = case when self_contained then clock_timestamp() end,
          due_at = case when self_contained then null else clock_timestamp() end,
          receipt = case when self_contained then jsonb_build_object('ended_by', 'mayfly', 'probe', 'introspection',
            'observed', 'inactive from this commit', 'due_at', clock_timestamp(), 'proven_at', clock_timestamp(), 'lag_ms', 0) end
       where tenant_id = ${tenantId} and id = any (array(select id from chosen))
      returning id, delegation
    )
    select count(*)::int as taken, array_agg(id) filter (where delegation is not null) as roots from done`.execute(tx);
  return rows[0] ?? { taken: 0, roots: null };
}
