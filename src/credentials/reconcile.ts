import { sql } from "kysely";
import type { Db } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import type { AnyIssuer } from "../issuers/registry.ts";
import { downstreamIssuer } from "../issuers/registry.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import type { WakeUps } from "../queue/queue.ts";
import { runCanary } from "../targets/run-canary.ts";
import type { TargetClients } from "../targets/target-clients.ts";
import { ATTEMPT_MS } from "./prove-dead.ts";
import { takeBack } from "./take-back.ts";

export interface ReconcileDeps {
  readonly db: Db;
  readonly targets: TargetClients;
  readonly wakeUps: WakeUps;
  readonly log: Log;
}

/** What one look at one target found. */
export interface Reconciliation {
  readonly listed: number;
  /** Ours by name, but with no row or with a row that is dead: removed, and reported in the audit. */
  readonly orphansRemoved: number;
  /** Active here, absent there: closed by the ordinary way of death. */
  readonly missingClosed: number;
}

const BY = "mayfly:reconciler";

/**
 * Compares what a target really has with the ledger, both ways (design §1.5). The list is read first and the rows
 * after it: an intent is committed before its effect, so whatever the list shows has its row by then, and no age needs
 * guessing. Names that are not this deployment's are never touched.
 */
export async function reconcileTarget(
  deps: ReconcileDeps,
  tenantId: Id<"tenant">,
  targetId: Id<"target">,
): Promise<Reconciliation> {
  const target = await deps.targets.config(tenantId, targetId);
  const list = downstreamIssuer(target.issuerKind)?.list;
  if (list === undefined) {
    await markReconciled(deps.db, tenantId, targetId);
    return { listed: 0, orphansRemoved: 0, missingClosed: 0 };
  }
  const { issuer, client } = await deps.targets.connect(tenantId, targetId);
  const [started] = await deps.db.withTenant(
    { tenantId, actor: BY },
    async (tx) => (await sql<{ at: Date }>`select clock_timestamp() as at`.execute(tx)).rows,
  );
  const listed = await list(client, AbortSignal.timeout(ATTEMPT_MS * 3));
  const names = listed.map((one) => one.downstreamName);
  const known = await deps.db.withTenant({ tenantId, actor: BY }, (tx) =>
    tx
      .selectFrom("credentials")
      .select(["id", "downstream_name", "state", "activated_at"])
      .where("tenant_id", "=", tenantId)
      .where("target_id", "=", targetId)
      .where((eb) =>
        eb.or([eb("due_at", "is not", null), ...(names.length > 0 ? [eb("downstream_name", "in", names)] : [])]),
      )
      .execute(),
  );
  const byName = new Map(known.map((row) => [row.downstream_name, row]));
  const claimed = listed.flatMap((one) => (one.credentialId === undefined ? [] : [one.credentialId]));
  const elsewhere = new Set(
    (await deps.db.callAcrossTenants<{ id: string }>("live_anywhere", [claimed])).map((row) => row.id),
  );

  let orphansRemoved = 0;
  for (const one of listed) {
    const row = byName.get(one.downstreamName);
    if (row !== undefined && ["pending", "active", "revoking"].includes(row.state)) continue;
    // Two targets on one server under one prefix: another's living credential is no orphan.
    if (one.credentialId !== undefined && elsewhere.has(one.credentialId)) continue;
    if (
      await removeOrphan(deps, issuer, client, {
        tenantId,
        targetId,
        name: one.downstreamName,
        handle: one.handle,
        was: row?.state ?? null,
      })
    )
      orphansRemoved += 1;
  }

  const there = new Set(names);
  const missing = known.filter(
    (row) =>
      row.state === "active" &&
      !there.has(row.downstream_name ?? "") &&
      started !== undefined &&
      row.activated_at !== null &&
      row.activated_at < started.at,
  );
  let missingClosed = 0;
  if (missing.length > 0) {
    const ids = missing.map((row) => row.id);
    missingClosed = await deps.db.withTenant({ tenantId, actor: BY }, (tx) =>
      takeBack(tx, (query) => query.where("id", "in", ids), { tenantId, by: BY, reason: "missing_downstream" }),
    );
    deps.wakeUps.now();
  }
  await markReconciled(deps.db, tenantId, targetId);
  await releaseIfWell(deps, tenantId, targetId);
  return { listed: listed.length, orphansRemoved, missingClosed };
}

async function removeOrphan(
  deps: ReconcileDeps,
  issuer: AnyIssuer,
  client: AsyncDisposable,
  orphan: { tenantId: Id<"tenant">; targetId: Id<"target">; name: string; handle: unknown; was: string | null },
): Promise<boolean> {
  let outcome = "unknown";
  try {
    await issuer.revoke(client, orphan.handle, AbortSignal.timeout(ATTEMPT_MS));
    outcome = (await issuer.probe(client, orphan.handle, AbortSignal.timeout(ATTEMPT_MS))).outcome;
  } catch (error) {
    deps.log.error({ err: error, target: orphan.targetId, name: orphan.name }, "an orphan could not be removed");
  }
  await deps.db.withTenant({ tenantId: orphan.tenantId, actor: BY }, (tx) =>
    tx
      .insertInto("audit_events")
      .values({
        tenant_id: orphan.tenantId,
        type: outcome === "dead" ? "orphan.removed" : "orphan.found",
        actor: BY,
        subject_id: orphan.targetId,
        data: JSON.stringify({ downstream_name: orphan.name, ledger: orphan.was, probe: outcome }),
      })
      .execute(),
  );
  return outcome === "dead";
}

/** A quarantined target whose stuck credentials are all dead earns its way back by passing the canary (invariant 6). */
async function releaseIfWell(deps: ReconcileDeps, tenantId: Id<"tenant">, targetId: Id<"target">): Promise<void> {
  const quarantined = await deps.db.withTenant({ tenantId, actor: BY }, (tx) =>
    tx
      .selectFrom("targets")
      .select("id")
      .where("tenant_id", "=", tenantId)
      .where("id", "=", targetId)
      .where("state", "=", "quarantined")
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom("credentials")
              .select("credentials.id")
              .where("credentials.tenant_id", "=", tenantId)
              .where("credentials.target_id", "=", targetId)
              .where("credentials.due_at", "is not", null)
              .where("credentials.stuck", "=", true),
          ),
        ),
      )
      .executeTakeFirst(),
  );
  if (quarantined === undefined) return;
  try {
    const canary = await runCanary(deps, tenantId, targetId);
    await deps.db.withTenant({ tenantId, actor: BY }, async (tx) => {
      await closeGate(tx, tenantId);
      await tx
        .updateTable("targets")
        .set((eb) => ({
          state: "active",
          canary: JSON.stringify(canary),
          version: eb("version", "+", 1),
          updated_at: sql`now()`,
        }))
        .where("tenant_id", "=", tenantId)
        .where("id", "=", targetId)
        .where("state", "=", "quarantined")
        .execute();
    });
  } catch (error) {
    deps.log.warn({ err: error, target: targetId }, "a quarantined target does not pass its canary yet");
  }
}

async function markReconciled(db: Db, tenantId: Id<"tenant">, targetId: Id<"target">): Promise<void> {
  await db.withTenant({ tenantId, actor: BY }, (tx) =>
    tx
      .updateTable("targets")
      .set({ reconciled_at: sql`clock_timestamp()` })
      .where("tenant_id", "=", tenantId)
      .where("id", "=", targetId)
      .execute(),
  );
}
