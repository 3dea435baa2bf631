import { sql } from "kysely";
import type { Db, Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import { recordCanary } from "./change-target-state.ts";
import { CANARY_TAKES_SECONDS, runCanary } from "./run-canary.ts";
import type { TargetClients } from "./target-clients.ts";

interface ReviewDeps {
  readonly db: Db;
  readonly targets: TargetClients;
  readonly log: Log;
}

const BY = "mayfly:canary";

/**
 * Asks a target again whether it can do what is asked of it. One that is active and whose last canary is `everySeconds` old
 * is quarantined when it refuses (no new mints). One that only does not answer stays active, because it may be back in a second;
 * its `canary` says since when and why. One that is quarantined and has no stuck credential left earns its way back by passing
 * (invariant 6). Of several workers, one runs the canary.
 */
export async function reviewTarget(
  deps: ReviewDeps,
  tenantId: Id<"tenant">,
  targetId: Id<"target">,
  everySeconds: number,
): Promise<void> {
  const target = await deps.db.withTenant({ tenantId, actor: BY }, (tx) => claim(tx, tenantId, targetId, everySeconds));
  if (target === undefined) return;
  const settle = (canary: object, state?: "active" | "quarantined") =>
    deps.db.withTenant({ tenantId, actor: BY }, async (tx) => {
      await closeGate(tx, tenantId);
      await recordCanary(tx, tenantId, targetId, target.version, canary, state);
    });
  try {
    const canary = await runCanary(deps, tenantId, targetId);
    if (target.state === "quarantined" || target.canary !== "passed") await settle(canary, "active");
  } catch (error) {
    deps.log.warn({ err: error, target: targetId, state: target.state }, "a target does not pass its canary");
    if (target.state === "quarantined" || !(error instanceof MayflyError)) return;
    const refuses = error.code === "target_refused" || error.code === "target_rejected";
    if (refuses) await settle({ state: "failed", problem: error.detail }, "quarantined");
    else if (error.code === "target_unavailable" && target.canary !== "unanswered")
      await settle({ state: "unanswered", problem: error.detail, since: new Date().toISOString() });
  }
}

interface Due {
  readonly state: "active" | "quarantined";
  readonly version: number;
  /** What is said of its last canary: `passed`, or what is to be told otherwise when one passes. */
  readonly canary: unknown;
}

/** The target, when its canary is due and nobody else has taken it up. */
async function claim(
  tx: Tx,
  tenantId: Id<"tenant">,
  targetId: Id<"target">,
  everySeconds: number,
): Promise<Due | undefined> {
  const row = await tx
    .updateTable("targets")
    .set({ canary_at: sql`clock_timestamp()` })
    .where("tenant_id", "=", tenantId)
    .where("id", "=", targetId)
    .where((eb) =>
      eb.or([
        eb.and([
          eb("state", "=", "active"),
          eb(
            sql<Date>`coalesce(canary_at, created_at)`,
            "<",
            sql<Date>`clock_timestamp() - make_interval(secs => ${everySeconds}::int)`,
          ),
        ]),
        eb.and([
          eb("state", "=", "quarantined"),
          eb.or([
            eb("canary_at", "is", null),
            eb("canary_at", "<", sql<Date>`clock_timestamp() - make_interval(secs => ${CANARY_TAKES_SECONDS}::int)`),
          ]),
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
        ]),
      ]),
    )
    .returning(["state", "version", "canary"])
    .executeTakeFirst();
  if (row === undefined) return undefined;
  return {
    state: row.state as Due["state"],
    version: row.version,
    canary: row.canary["state"],
  };
}
