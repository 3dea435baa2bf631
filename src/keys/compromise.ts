import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import { closeGate } from "../db/gate.ts";
import type { Principal } from "../identity/principal.ts";
import { notFound } from "../lib/errors.ts";
import { type KeyDeps, makeKey } from "./make-key.ts";

/** What marking a key as compromised did. */
export interface Compromise {
  /** The key that signs for the same purpose now. */
  readonly activeKid: string;
  /** How many live credentials it took with it. */
  readonly takenBack: number;
}

/**
 * Marks a key as known to somebody else: from this commit it is in no key set, nothing that it signed is accepted here,
 * its private part is erased, every live credential that it signed is taken back, and another key signs. Doing it twice
 * is harmless. An unknown kid is `not_found`.
 *
 * The new key signs at once, although nobody has seen it in a key set yet: verifiers that meet its kid fetch the set
 * again, and those that do not refuse good tokens for up to max-age. Waiting would mean to sign nothing, or to go on
 * with a key that an attacker has. The next key, if there is one, lay beside the active one and has signed nothing, so it
 * is given up with it.
 *
 * The gate first: a mint either committed before, and is taken back here, or sees the new generation (migrations/0006)
 * and is signed with the new key.
 */
export async function markCompromised(
  { db, keySealer }: KeyDeps,
  { tenantId, subject }: Principal,
  kid: string,
  reason: string,
  requestId: string,
): Promise<Compromise> {
  return db.withTenant({ tenantId, actor: subject, requestId }, async (tx) => {
    await closeGate(tx, tenantId);
    const key = await tx
      .selectFrom("signing_keys")
      .select(["purpose", "state"])
      .where("tenant_id", "=", tenantId)
      .where("kid", "=", kid)
      .executeTakeFirst();
    if (key === undefined) throw notFound();
    const wasActive = key.state === "active";
    await tx
      .updateTable("signing_keys")
      .set((eb) => ({
        state: "compromised",
        private_sealed: null,
        ended_at: sql<Date>`clock_timestamp()`,
        reason,
        version: eb("version", "+", 1),
        updated_at: sql`now()`,
      }))
      .where("tenant_id", "=", tenantId)
      .where("state", "!=", "compromised")
      .where((eb) =>
        wasActive
          ? eb.or([eb("kid", "=", kid), eb.and([eb("purpose", "=", key.purpose), eb("state", "=", "pending")])])
          : eb("kid", "=", kid),
      )
      .execute();
    if (wasActive) await makeKey(tx, keySealer, tenantId, key.purpose, "active");
    const active = await tx
      .selectFrom("signing_keys")
      .select("kid")
      .where("tenant_id", "=", tenantId)
      .where("purpose", "=", key.purpose)
      .where("state", "=", "active")
      .executeTakeFirstOrThrow();
    const takenBack = await takeBack(tx, (query) => query.where("signing_kid", "=", kid), {
      tenantId,
      by: subject,
      reason: "key_compromised",
    });
    return { activeKid: active.kid, takenBack };
  });
}
