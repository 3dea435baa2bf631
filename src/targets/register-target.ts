import type { Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, newId, SYSTEM_TENANT } from "../lib/ids.ts";
import type { Sealer } from "../lib/seal.ts";
import type { Change } from "../registry/collection.ts";
import { requireActiveOwner } from "../registry/references.ts";
import { activate, recordCanary } from "./change-target-state.ts";
import { runCanaryOn } from "./run-canary.ts";
import {
  allAccess,
  asRefusal,
  canaryLeft,
  checkTtl,
  configColumns,
  type GivenAccess,
  issuerOf,
  type ResourceAccess,
  resolveResources,
  writeResources,
} from "./target-parts.ts";

/** A target as it is asked for; `config` and each `access` have passed the issuer's own schemas. */
export interface NewTarget {
  readonly name: string;
  readonly issuer: string;
  readonly owner_id: Id<"owner">;
  readonly config: Readonly<Record<string, unknown>>;
  readonly max_ttl_seconds: number;
  readonly stuck_limit?: number | undefined;
  readonly resources: readonly GivenAccess[];
}

export interface RegisterTargetDeps {
  readonly change: Change;
  readonly targetConfigs: Sealer;
}

/**
 * Registers a target, when it passes its canary: a credential with everything that the target is to grant was made
 * there, seen alive, taken back and seen dead. If not, nothing of it stays (422 `target_refused`, with what is missing).
 *
 * The row is committed before the far side is touched (invariant 3), as `suspended`: a crash leaves a target that mints
 * nothing, whose leftovers reconciliation removes. So does a canary that cannot be proven dead; then the row stays.
 */
export async function registerTarget(
  { change, targetConfigs }: RegisterTargetDeps,
  caller: Principal,
  body: NewTarget,
  requestId: string,
): Promise<Id<"target">> {
  const { tenantId } = caller;
  if (tenantId === SYSTEM_TENANT)
    throw new MayflyError("forbidden", "the tenant of the operators has no targets; make a tenant for them");
  checkTtl(issuerOf(body.issuer), body.config, body.max_ttl_seconds);
  const id = newId("target");
  const resources = await change(caller, requestId, (tx) => insert(tx, targetConfigs, tenantId, id, body));
  try {
    const canary = await runCanaryOn(body.issuer, body.config, allAccess(resources));
    await change(caller, requestId, (tx) => activate(tx, tenantId, id, 1, canary));
    return id;
  } catch (error) {
    const left = canaryLeft(error);
    if (left === undefined) await change(caller, requestId, (tx) => remove(tx, tenantId, id));
    else await change(caller, requestId, (tx) => recordCanary(tx, tenantId, id, 1, { state: "failed", left }));
    throw left === undefined ? asRefusal(error) : kept(error as MayflyError, id);
  }
}

async function insert(
  tx: Tx,
  sealer: Sealer,
  tenantId: Id<"tenant">,
  id: Id<"target">,
  body: NewTarget,
): Promise<ResourceAccess[]> {
  await requireActiveOwner(tx, tenantId, body.owner_id, "/owner_id");
  const resources = await resolveResources(tx, tenantId, body.resources);
  await tx
    .insertInto("targets")
    .values({
      tenant_id: tenantId,
      id,
      name: body.name,
      issuer: body.issuer,
      owner_id: body.owner_id,
      ...configColumns(sealer, { tenantId, id, issuer: body.issuer }, body.config),
      max_ttl_seconds: body.max_ttl_seconds,
      ...(body.stuck_limit === undefined ? {} : { stuck_limit: body.stuck_limit }),
      state: "suspended",
      canary: JSON.stringify({ state: "running" }),
    })
    .execute();
  await writeResources(tx, tenantId, id, [], resources);
  return resources;
}

/** Removes what was registered here, unless somebody has had a hand in it meanwhile: then it is theirs. */
async function remove(tx: Tx, tenantId: Id<"tenant">, id: Id<"target">): Promise<void> {
  const untouched = await tx
    .selectFrom("targets")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .where("version", "=", 1)
    .forUpdate()
    .executeTakeFirst();
  if (untouched === undefined) return;
  await tx.deleteFrom("target_resources").where("tenant_id", "=", tenantId).where("target_id", "=", id).execute();
  await tx.deleteFrom("targets").where("tenant_id", "=", tenantId).where("id", "=", id).execute();
}

function kept(error: MayflyError, id: Id<"target">): MayflyError {
  const detail = `${error.detail}; the target stays, suspended, as ${id}, until reconciliation has removed the canary`;
  return new MayflyError("target_refused", detail, { reasons: error.reasons, cause: error });
}
