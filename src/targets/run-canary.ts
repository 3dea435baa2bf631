import { sql } from "kysely";
import type { Db } from "../db/database.ts";
import type { ProbeResult } from "../issuers/issuer.ts";
import { type AnyIssuer, downstreamIssuer } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import type { TargetClients } from "./target-clients.ts";

interface CanaryDeps {
  readonly db: Db;
  readonly targets: TargetClients;
}

/** What a passed canary saw; kept on the target. */
export interface Canary {
  readonly state: "passed";
  readonly revoke_probe: string;
  readonly observed: string;
  readonly took_ms: number;
}

const CANARY_MS = 20_000;
/** A canary is over after this, whatever becomes of it. */
export const CANARY_TAKES_SECONDS = 60;
const CANARY_LIFE_SECONDS = 60;

/**
 * Proves that the target can do what will be asked of it, with the very rights that mints will use: rights inspected,
 * a credential made with every access of every resource, seen alive, taken back, seen dead (only made, where nothing can be
 * taken back). Throws `target_refused`
 * with what is missing. Should we die in between, the canary carries its own backstop of a minute, and its name makes
 * it an orphan that reconciliation removes (the target's row exists before this runs).
 */
export async function runCanary(
  { db, targets }: CanaryDeps,
  tenantId: Id<"tenant">,
  targetId: Id<"target">,
): Promise<Canary> {
  const target = await targets.config(tenantId, targetId);
  if (downstreamIssuer(target.issuerKind) === undefined) return nothingToProve;

  const { issuer, client, config } = await targets.connect(tenantId, targetId);
  const rows = await db.withTenant({ tenantId, actor: "mayfly:canary" }, (tx) =>
    tx
      .selectFrom("target_resources")
      .select("access")
      .where("tenant_id", "=", tenantId)
      .where("target_id", "=", targetId)
      .execute(),
  );
  return prove(
    issuer,
    client,
    config,
    rows.flatMap((row) => Object.values(row.access)),
    announceCanary(db, tenantId, targetId),
  );
}

/** Tells the reconcilers what the canary is called, and that it is over. */
type Announce = (downstreamName: string | null) => Promise<void>;

/** Notes it on a stored target, before the far side is touched (invariant 3): a reconciler takes it for no orphan. */
export function announceCanary(db: Db, tenantId: Id<"tenant">, targetId: Id<"target">): Announce {
  return async (name) => {
    await db.withTenant({ tenantId, actor: "mayfly:canary" }, (tx) =>
      tx
        .updateTable("targets")
        .set({ canary_name: name, ...(name === null ? {} : { canary_at: sql`clock_timestamp()` }) })
        .where("tenant_id", "=", tenantId)
        .where("id", "=", targetId)
        .execute(),
    );
  };
}

/**
 * The same for a configuration that is not stored, or not yet: its connections are its own and closed in the end. The
 * target's row must exist all the same, so that reconciliation removes what a crash leaves. `announce` is left out for a
 * target that no reconciler visits yet.
 */
export async function runCanaryOn(
  kind: string,
  config: unknown,
  access: readonly unknown[],
  announce: Announce = async () => undefined,
): Promise<Canary> {
  const issuer = downstreamIssuer(kind);
  if (issuer === undefined) return nothingToProve;
  await using client = await issuer.connect(config);
  return await prove(issuer, client, config, access, announce);
}

/** The reason code of a canary that may still be there: its target must be kept, so that it is found and removed. */
export const CANARY_LEFT = "canary_left";

const nothingToProve: Canary = {
  state: "passed",
  revoke_probe: "introspection",
  observed: "signed by Mayfly; no far side",
  took_ms: 0,
};

async function prove(
  issuer: AnyIssuer,
  client: AsyncDisposable,
  config: unknown,
  wanted: readonly unknown[],
  announce: Announce,
): Promise<Canary> {
  const startedAt = performance.now();
  const access = wanted.map((one) => issuer.access.parse(one));
  const signal = AbortSignal.timeout(CANARY_MS);
  await issuer.inspect?.(client, access, signal);

  const credentialId = newId("credential");
  const { downstreamName, handle: named } = issuer.name(credentialId, config);
  let handle: unknown = named;
  const { ttlSeconds, revocability } = issuer.bounds(config);
  const lifeSeconds = Math.max(CANARY_LIFE_SECONDS, ttlSeconds.min);
  await announce(downstreamName);
  let failure: { readonly error: unknown } | undefined;
  try {
    await issuer.issue(client, {
      credentialId,
      downstreamName,
      handle: named,
      access,
      expiresAt: new Date(Date.now() + lifeSeconds * 1000),
      createWithinMs: CANARY_MS / 2,
      signal,
      keep: async (fuller) => {
        handle = fuller;
      },
    });
    if (revocability === "expiry")
      return {
        state: "passed",
        revoke_probe: "expiry",
        observed: "made; it cannot be taken back and ends by itself",
        took_ms: Math.round(performance.now() - startedAt),
      };
    const seen = await issuer.probe(client, handle, signal);
    if (seen.outcome !== "alive")
      throw refused(`the canary was made, but the probe says ${seen.outcome} (${seen.detail})`);
  } catch (error) {
    failure = { error };
  }
  const seen = await takeDown(issuer, client, handle);
  await announce(null);
  if (seen.outcome !== "dead")
    throw new MayflyError(
      "target_refused",
      `the canary was to be taken back, but the probe says ${seen.outcome} (${seen.detail})`,
      { reasons: [{ code: CANARY_LEFT, detail: downstreamName }], cause: failure?.error },
    );
  if (failure !== undefined) throw failure.error;
  return {
    state: "passed",
    revoke_probe: seen.by,
    observed: seen.detail,
    took_ms: Math.round(performance.now() - startedAt),
  };
}

/** Takes the canary back and looks. A revoke that fails may have worked, so the look decides. */
async function takeDown(issuer: AnyIssuer, client: AsyncDisposable, handle: unknown): Promise<ProbeResult> {
  let problem = "";
  try {
    await issuer.revoke(client, handle, AbortSignal.timeout(CANARY_MS));
  } catch (error) {
    problem = error instanceof MayflyError ? `; ${error.detail}` : "; the revoke failed";
  }
  const seen = await issuer.probe(client, handle, AbortSignal.timeout(CANARY_MS));
  return { ...seen, detail: seen.detail + problem };
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
