import { type SelectQueryBuilder, sql } from "kysely";
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
  | "mint_failed"
  | "missing_downstream";

/**
 * Takes back every live credential that `which` selects, in one statement: tokens of ours are `revoked` with this
 * commit (introspection is their proof), the rest is `revoking` and due now. Returns how many. Idempotent: what is
 * already on its way or dead is left alone. The caller asks the worker to look (`wakeUps.now()`) after the commit.
 *
 * Run it *after* the statement that closes what the credentials hang on (the task, the agent …) in the same
 * transaction: a mint that commits in between is then seen here (migrations/0004, mint_commit).
 */
export async function takeBack(
  tx: Tx,
  which: WhichCredentials,
  { tenantId, by, reason, revocationId }: TakingBack,
): Promise<number> {
  const chosen = which(
    tx
      .selectFrom("credentials")
      .select("id")
      .where("tenant_id", "=", tenantId as Id<"tenant">)
      .where("state", "in", ["pending", "active"])
      .where("due_at", "is not", null),
  )
    .orderBy("id")
    .forUpdate();
  const result = await tx
    .with("chosen", () => chosen)
    .updateTable("credentials")
    .set({
      state: sql`case when self_contained then 'revoked' else 'revoking' end`,
      state_at: sql`now()`,
      state_by: by,
      state_reason: reason,
      ...(revocationId === undefined ? {} : { revocation_id: revocationId }),
      revoking_at: sql`clock_timestamp()`,
      ended_at: sql`case when self_contained then clock_timestamp() end`,
      due_at: sql`case when self_contained then null else clock_timestamp() end`,
      receipt: sql`case when self_contained then jsonb_build_object('ended_by', 'mayfly', 'probe', 'introspection',
        'observed', 'inactive from this commit', 'due_at', clock_timestamp(), 'proven_at', clock_timestamp(), 'lag_ms', 0) end`,
    })
    .where("tenant_id", "=", tenantId as Id<"tenant">)
    .where("id", "in", (query) => query.selectFrom("chosen" as never).select("id" as never))
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}
