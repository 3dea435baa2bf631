import { sql } from "kysely";
import type { Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import type { Principal } from "../identity/principal.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import type { Sealer } from "../lib/seal.ts";
import { type KeyAges, MARGIN_SECONDS } from "./ages.ts";
import { type KeyPurpose, keyPurposes } from "./key-purpose.ts";
import { type KeyRow, keyColumns } from "./list-keys.ts";
import { ensureKeys, KEYS_ACTOR, type KeyDeps, makeKey } from "./make-key.ts";

/** One step in the life of the keys of one tenant and purpose. */
interface DueStep {
  readonly tenant_id: Id<"tenant">;
  readonly purpose: KeyPurpose;
  readonly step: "publish" | "promote" | "withdraw";
}

/**
 * Takes every step that is due, of every tenant: publishes the next key ahead of time, lets it sign when it has been
 * published and the one before has served long enough, withdraws a key when nothing that it signed can be alive. Each
 * step is a transaction that looks again behind the tenant's gate, so any number of workers may do this, and one that
 * dies leaves what the next finishes. What fails is logged and due again. Answers how many steps were due.
 */
export async function rotateDueKeys(deps: KeyDeps & { readonly log: Log }, ages: KeyAges): Promise<number> {
  const due = await deps.db.callAcrossTenants<DueStep>(
    "keys_due",
    [ages.rotateSeconds, ages.aheadSeconds, ages.publishSeconds].map((seconds) => `${seconds} seconds`),
  );
  for (const { tenant_id: tenantId, purpose, step } of due) {
    try {
      await deps.db.withTenant({ tenantId, actor: KEYS_ACTOR }, async (tx) => {
        await closeGate(tx, tenantId);
        if (step === "publish") await publish(tx, deps.keySealer, tenantId, purpose);
        else if (step === "promote") await promote(tx, tenantId, purpose, ages);
        else await withdraw(tx, tenantId, purpose);
      });
    } catch (error) {
      deps.log.error({ err: error, tenant: tenantId, purpose, step }, "a signing key could not be rotated");
    }
  }
  return due.length;
}

/** What came of asking for a rotation now. `readyAt`: when the next key may sign; absent when it does. */
export interface Rotation {
  readonly key: KeyRow;
  readonly readyAt: Date | undefined;
}

/**
 * Lets the next key of this purpose sign now, if it has been published for long enough that everybody can know it. If
 * not, it is published at least, and the answer says when to ask again.
 */
export async function rotateNow(
  deps: KeyDeps,
  { tenantId, subject }: Principal,
  purpose: KeyPurpose,
  { publishSeconds }: Pick<KeyAges, "publishSeconds">,
  requestId: string,
): Promise<Rotation> {
  await ensureKeys(deps, tenantId);
  return deps.db.withTenant({ tenantId, actor: subject, requestId }, async (tx) => {
    await closeGate(tx, tenantId);
    const promoted = await promote(tx, tenantId, purpose, { rotateSeconds: 0, publishSeconds });
    if (!promoted) await publish(tx, deps.keySealer, tenantId, purpose);
    const key = await tx
      .selectFrom("signing_keys")
      .select(keyColumns)
      .where("tenant_id", "=", tenantId)
      .where("purpose", "=", purpose)
      .where("state", "=", promoted ? "active" : "pending")
      .executeTakeFirstOrThrow();
    return { key, readyAt: promoted ? undefined : new Date(key.created_at.getTime() + publishSeconds * 1000) };
  });
}

async function publish(tx: Tx, sealer: Sealer, tenantId: Id<"tenant">, purpose: KeyPurpose): Promise<void> {
  await makeKey(tx, sealer, tenantId, purpose, "pending");
}

/** False, and nothing has happened, when the next key is too young or the active one not old enough. */
async function promote(
  tx: Tx,
  tenantId: Id<"tenant">,
  purpose: KeyPurpose,
  { rotateSeconds, publishSeconds }: Pick<KeyAges, "rotateSeconds" | "publishSeconds">,
): Promise<boolean> {
  const next = await tx
    .selectFrom("signing_keys")
    .select("kid")
    .where("tenant_id", "=", tenantId)
    .where("purpose", "=", purpose)
    .where("state", "=", "pending")
    .where(sql<boolean>`created_at <= clock_timestamp() - make_interval(secs => ${publishSeconds})`)
    .executeTakeFirst();
  if (next === undefined) return false;
  const publishedForSeconds = keyPurposes[purpose].longestSeconds + MARGIN_SECONDS;
  const retired = await tx
    .updateTable("signing_keys")
    .set((eb) => ({
      state: "retiring",
      // Nobody signs with it again. Who verifies needs the public part alone.
      private_sealed: null,
      retired_at: sql<Date>`clock_timestamp()`,
      published_until: sql<Date>`clock_timestamp() + make_interval(secs => ${publishedForSeconds})`,
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", tenantId)
    .where("purpose", "=", purpose)
    .where("state", "=", "active")
    .where(sql<boolean>`activated_at <= clock_timestamp() - make_interval(secs => ${rotateSeconds})`)
    .executeTakeFirst();
  if (Number(retired.numUpdatedRows) === 0) return false;
  await tx
    .updateTable("signing_keys")
    .set((eb) => ({
      state: "active",
      activated_at: sql<Date>`clock_timestamp()`,
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", tenantId)
    .where("kid", "=", next.kid)
    .execute();
  return true;
}

async function withdraw(tx: Tx, tenantId: Id<"tenant">, purpose: KeyPurpose): Promise<void> {
  await tx
    .updateTable("signing_keys")
    .set((eb) => ({
      state: "gone",
      ended_at: sql<Date>`clock_timestamp()`,
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", tenantId)
    .where("purpose", "=", purpose)
    .where("state", "=", "retiring")
    .where(sql<boolean>`published_until <= clock_timestamp()`)
    .execute();
}
