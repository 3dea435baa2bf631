import type { Broker } from "./broker.ts";
import { reconcileTarget } from "./credentials/reconcile.ts";
import { createSweeper } from "./credentials/sweep.ts";
import { rotateDueKeys } from "./keys/rotate.ts";
import type { Id } from "./lib/ids.ts";
import { reviewTarget } from "./targets/review-target.ts";
import { endDueTasks } from "./tasks/end-task.ts";

/** A running worker. */
export interface Worker {
  /** Takes nothing new, finishes the revocations under way, hands its job back. */
  stop(): Promise<void>;
}

const PARTITIONS_AHEAD_MONTHS = 2;
const UPKEEP_MS = 60 * 60_000;
const RECONCILE_TICK_MS = 5_000;
const KEYS_MS = 60_000;

/**
 * Starts what takes credentials back: woken by the queue for promptness, and by a timer of its own for certainty
 * (invariant 5). Reconciliation, the rotation of signing keys, partitions and forgetting run here too. Any number of workers may run; all of it is
 * claimed row by row in Postgres.
 */
export async function startWorker(broker: Broker): Promise<Worker> {
  const { config, db, log, queue, metrics } = broker;
  const sweeper = createSweeper({
    ...broker,
    quiescenceMs: config.mintTimeoutSeconds * 1000,
    endDueTasks: (tenantId) => endDueTasks(db, tenantId),
    onEnded: metrics.ended,
  });
  const sweep = async (): Promise<void> => {
    await sweeper.sweep();
    metrics.sweepFinished();
  };

  const reconcile = async (): Promise<void> => {
    const due = await db.callAcrossTenants<{ tenant_id: Id<"tenant">; target_id: Id<"target"> }>(
      "targets_to_reconcile",
      [`${config.reconcileSeconds} seconds`],
    );
    for (const { tenant_id, target_id } of due) {
      try {
        const found = await reconcileTarget(broker, tenant_id, target_id);
        await reviewTarget(broker, tenant_id, target_id, config.canarySeconds);
        if (found.orphansRemoved + found.missingClosed > 0)
          log.warn({ target: target_id, ...found }, "the target and the ledger differed");
      } catch (error) {
        log.warn({ err: error, target: target_id }, "a target could not be reconciled");
      }
    }
  };
  const upkeep = async (): Promise<void> => {
    await db.callAcrossTenants("ensure_partitions", [PARTITIONS_AHEAD_MONTHS]);
    await db.callAcrossTenants("forget", []);
    await db.callAcrossTenants("forget_statuses", []);
  };

  const rotate = async (): Promise<void> => {
    await rotateDueKeys(broker, broker.keyAges);
  };

  // ±20 %: workers that started together do not sweep together.
  const jitter = (ms: number): number => ms * (0.8 + Math.random() * 0.4);
  const timers = [
    every(() => jitter(config.sweepSeconds * 1000), sweep, broker),
    every(() => jitter(Math.min(RECONCILE_TICK_MS, config.reconcileSeconds * 1000)), reconcile, broker),
    every(() => jitter(KEYS_MS), rotate, broker),
    every(() => jitter(UPKEEP_MS), upkeep, broker),
  ];
  await upkeep();
  await rotate();
  const jobs = queue.startWorker(sweep);
  void sweep();

  return {
    async stop() {
      await Promise.all(timers.map((timer) => timer.stop()));
      await jobs.stop();
      await sweeper.stop();
    },
  };
}

/** Runs again and again, never twice at once; a failure is logged and the next time tried again. */
function every(nextMs: () => number, work: () => Promise<void>, { log }: Broker): { stop(): Promise<void> } {
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  let stopped = false;
  const arm = (): void => {
    timer = setTimeout(() => {
      running = work()
        .catch((error: unknown) => log.error({ err: error }, "background work failed"))
        .then(() => {
          if (!stopped) arm();
        });
    }, nextMs());
  };
  arm();
  return {
    async stop() {
      stopped = true;
      clearTimeout(timer);
      await running;
    },
  };
}
