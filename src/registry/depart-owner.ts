import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

/**
 * Notes that an owner has left, suspends every agent and target of theirs, and takes back every credential that these
 * hold or that was minted there: all of it or, if anything fails, nothing. Doing it twice is harmless.
 *
 * The owner's row comes first: whoever is about to give something to this owner holds a share lock on it, and is
 * waited for. Then states, in the order of all locks (ARCHITECTURE.md), and credentials last.
 */
export async function departOwner(tx: Tx, { tenantId, subject }: Principal, ownerId: Id<"owner">): Promise<void> {
  const owner = await tx
    .selectFrom("owners")
    .select("status")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", ownerId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (owner === undefined) throw notFound();
  if (owner.status === "active")
    await setStatus(tx, tenantId, ownerId, { status: "departed", departed_at: sql<Date>`now()` });

  const agents = await tx
    .selectFrom("agents")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("owner_id", "=", ownerId)
    .orderBy("id")
    .forNoKeyUpdate()
    .execute();
  await tx
    .updateTable("agents")
    .set((eb) => ({ state: "suspended", version: eb("version", "+", 1), updated_at: sql`now()` }))
    .where("tenant_id", "=", tenantId)
    .where("owner_id", "=", ownerId)
    .where("state", "=", "active")
    .execute();
  const targets = await tx
    .selectFrom("targets")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("owner_id", "=", ownerId)
    .orderBy("id")
    .forNoKeyUpdate()
    .execute();
  // A quarantined target would come back by itself once it is well (reconcile.ts).
  await tx
    .updateTable("targets")
    .set((eb) => ({ state: "suspended", version: eb("version", "+", 1), updated_at: sql`now()` }))
    .where("tenant_id", "=", tenantId)
    .where("owner_id", "=", ownerId)
    .where("state", "in", ["active", "quarantined"])
    .execute();

  const agentIds = agents.map(({ id }) => id);
  const targetIds = targets.map(({ id }) => id);
  await takeBack(
    tx,
    (query) => query.where(sql<boolean>`(agent_id = any(${agentIds}) or target_id = any(${targetIds}))`),
    { tenantId, by: subject, reason: "owner_departed" },
  );
}

/** Notes that an owner is back. Nothing that was suspended comes back with them: each is a decision of its own. */
export async function reinstateOwner(tx: Tx, { tenantId }: Principal, ownerId: Id<"owner">): Promise<void> {
  const owner = await tx
    .selectFrom("owners")
    .select("status")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", ownerId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (owner === undefined) throw notFound();
  if (owner.status === "departed") await setStatus(tx, tenantId, ownerId, { status: "active", departed_at: null });
}

async function setStatus(
  tx: Tx,
  tenantId: Id<"tenant">,
  ownerId: Id<"owner">,
  change: { status: "active"; departed_at: null } | { status: "departed"; departed_at: ReturnType<typeof sql<Date>> },
): Promise<void> {
  await tx
    .updateTable("owners")
    .set((eb) => ({ ...change, version: eb("version", "+", 1), updated_at: sql`now()` }))
    .where("tenant_id", "=", tenantId)
    .where("id", "=", ownerId)
    .execute();
}
