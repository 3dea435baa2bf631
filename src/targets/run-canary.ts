import type { Db } from "../db/database.ts";
import { downstreamIssuer } from "../issuers/registry.ts";
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
const CANARY_LIFE_MS = 60_000;

/**
 * Proves that the target can do what will be asked of it, with the very rights that mints will use: rights inspected,
 * a credential made with every access of every resource, seen alive, taken back, seen dead. Throws `target_refused`
 * with what is missing. Should we die in between, the canary carries its own backstop of a minute, and its name makes
 * it an orphan that reconciliation removes (the target's row exists before this runs).
 */
export async function runCanary({ db, targets }: CanaryDeps, tenantId: Id<"tenant">, targetId: Id<"target">): Promise<Canary> {
  const startedAt = performance.now();
  const target = await targets.config(tenantId, targetId);
  if (downstreamIssuer(target.issuerKind) === undefined)
    return { state: "passed", revoke_probe: "introspection", observed: "signed by Mayfly; no far side", took_ms: 0 };

  const { issuer, client, config } = await targets.connect(tenantId, targetId);
  const rows = await db.withTenant({ tenantId, actor: "mayfly:canary" }, (tx) =>
    tx.selectFrom("target_resources").select("access").where("tenant_id", "=", tenantId).where("target_id", "=", targetId).execute(),
  );
  const access = rows.flatMap((row) => Object.values(row.access)).map((one) => issuer.access.parse(one));
  const signal = AbortSignal.timeout(CANARY_MS);
  await issuer.inspect?.(client, access, signal);

  const credentialId = newId("credential");
  const { downstreamName, handle } = issuer.name(credentialId, config);
  let seen: Awaited<ReturnType<typeof issuer.probe>>;
  try {
    await issuer.issue(client, {
      credentialId,
      downstreamName,
      handle,
      access,
      expiresAt: new Date(Date.now() + CANARY_LIFE_MS),
      createWithinMs: CANARY_MS / 2,
      signal,
    });
    seen = await issuer.probe(client, handle, signal);
    if (seen.outcome !== "alive")
      throw refused(`the canary was made, but the probe says ${seen.outcome} (${seen.detail})`);
  } finally {
    await issuer.revoke(client, handle, AbortSignal.timeout(CANARY_MS));
  }
  seen = await issuer.probe(client, handle, AbortSignal.timeout(CANARY_MS));
  if (seen.outcome !== "dead")
    throw refused(`the canary was taken back, but the probe says ${seen.outcome} (${seen.detail})`);
  return { state: "passed", revoke_probe: seen.by, observed: seen.detail, took_ms: Math.round(performance.now() - startedAt) };
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
