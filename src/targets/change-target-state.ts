import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Db, Tx } from "../db/database.ts";
import type { TargetState } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { Change } from "../registry/collection.ts";
import { lockOwner } from "../registry/references.ts";
import { runCanary } from "./run-canary.ts";
import type { TargetClients } from "./target-clients.ts";
import { asRefusal, canaryLeft } from "./target-parts.ts";

/** The states that somebody can put a target in; `quarantined` is Mayfly's own. */
export const reachableTargetStates = ["active", "suspended", "retired"] as const;

/** Where somebody may put a target from where. */
const targetTransitions: Readonly<Record<TargetState, readonly TargetState[]>> = {
  active: ["suspended", "retired"],
  suspended: ["active", "retired"],
  quarantined: ["active", "suspended", "retired"],
  retired: [],
};

export interface ChangeTargetStateDeps {
  readonly db: Db;
  readonly change: Change;
  readonly targets: TargetClients;
}

/**
 * Suspends or retires a target, which takes back everything that was minted there; or activates it, for which it must
 * pass its canary and have an active owner. Activating an active one runs the canary again and takes nothing away.
 */
export async function changeTargetState(
  deps: ChangeTargetStateDeps,
  caller: Principal,
  id: Id<"target">,
  to: (typeof reachableTargetStates)[number],
  requestId: string,
): Promise<void> {
  if (to !== "active") return deps.change(caller, requestId, (tx) => close(tx, caller, id, to));
  const { tenantId, subject } = caller;
  const target = await deps.db.withTenant({ tenantId, actor: subject }, (tx) =>
    tx
      .selectFrom("targets")
      .select(["state", "version"])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .executeTakeFirst(),
  );
  if (target === undefined) throw notFound();
  if (target.state !== "active") refuseIllegal(target.state, "active");
  try {
    const canary = await runCanary(deps, tenantId, id);
    await deps.change(caller, requestId, (tx) => activate(tx, tenantId, id, target.version, canary));
  } catch (error) {
    const refusal = asRefusal(error);
    if (refusal instanceof MayflyError && refusal.code === "target_refused") {
      const left = canaryLeft(error);
      const failed = { state: "failed", problem: refusal.detail, ...(left === undefined ? {} : { left }) };
      await deps.change(caller, requestId, (tx) => recordCanary(tx, tenantId, id, target.version, failed));
    }
    throw refusal;
  }
}

/** Makes the target active, if it is still the one that passed and somebody answers for it. */
export async function activate(
  tx: Tx,
  tenantId: Id<"tenant">,
  id: Id<"target">,
  version: number,
  canary: object,
): Promise<void> {
  const target = await tx
    .selectFrom("targets")
    .select("owner_id")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .executeTakeFirst();
  // The owner's row first, in the order of a departure (depart-owner.ts).
  if (target !== undefined && (await lockOwner(tx, tenantId, target.owner_id)) !== "active")
    throw new MayflyError("conflict", "the target's owner has departed: give it another owner first");
  if (!(await recordCanary(tx, tenantId, id, version, canary, "active")))
    throw new MayflyError("conflict", "the target was changed while its canary ran: try again");
}

/** Keeps what the canary saw; whether the target was still at this version. */
export async function recordCanary(
  tx: Tx,
  tenantId: Id<"tenant">,
  id: Id<"target">,
  version: number,
  canary: object,
  state?: TargetState,
): Promise<boolean> {
  const { numUpdatedRows } = await tx
    .updateTable("targets")
    .set((eb) => ({
      ...(state === undefined ? {} : { state }),
      canary: JSON.stringify(canary),
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .where("version", "=", version)
    .executeTakeFirstOrThrow();
  return numUpdatedRows === 1n;
}

async function close(tx: Tx, { tenantId, subject }: Principal, id: Id<"target">, to: TargetState): Promise<void> {
  const target = await tx
    .selectFrom("targets")
    .select("state")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (target === undefined) throw notFound();
  if (target.state !== to) {
    refuseIllegal(target.state, to);
    await tx
      .updateTable("targets")
      .set((eb) => ({ state: to, version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .execute();
  }
  await takeBack(tx, (query) => query.where("target_id", "=", id), {
    tenantId,
    by: subject,
    reason: "target_inactive",
  });
}

function refuseIllegal(from: TargetState, to: TargetState): void {
  if (!targetTransitions[from].includes(to))
    throw new MayflyError("conflict", `a target that is ${from} cannot become ${to}`);
}
