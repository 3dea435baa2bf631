import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Db, Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { Sealer } from "../lib/seal.ts";
import type { Change } from "../registry/collection.ts";
import { parseAt } from "../registry/field-errors.ts";
import { requireActiveOwner } from "../registry/references.ts";
import { announceCanary, type Canary, runCanaryOn } from "./run-canary.ts";
import { targetSealContext } from "./target-clients.ts";
import {
  allAccess,
  asRefusal,
  canaryLeft,
  checkTtl,
  configColumns,
  type GivenAccess,
  issuerOf,
  narrowed,
  type ResourceAccess,
  resolveResources,
  resourcesOf,
  same,
  writeResources,
} from "./target-parts.ts";

/** What may change about a target. Members of `config` that are left out stay, secrets too; `null` takes one away. */
export interface TargetPatch {
  readonly owner_id?: Id<"owner"> | undefined;
  readonly max_ttl_seconds?: number | undefined;
  readonly stuck_limit?: number | undefined;
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  readonly resources?: readonly GivenAccess[] | undefined;
}

export interface ChangeTargetDeps {
  readonly db: Db;
  readonly change: Change;
  readonly targetConfigs: Sealer;
}

/** The target as it would be. */
interface Plan {
  readonly issuer: string;
  readonly config: Readonly<Record<string, unknown>> | undefined;
  readonly before: readonly ResourceAccess[];
  readonly after: readonly ResourceAccess[];
  /** Everything to be proven before it is written; undefined when nothing about the far side changes. */
  readonly toProve: { readonly config: unknown; readonly access: readonly unknown[] } | undefined;
  /** A target that is not active is proven when it is activated. */
  readonly active: boolean;
}

/**
 * Changes a target at the version that the caller read. A new configuration or new access of an active target must pass
 * the canary first, on connections of its own: until it has, mints go on with the old one. What is not granted any more,
 * or not as it was, is taken back. Which system it is never changes: a revoke must reach where the mint was.
 */
export async function changeTarget(
  deps: ChangeTargetDeps,
  caller: Principal,
  id: Id<"target">,
  { version, patch }: { readonly version: string; readonly patch: TargetPatch },
  requestId: string,
): Promise<void> {
  const { tenantId } = caller;
  const plan = await deps.change(caller, requestId, (tx) =>
    prepare(tx, deps.targetConfigs, tenantId, id, version, patch),
  );
  const canary = await proveIfNeeded(deps, caller, id, plan, requestId);
  await deps.change(caller, requestId, async (tx) => {
    if (patch.owner_id !== undefined) await requireActiveOwner(tx, tenantId, patch.owner_id, "/owner_id");
    if (patch.resources !== undefined) await resolveResources(tx, tenantId, patch.resources);
    const { numUpdatedRows } = await tx
      .updateTable("targets")
      .set((eb) => ({
        ...(patch.owner_id === undefined ? {} : { owner_id: patch.owner_id }),
        ...(patch.max_ttl_seconds === undefined ? {} : { max_ttl_seconds: patch.max_ttl_seconds }),
        ...(patch.stuck_limit === undefined ? {} : { stuck_limit: patch.stuck_limit }),
        ...(plan.config === undefined
          ? {}
          : configColumns(deps.targetConfigs, { tenantId, id, issuer: plan.issuer }, plan.config)),
        ...(canary === undefined ? {} : { canary: JSON.stringify(canary) }),
        version: eb("version", "+", 1),
        updated_at: sql`now()`,
      }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .where(sql<string>`version::text`, "=", version)
      .executeTakeFirstOrThrow();
    if (numUpdatedRows !== 1n) throw hasChanged();
    await writeResources(tx, tenantId, id, plan.before, plan.after);
    const lost = narrowed(plan.before, plan.after);
    if (lost.length > 0)
      await takeBack(
        tx,
        (query) => query.where("target_id", "=", id).where(sql<boolean>`resource_ids && ${lost}::text[]`),
        { tenantId, by: caller.subject, reason: "target_inactive" },
      );
  });
}

async function prepare(
  tx: Tx,
  sealer: Sealer,
  tenantId: Id<"tenant">,
  id: Id<"target">,
  version: string,
  patch: TargetPatch,
): Promise<Plan> {
  const row = await tx
    .selectFrom("targets")
    .select(["issuer", "state", "version", "config_sealed"])
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .executeTakeFirst();
  if (row === undefined) throw notFound();
  if (`${row.version}` !== version) throw hasChanged();
  if (row.state === "retired") throw new MayflyError("conflict", "a retired target never changes again");
  const issuer = issuerOf(row.issuer);
  const stored = JSON.parse(sealer.open(row.config_sealed, targetSealContext(tenantId, id))) as Record<string, unknown>;
  const config = patch.config === undefined ? undefined : changedConfig(row.issuer, stored, patch.config);
  if (patch.max_ttl_seconds !== undefined) checkTtl(issuer, config ?? stored, patch.max_ttl_seconds);
  const before = await resourcesOf(tx, tenantId, id);
  const given = patch.resources?.map(({ resource, access }, index) => ({
    resource,
    access: Object.fromEntries(
      Object.entries(access).map(([name, one]) => [
        name,
        parseAt(issuer.access, one, `/resources/${index}/access/${name}`) as unknown,
      ]),
    ),
  }));
  const after = given === undefined ? before : await resolveResources(tx, tenantId, given);
  const differs = (config !== undefined && !same(config, stored)) || !same(before, after);
  return {
    issuer: row.issuer,
    config,
    before,
    after,
    toProve: differs ? { config: config ?? stored, access: allAccess(after) } : undefined,
    active: row.state === "active",
  };
}

function changedConfig(
  kind: string,
  stored: Readonly<Record<string, unknown>>,
  given: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const issuer = issuerOf(kind);
  const together = Object.entries({ ...stored, ...given }).filter(([, value]) => value !== null);
  const config = parseAt(issuer.config, Object.fromEntries(together), "/config") as Readonly<Record<string, unknown>>;
  const identity: readonly string[] = issuer.identityConfig;
  const moved = identity.find((name) => !same(config[name] ?? null, stored[name] ?? null));
  if (moved === undefined) return config;
  const detail = `${moved} says which system this is, and credentials minted there must be revoked there: register another target`;
  throw new MayflyError("conflict", detail, { errors: [{ pointer: `/config/${moved}`, detail }] });
}

/** What to keep as the target's canary: the one just passed, or that one is due. Throws the refusal of a failed one. */
async function proveIfNeeded(
  { change, db }: ChangeTargetDeps,
  caller: Principal,
  id: Id<"target">,
  { issuer, toProve, active }: Plan,
  requestId: string,
): Promise<Canary | { readonly state: "due" } | undefined> {
  if (toProve === undefined) return undefined;
  if (!active) return { state: "due" };
  try {
    return await runCanaryOn(issuer, toProve.config, toProve.access, announceCanary(db, caller.tenantId, id));
  } catch (error) {
    const left = canaryLeft(error);
    // It would be removed anyway, being unknown; sooner when the reconciler comes at once.
    if (left !== undefined) await change(caller, requestId, (tx) => reconcileSoon(tx, caller.tenantId, id));
    throw asRefusal(error);
  }
}

async function reconcileSoon(tx: Tx, tenantId: Id<"tenant">, id: Id<"target">): Promise<void> {
  await tx
    .updateTable("targets")
    .set({ reconciled_at: null })
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .execute();
}

function hasChanged(): MayflyError {
  return new MayflyError("precondition_failed", "the target has changed since this ETag: read it again");
}
