import { sql } from "kysely";
import type { Db, Tx } from "../db/database.ts";
import type { AnyIssuer } from "../issuers/registry.ts";
import { downstreamIssuer } from "../issuers/registry.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import type { WakeUps } from "../queue/queue.ts";
import { CANARY_TAKES_SECONDS } from "../targets/run-canary.ts";
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
  const canary = await deps.db.withTenant({ tenantId, actor: BY }, (tx) => runningCanary(tx, tenantId, targetId));
  const known = await deps.db.withTenant({ tenantId, actor: BY }, (tx) =>
    tx
      .selectFrom("credentials")
      .select([
        "id",
        "downstream_name",
        "state",
        "activated_at",
        sql<string | null>`receipt ->> 'residue'`.as("residue"),
      ])
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
    if (one.downstreamName === canary) continue;
    // Two targets on one server under one prefix: another's living credential is no orphan.
    if (one.credentialId !== undefined && elsewhere.has(one.credentialId)) continue;
    if (
      await removeOrphan(deps, issuer, client, {
        tenantId,
        targetId,
        name: one.downstreamName,
        handle: one.handle,
        was: row?.state ?? null,
        residue: row?.residue ?? null,
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
  return { listed: listed.length, orphansRemoved, missingClosed };
}

/** Something of ours that no living credential stands for. `was` and `residue` are of its row, null without one. */
interface Orphan {
  readonly tenantId: Id<"tenant">;
  readonly targetId: Id<"target">;
  readonly name: string;
  readonly handle: unknown;
  readonly was: string | null;
  readonly residue: string | null;
}

/**
 * Takes away what no ledger answers for, and tells of it. What can do no harm any more and could not go when it was taken back
 * (`residue`) is tidied up: told of once it is gone, and not again and again while it stays. Answers whether an orphan was removed.
 */
async function removeOrphan(
  deps: ReconcileDeps,
  issuer: AnyIssuer,
  client: AsyncDisposable,
  orphan: Orphan,
): Promise<boolean> {
  const look = async () => (await issuer.probe(client, orphan.handle, AbortSignal.timeout(ATTEMPT_MS))).outcome;
  let before = "unknown";
  let after = "unknown";
  let residue: string | undefined;
  try {
    before = await look();
    ({ residue } = await issuer.revoke(client, orphan.handle, AbortSignal.timeout(ATTEMPT_MS)));
    after = await look();
  } catch (error) {
    deps.log.error({ err: error, target: orphan.targetId, name: orphan.name }, "an orphan could not be removed");
  }
  const harmless = before === "dead";
  // Without a residue it was taken back by somebody else since the list was read.
  if (harmless && (orphan.residue === null || residue !== undefined || after !== "dead")) return false;
  const removed = after === "dead";
  await deps.db.withTenant({ tenantId: orphan.tenantId, actor: BY }, (tx) =>
    tx
      .insertInto("audit_events")
      .values({
        tenant_id: orphan.tenantId,
        type: harmless ? "residue.removed" : removed ? "orphan.removed" : "orphan.found",
        actor: BY,
        subject_id: orphan.targetId,
        data: JSON.stringify({
          downstream_name: orphan.name,
          ledger: orphan.was,
          probe: after,
          ...(residue === undefined ? {} : { residue }),
        }),
      })
      .execute(),
  );
  return removed && !harmless;
}

/** What the canary is called that somebody is proving the target with at this moment. */
async function runningCanary(tx: Tx, tenantId: Id<"tenant">, targetId: Id<"target">): Promise<string | undefined> {
  const row = await tx
    .selectFrom("targets")
    .select("canary_name")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", targetId)
    .where("canary_at", ">", sql<Date>`clock_timestamp() - make_interval(secs => ${CANARY_TAKES_SECONDS}::int)`)
    .executeTakeFirst();
  return row?.canary_name ?? undefined;
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
