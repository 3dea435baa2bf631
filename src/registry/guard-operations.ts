import { sql } from "kysely";
import type { Tx } from "../db/database.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

type Operations = Readonly<Record<string, string>>;

/**
 * Throws a 409 when an operation would change its class while a purpose names it: what was approved as `read` must not
 * become `delete` by the hand of one admin.
 */
export async function guardOperations(
  tx: Tx,
  tenantId: Id<"tenant">,
  resource: { readonly id: Id<"resource">; readonly operations: Operations },
  next: Operations,
): Promise<void> {
  const changed = Object.entries(resource.operations)
    .filter(([name, was]) => Object.hasOwn(next, name) && next[name] !== was)
    .map(([name]) => name);
  if (changed.length === 0) return;
  const purpose = await tx
    .selectFrom("purposes")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("state", "!=", "retired")
    .where(sql<boolean>`resource_ids @> array[${resource.id}]::text[]`)
    .where(sql<boolean>`actions && ${changed}::text[]`)
    .orderBy("id")
    .executeTakeFirst();
  if (purpose === undefined) return;
  const detail = `purpose ${purpose.id} names an operation whose class would change: give the operation a new name`;
  throw new MayflyError("conflict", detail, { errors: [{ pointer: "/operations", detail }] });
}
