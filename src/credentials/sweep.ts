import type { Db } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import { type Attempt, type Claimed, type ProveDeps, proveDead } from "./prove-dead.ts";

export interface SweepDeps extends ProveDeps {
  readonly db: Db;
  readonly log: Log;
  /** Ends the tenant's tasks that are past their deadline or heartbeat. Runs first: it makes credentials due. */
  readonly endDueTasks: (tenantId: Id<"tenant">) => Promise<void>;
  /** Told about every proven end, for the metrics: seconds from due to proven. */
  readonly onEnded?: (issuer: string, lagSeconds: number) => void;
}

/** Longer than an attempt and the wait for a lane, so that a claim is lost only by a worker that died. */
const LEASE_SECONDS = 25;
/** At once per target: a slow target holds up itself alone. */
const LANES_PER_TARGET = 8;
const QUEUED_PER_TARGET = 8;
const CLAIM = 64;
const EXPIRE = 2_000;

/** After this many tries without proof the credential is shown as stuck (about half a minute after it was due). */
const STUCK_AFTER_ATTEMPTS = 5;
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 15 * 60_000;

/** Finds and finishes what is due, for every tenant. */
export interface Sweeper {
  /**
   * Takes up everything that is due now, then resolves; revocations go on in their targets' lanes, so a slow target
   * delays nobody's wake-up. Calls while one is running join it and ask for one more round, so nothing that became due
   * before a call is missed by it. Never rejects: what fails stays due and is logged.
   */
  sweep(): Promise<void>;
  /** Resolves when every revocation taken up so far has ended, one way or the other. */
  settled(): Promise<void>;
  /** Resolves when attempts under way have ended; nothing new is claimed. */
  stop(): Promise<void>;
}

/**
 * The one way in which a credential ends downstream, whoever woke us: a bucket job, a task's end, or the timer
 * (invariant 5). Claims from Postgres with SKIP LOCKED, so any number of workers may sweep at once.
 */
export function createSweeper(deps: SweepDeps): Sweeper {
  const lanes = createLanes(LANES_PER_TARGET, QUEUED_PER_TARGET, () => void sweep());
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

  const sweepTenant = async (tenantId: string): Promise<void> => {
    const expired = async (): Promise<number> => {
      const [row] = await deps.db.callForTenant<{ expire_due: number }>("expire_due", tenantId, [EXPIRE]);
      return row?.expire_due ?? 0;
    };
    while (!stopped && (await expired()) === EXPIRE);
    while (!stopped) {
      const claims = await deps.db.callForTenant<Claimed>("claim_due", tenantId, [
        CLAIM,
        `${LEASE_SECONDS} seconds`,
        lanes.full(),
      ]);
      for (const claimed of claims) {
        const work = lanes
          .run(claimed.target_id, async () => settle(tenantId, claimed, await proveDead(deps, tenantId, claimed)))
          // The claim runs out and another round takes it up again.
          .catch((error: unknown) =>
            deps.log.error({ err: error, credential: claimed.id }, "a revocation could not be recorded"),
          )
          .finally(() => underWay.delete(work));
        underWay.add(work);
      }
      // What a full lane left behind is taken up when the lane has room again.
      if (claims.length === 0) return;
    }
  };

  const round = async (): Promise<void> => {
    const due = await deps.db.callAcrossTenants<{ tenant_id: Id<"tenant">; credentials: boolean; tasks: boolean }>(
      "due_tenants",
      [],
    );
    for (const { tenant_id, tasks } of due) {
      if (stopped) return;
      try {
        if (tasks) await deps.endDueTasks(tenant_id);
        await sweepTenant(tenant_id);
      } catch (error) {
        deps.log.error({ err: error, tenant: tenant_id }, "a tenant could not be swept");
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

interface Lanes {
  run(target: string, work: () => Promise<void>): Promise<void>;
  /** Targets whose lane is full: nothing more of theirs is claimed until `onRoom`. */
  full(): string[];
}

/** Bounded concurrency per target, so that neither a slow target nor a big one starves the others. */
function createLanes(width: number, longest: number, onRoom: () => void): Lanes {
  const targets = new Map<string, { running: number; waiting: (() => void)[]; wasFull: boolean }>();
  return {
    async run(target, work) {
      const lane = targets.get(target) ?? { running: 0, waiting: [], wasFull: false };
      targets.set(target, lane);
      if (lane.running >= width) await new Promise<void>((resolve) => lane.waiting.push(resolve));
      else lane.running += 1;
      try {
        await work();
      } finally {
        const next = lane.waiting.shift();
        if (next === undefined) lane.running -= 1;
        else next();
        if (lane.running === 0) targets.delete(target);
        if (lane.wasFull && lane.waiting.length <= longest / 2) {
          lane.wasFull = false;
          onRoom();
        }
      }
    },
    full() {
      return [...targets]
        .filter(([, lane]) => {
          lane.wasFull = lane.waiting.length >= longest;
          return lane.wasFull;
        })
        .map(([target]) => target);
    },
  };
}
