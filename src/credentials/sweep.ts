import type { Db } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import { createLanes } from "./lanes.ts";
import { ATTEMPT_MS, type Attempt, type Claimed, type ProveDeps, proveDead } from "./prove-dead.ts";

export interface SweepDeps extends ProveDeps {
  readonly db: Db;
  readonly log: Log;
  /** Ends the tenant's tasks that are past their deadline or heartbeat. Runs first: it makes credentials due. */
  readonly endDueTasks: (tenantId: Id<"tenant">) => Promise<void>;
  /** Told about every proven end, for the metrics: seconds from due to proven. */
  readonly onEnded?: (issuer: string, lagSeconds: number) => void;
}

/** Longer than an attempt. What has waited for its turn until an attempt might be longer than the rest is given back. */
const LEASE_SECONDS = 25;
const WAITS_MS = LEASE_SECONDS * 1000 - ATTEMPT_MS;
/**
 * At once per target: a slow target holds up itself alone, and one with thousands to take back has time left for mints. While
 * 5,000 roles died on two cores, the p99 of new mints was 0.6 to 0.9 of what it had been with three (the last dead after 28 to
 * 48 s), 0.8 to 1.9 with four (25 to 28 s).
 */
const LANES_PER_TARGET = 3;
const QUEUED_PER_TARGET = 8;
/** For a tenant at its turn. Smaller ones cost: with 8 at a time the death of 2,000 roles took 27 s and not 14. */
const CLAIM = 64;
/** At once in this process, however much has come due in an outage. */
const MOST_AT_ONCE = 512;
const EXPIRE = 2_000;

/** After this many tries without proof the credential is shown as stuck (about half a minute after it was due). */
const STUCK_AFTER_ATTEMPTS = 5;
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 15 * 60_000;

/** Finds and finishes what is due, for every tenant. */
export interface Sweeper {
  /**
   * Takes up everything that is due now, then resolves; revocations go on in their targets' lanes, so a slow target
   * delays nobody's wake-up (eight that hang, with 64 due each, do, by an attempt's time: {@link MOST_AT_ONCE}). Calls
   * while one is running join it and ask for one more round, so nothing that became due
   * before a call is missed by it. Never rejects: what fails stays due and is logged.
   */
  sweep(): Promise<void>;
  /** Resolves when every revocation taken up so far has ended, one way or the other. */
  settled(): Promise<void>;
  /** Resolves when attempts under way have ended; what waits is given back, and nothing new is claimed. */
  stop(): Promise<void>;
}

/**
 * The one way in which a credential ends downstream, whoever woke us: a bucket job, a task's end, or the timer
 * (invariant 5). Claims from Postgres with SKIP LOCKED, so any number of workers may sweep at once.
 */
export function createSweeper(deps: SweepDeps): Sweeper {
  const lanes = createLanes(
    { width: LANES_PER_TARGET, queue: QUEUED_PER_TARGET, most: MOST_AT_ONCE },
    () => void sweep(),
  );
  const finish = deps.db.batched<object, unknown>("finish_revocations");
  const retry = deps.db.batched<object, unknown>("retry_revocations");
  const underWay = new Set<Promise<void>>();
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;

  const settle = async (tenantId: string, claimed: Claimed, attempt: Attempt): Promise<void> => {
    if (attempt.kind === "ended") {
      await finish(tenantId, { id: claimed.id, state: attempt.state, receipt: attempt.receipt });
      deps.onEnded?.(
        claimed.issuer,
        (Number(claimed.now_ms) - Number(claimed.due_ms) + Number(attempt.receipt["took_ms"])) / 1000,
      );
      return;
    }
    const counts = attempt.error !== null;
    const stuck = counts && claimed.attempts >= STUCK_AFTER_ATTEMPTS;
    await retry(tenantId, {
      id: claimed.id,
      after_ms: Math.round(attempt.afterMs ?? backOff(claimed.attempts)),
      error: attempt.error,
      stuck,
    });
    if (counts)
      deps.log.warn(
        { credential: claimed.id, attempts: claimed.attempts, stuck, error: attempt.error },
        "not proven dead yet",
      );
  };

  /** Due again as if it had never been claimed, unless it is claimed anew by now. */
  const giveBack = (tenantId: string, { id, attempts }: Claimed): Promise<unknown> =>
    retry(tenantId, { id, after_ms: 0, untried: attempts });

  /** Tokens that have run out. Whether there may be more. */
  const expire = async (tenantId: string): Promise<boolean> => {
    const [row] = await deps.db.callForTenant<{ expire_due: number }>("expire_due", tenantId, [EXPIRE]);
    return row?.expire_due === EXPIRE;
  };

  /** Takes up a few revocations. Whether there may be more; what a full lane leaves behind is taken up when it has room. */
  const claim = async (tenantId: string): Promise<boolean> => {
    const claimedAt = performance.now();
    const args = [CLAIM, `${LEASE_SECONDS} seconds`, lanes.full()];
    const claims = await deps.db.callForTenant<Claimed>("claim_due", tenantId, args);
    for (const claimed of claims) {
      const work = lanes
        .run(claimed.target_id, async () => {
          if (stopped || performance.now() - claimedAt > WAITS_MS) await giveBack(tenantId, claimed);
          else await settle(tenantId, claimed, await proveDead(deps, tenantId, claimed));
        })
        // The claim runs out and another round takes it up again.
        .catch((error: unknown) =>
          deps.log.error({ err: error, credential: claimed.id }, "a revocation could not be recorded"),
        )
        .finally(() => underWay.delete(work));
      underWay.add(work);
    }
    return claims.length > 0;
  };

  const round = async (): Promise<void> => {
    const due = await deps.db.callAcrossTenants<{ tenant_id: Id<"tenant">; credentials: boolean; tasks: boolean }>(
      "due_tenants",
      [],
    );
    const left = new Map(due.map(({ tenant_id, tasks }) => [tenant_id, { tasks, tokens: true, revocations: true }]));
    // A little of each tenant in turn, until nobody has any left.
    while (left.size > 0) {
      for (const [tenantId, has] of left) {
        if (stopped) return;
        try {
          if (has.tasks) await deps.endDueTasks(tenantId);
          has.tasks = false;
          if (has.tokens) has.tokens = await expire(tenantId);
          await lanes.room();
          if (has.revocations) has.revocations = await claim(tenantId);
          if (!has.tokens && !has.revocations) left.delete(tenantId);
        } catch (error) {
          left.delete(tenantId);
          deps.log.error({ err: error, tenant: tenantId }, "a tenant could not be swept");
        }
      }
    }
  };

  const rounds = async (): Promise<void> => {
    do {
      again = false;
      try {
        await round();
      } catch (error) {
        deps.log.error({ err: error }, "the sweep could not look for due work");
        return;
      }
    } while (again && !stopped);
  };

  const sweep = async (): Promise<void> => {
    if (stopped) return;
    if (running === undefined) {
      running = rounds().finally(() => {
        running = undefined;
      });
    } else {
      again = true;
    }
    await running;
  };

  return {
    sweep,
    async settled() {
      await running;
      while (underWay.size > 0) await Promise.all(underWay);
    },
    async stop() {
      stopped = true;
      await this.settled();
    },
  };
}

/** 1 s, 2 s, 4 s … 15 min, each ±50 %, for ever: a target that comes back is not met by all at once (reliability A10, A11). */
function backOff(attempts: number, random: () => number = Math.random): number {
  const whole = Math.min(LONGEST_RETRY_MS / 1.5, FIRST_RETRY_MS * 2 ** Math.min(attempts - 1, 20));
  return whole * (0.5 + random());
}
