import type { Tx } from "../db/database.ts";
import { type AnyIssuer, type AnySelfContainedIssuer, anyIssuer } from "../issuers/registry.ts";
import { canonicalJson } from "../lib/canonical-json.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import { type Id, isId } from "../lib/ids.ts";
import type { Sealer } from "../lib/seal.ts";
import { CANARY_LEFT } from "./run-canary.ts";
import { targetSealContext } from "./target-clients.ts";

type Config = Readonly<Record<string, unknown>>;

/** One resource that a target reaches, as a body names it: by id or by name. */
export interface GivenAccess {
  readonly resource: string;
  /** Action class → what it means to the issuer. */
  readonly access: Readonly<Record<string, unknown>>;
}

/** The same with its id. */
export interface ResourceAccess {
  readonly resourceId: Id<"resource">;
  readonly access: Readonly<Record<string, unknown>>;
}

/** The issuer of a stored target. */
export function issuerOf(kind: string): AnyIssuer | AnySelfContainedIssuer {
  const issuer = anyIssuer(kind);
  if (issuer === undefined) throw new MayflyError("unavailable", "this version of Mayfly does not know the issuer");
  return issuer;
}

/** Throws a 400 at `/max_ttl_seconds` when a target of this configuration cannot keep to it. */
export function checkTtl(issuer: AnyIssuer | AnySelfContainedIssuer, config: Config, seconds: number): void {
  const { min, max } = issuer.bounds(config).ttlSeconds;
  if (seconds < min || seconds > max) throw invalid("/max_ttl_seconds", `this target allows ${min} to ${max} seconds`);
}

/** A configuration as it is stored: whole and sealed, and in the clear without its secrets. */
export function configColumns(
  sealer: Sealer,
  row: { readonly tenantId: string; readonly id: string; readonly issuer: string },
  config: Config,
): { readonly config: string; readonly config_sealed: Buffer } {
  const secret: readonly string[] = issuerOf(row.issuer).secretConfig;
  const shown = Object.entries(config).filter(([name]) => !secret.includes(name));
  return {
    config: JSON.stringify(Object.fromEntries(shown)),
    config_sealed: sealer.seal(JSON.stringify(config), targetSealContext(row.tenantId, row.id)),
  };
}

/**
 * Finds the resources by id or name and locks them against deletion. Throws a 400 at the one that does not exist here,
 * or that is named twice.
 */
export async function resolveResources(
  tx: Tx,
  tenantId: Id<"tenant">,
  given: readonly GivenAccess[],
): Promise<ResourceAccess[]> {
  const asked = given.map(({ resource }) => resource);
  const found = await tx
    .selectFrom("resources")
    .select(["id", "name"])
    .where("tenant_id", "=", tenantId)
    .where((eb) => eb.or([eb("id", "in", asked as Id<"resource">[]), eb("name", "in", asked)]))
    .orderBy("id")
    .forKeyShare()
    .execute();
  const seen = new Set<string>();
  return given.map(({ resource, access }, index) => {
    const one = found.find(({ id, name }) => (isId("resource", resource) ? id : name) === resource);
    if (one === undefined) throw invalid(`/resources/${index}/resource`, "there is no resource with this id or name");
    if (seen.has(one.id)) throw invalid(`/resources/${index}/resource`, "this resource is named twice");
    seen.add(one.id);
    return { resourceId: one.id, access };
  });
}

/** Every meaning that the issuer would have to grant, for the canary. */
export function allAccess(resources: readonly ResourceAccess[]): unknown[] {
  return resources.flatMap(({ access }) => Object.values(access));
}

/** What a target reaches now. */
export async function resourcesOf(tx: Tx, tenantId: Id<"tenant">, targetId: Id<"target">): Promise<ResourceAccess[]> {
  return tx
    .selectFrom("target_resources")
    .select(["resource_id as resourceId", "access"])
    .where("tenant_id", "=", tenantId)
    .where("target_id", "=", targetId)
    .orderBy("resource_id")
    .execute();
}

/** Makes a target reach exactly these resources. Rows that stay as they are are not written. */
export async function writeResources(
  tx: Tx,
  tenantId: Id<"tenant">,
  targetId: Id<"target">,
  before: readonly ResourceAccess[],
  after: readonly ResourceAccess[],
): Promise<void> {
  const rows = tx.deleteFrom("target_resources").where("tenant_id", "=", tenantId).where("target_id", "=", targetId);
  for (const { resourceId } of before) {
    if (!after.some((one) => one.resourceId === resourceId)) await rows.where("resource_id", "=", resourceId).execute();
  }
  for (const { resourceId, access } of after) {
    const was = before.find((one) => one.resourceId === resourceId);
    if (was !== undefined && same(was.access, access)) continue;
    await tx
      .insertInto("target_resources")
      .values({ tenant_id: tenantId, target_id: targetId, resource_id: resourceId, access: JSON.stringify(access) })
      .onConflict((conflict) =>
        conflict
          .columns(["tenant_id", "target_id", "resource_id"])
          .doUpdateSet((eb) => ({ access: eb.ref("excluded.access") as never })),
      )
      .execute();
  }
}

/** The resources of which something that was granted is not granted any more, or not as it was. */
export function narrowed(before: readonly ResourceAccess[], after: readonly ResourceAccess[]): Id<"resource">[] {
  return before
    .filter(({ resourceId, access }) => {
      const now = after.find((one) => one.resourceId === resourceId)?.access ?? {};
      return Object.entries(access).some(([name, meaning]) => !same(meaning, now[name] ?? null));
    })
    .map(({ resourceId }) => resourceId);
}

/** Whether two JSON values mean the same. */
export function same(some: unknown, other: unknown): boolean {
  return canonicalJson(some) === canonicalJson(other);
}

/** The name of a canary that may still be downstream after this failure; undefined when none can be. */
export function canaryLeft(error: unknown): string | undefined {
  if (!(error instanceof MayflyError)) return undefined;
  return error.reasons.find(({ code }) => code === CANARY_LEFT)?.detail;
}

/**
 * A failed canary as the answer to whoever registers or changes a target: what the far side had against it is a 422,
 * whether it refused, did not answer or was not there. What failed on our side stays what it is.
 */
export function asRefusal(error: unknown): unknown {
  if (!(error instanceof MayflyError)) return error;
  if (error.code !== "target_unavailable" && error.code !== "target_rejected") return error;
  return new MayflyError("target_refused", error.detail, { reasons: error.reasons, cause: error });
}
