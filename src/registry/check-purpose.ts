import { sql } from "kysely";
import type { Tx } from "../db/database.ts";
import { invalid } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { actionClasses } from "../policy/request.ts";

/** What of a purpose must fit together, whole: as proposed, or as it would be after a change. */
export interface PurposeContent {
  readonly actions: readonly string[];
  readonly resource_ids: readonly Id<"resource">[];
  readonly review_by: string | Date;
  readonly expires_at: string | Date;
  /** When it was first proposed; absent for one that is proposed now. */
  readonly created_at?: Date;
}

/**
 * Throws a 400 that points at what does not fit: an action that none of the resources has, a review after the expiry,
 * an end more than a year away. All by the database's clock. The resources themselves must exist already.
 */
export async function checkPurpose(tx: Tx, tenantId: Id<"tenant">, purpose: PurposeContent): Promise<void> {
  await checkActions(tx, tenantId, purpose);
  const { review_by: review, expires_at: expires, created_at: created = null } = purpose;
  const { rows } = await sql<{ future: boolean; ordered: boolean; near: boolean }>`
    select ${review}::timestamptz > now() as future, ${review}::timestamptz <= ${expires}::timestamptz as ordered,
           ${expires}::timestamptz <= coalesce(${created}::timestamptz, now()) + interval '1 year' as near`.execute(tx);
  const [times] = rows;
  if (!times?.future) throw invalid("/review_by", "must be in the future");
  if (!times.ordered) throw invalid("/review_by", "must not be after expires_at");
  if (!times.near) throw invalid("/expires_at", "must not be more than a year after the proposal");
}

async function checkActions(
  tx: Tx,
  tenantId: Id<"tenant">,
  { actions, resource_ids: resourceIds }: PurposeContent,
): Promise<void> {
  const resources = await tx
    .selectFrom("resources")
    .select("operations")
    .where("tenant_id", "=", tenantId)
    .where("id", "in", [...resourceIds])
    .execute();
  const offered = new Set<string>(actionClasses);
  for (const { operations } of resources) for (const operation of Object.keys(operations)) offered.add(operation);
  const unknown = actions.findIndex((action) => !offered.has(action));
  if (unknown >= 0)
    throw invalid(`/actions/${unknown}`, "is neither an action class nor an operation of one of the resources");
}
