import { createHash } from "node:crypto";
import { sql } from "kysely";
import type { ActingFor, Db, Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import { defaultPolicies } from "./default-policies.ts";
import { validatePolicies } from "./validate.ts";

/**
 * Publishes a text of policies as the tenant's next version and makes it the active one. Every problem is answered at
 * once, each with its line; a text with a problem is not published. A mint that was decided under the version before
 * is decided again.
 */
export async function publishPolicies(
  db: Db,
  acting: ActingFor,
  { text, note }: { text: string; note: string },
): Promise<{ readonly id: Id<"policySet">; readonly policy_version: number }> {
  const problems = validatePolicies(text);
  if (problems.length > 0)
    throw new MayflyError("invalid_request", "the policies were not published", {
      errors: problems.map(({ policyId, message, line }) => ({
        pointer: "/text",
        detail: [
          line === undefined ? "" : `line ${line}: `,
          policyId === undefined ? "" : `${policyId}: `,
          message,
        ].join(""),
      })),
    });
  return db.withTenant(acting, (tx) => insertActive(tx, acting.tenantId as Id<"tenant">, text, note, acting.actor));
}

/** Makes an earlier version the active one again, under its own number. */
export async function activatePolicies(db: Db, acting: ActingFor, version: number): Promise<void> {
  const tenantId = acting.tenantId as Id<"tenant">;
  await db.withTenant(acting, async (tx) => {
    await closeGate(tx, tenantId);
    const wanted = await tx
      .selectFrom("policy_sets")
      .select("id")
      .where("tenant_id", "=", tenantId)
      .where("policy_version", "=", version)
      .executeTakeFirst();
    if (wanted === undefined) throw notFound();
    await deactivate(tx, tenantId);
    await tx
      .updateTable("policy_sets")
      .set((eb) => ({ active: true, version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", wanted.id)
      .execute();
  });
}

/** Gives a tenant without policies the defaults; nothing when it has some. */
export async function ensureDefaultPolicies(db: Db, tenantId: Id<"tenant">): Promise<void> {
  const acting = { tenantId, actor: "mayfly:policy" };
  await db.withTenant(acting, (tx) => giveDefaultPolicies(tx, { id: tenantId }));
}

/** As {@link ensureDefaultPolicies}, in the transaction that makes the tenant. */
export async function giveDefaultPolicies(tx: Tx, { id }: { readonly id: Id<"tenant"> }): Promise<void> {
  await closeGate(tx, id);
  const some = await tx.selectFrom("policy_sets").select("id").where("tenant_id", "=", id).limit(1).executeTakeFirst();
  if (some === undefined) await insertActive(tx, id, defaultPolicies, "the defaults", "mayfly:policy");
}

async function insertActive(tx: Tx, tenantId: Id<"tenant">, text: string, note: string, by: string) {
  // One publisher at a time: the number of the next version depends on it.
  await closeGate(tx, tenantId);
  const last = await tx
    .selectFrom("policy_sets")
    .select((eb) => eb.fn.max("policy_version").as("version"))
    .where("tenant_id", "=", tenantId)
    .executeTakeFirst();
  await deactivate(tx, tenantId);
  const id = newId("policySet");
  const version = (last?.version ?? 0) + 1;
  await tx
    .insertInto("policy_sets")
    .values({
      tenant_id: tenantId,
      id,
      policy_version: version,
      text,
      text_hash: createHash("sha256").update(text).digest("hex"),
      note,
      active: true,
      published_by: by,
    })
    .execute();
  return { id, policy_version: version };
}

async function deactivate(tx: Tx, tenantId: Id<"tenant">): Promise<void> {
  await tx
    .updateTable("policy_sets")
    .set((eb) => ({ active: false, version: eb("version", "+", 1), updated_at: sql`now()` }))
    .where("tenant_id", "=", tenantId)
    .where("active", "=", true)
    .execute();
}
