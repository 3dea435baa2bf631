import { setTimeout as delay } from "node:timers/promises";
import type { Db } from "../db/database.ts";
import type { Log } from "../lib/log.ts";

/** What a look at the database found, for one tenant. */
export interface Look {
  /** The database's time before it looked: everything that had been committed by then has been seen. */
  readonly atMs: number;
  /** Of the tenant's registry. */
  readonly generation: number;
  /** Lists in which tokens were taken back since the look before. */
  readonly changed: ReadonlySet<string>;
  /** Nobody knows what happened since this listener's look before: it must begin anew. */
  readonly anew: boolean;
}

/** Tells of revocations, promptly and without gaps, as long as somebody listens. */
export interface StatusFeed extends AsyncDisposable {
  /**
   * Calls `onLook` after every look that succeeded, until the returned function is called. When looks fail there are no
   * calls: silence means that nobody knows.
   */
  listen(tenantId: string, onLook: (look: Look) => void): () => void;
  /** Resolves when all that changes from now on will be told to those who listen; rejects when a look was needed and failed. */
  ready(): Promise<void>;
  /** Whether the last look succeeded, and not long ago. */
  isCurrent(): boolean;
}

/** Between two looks. A guard hears of a revocation within this and a round trip. */
const EVERY_MS = 200;
/** Without a look for so long, what is kept in memory is not believed. */
const CURRENT_MS = 5 * EVERY_MS;

interface Row {
  readonly tenant_id: string;
  readonly generation: string;
  readonly lists: readonly string[];
  readonly snapshot: string;
  readonly now_ms: string;
}

interface Listener {
  readonly tenantId: string;
  readonly onLook: (look: Look) => void;
  /** What happens after `since` is told to it. */
  isServed: boolean;
}

/**
 * One look serves all of the process's listeners. It asks what the snapshot of the look before does not show
 * (`mayfly.statuses_since`), so it needs no clock, no notification and no order of commits. A look that fails may mean a
 * failover, after which an old snapshot says nothing: the next one begins anew.
 */
export function createStatusFeed(db: Db, log: Log): StatusFeed {
  const listeners = new Set<Listener>();
  let waiters: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  let since: string | null = null;
  let currentUntil = Number.NEGATIVE_INFINITY;
  let running: Promise<void> | undefined;
  let isLooking = false;
  let hurry = new AbortController();
  let failing = false;
  let stopped = false;

  const look = async (): Promise<void> => {
    const mine = waiters;
    const listening = [...listeners];
    waiters = [];
    const began = performance.now();
    isLooking = true;
    try {
      const tenants = [...new Set(listening.map(({ tenantId }) => tenantId))];
      const rows = await db.prompt.callAcrossTenants<Row>("statuses_since", [since, tenants]);
      const isGap = since === null;
      const looked = new Map(rows.map((row) => [row.tenant_id, row]));
      since = rows[0]?.snapshot ?? null;
      for (const listener of listening) {
        const row = looked.get(listener.tenantId);
        if (row === undefined || !listeners.has(listener)) continue;
        const anew = isGap && listener.isServed;
        listener.isServed = true;
        const { now_ms: now, generation, lists } = row;
        listener.onLook({ atMs: Number(now), generation: Number(generation), changed: new Set(lists), anew });
      }
      currentUntil = began + CURRENT_MS;
      if (failing) log.info({}, "revocations are told of again");
      failing = false;
      for (const { resolve } of mine) resolve();
    } catch (error) {
      since = null;
      currentUntil = Number.NEGATIVE_INFINITY;
      if (!failing)
        log.warn({ err: error }, "the database does not say what was revoked; those who listen hear nothing");
      failing = true;
      for (const { reject } of mine) reject(error);
    } finally {
      isLooking = false;
    }
  };
  const run = async (): Promise<void> => {
    while (!stopped && listeners.size > 0) {
      hurry = new AbortController();
      await look();
      if (waiters.length === 0) await delay(EVERY_MS, undefined, { signal: hurry.signal }).catch(() => undefined);
    }
    since = null;
    running = undefined;
    // Whoever asked in the meantime and has stopped listening.
    for (const { reject } of waiters.splice(0)) reject(new Error("nobody listens"));
  };

  return {
    listen(tenantId, onLook) {
      // A look under way does not know of this listener, and moves `since` past what the listener may have missed.
      const listener = { tenantId, onLook, isServed: since !== null && !isLooking };
      listeners.add(listener);
      running ??= run();
      return () => {
        listeners.delete(listener);
        if (listeners.size === 0) hurry.abort();
      };
    },
    ready() {
      if (since !== null && !isLooking) return Promise.resolve();
      if (stopped || listeners.size === 0) return Promise.reject(new Error("nobody listens"));
      return new Promise((resolve, reject) => {
        waiters.push({ resolve, reject });
        hurry.abort();
      });
    },
    isCurrent: () => performance.now() < currentUntil,
    async [Symbol.asyncDispose]() {
      stopped = true;
      hurry.abort();
      await running;
    },
  };
}

/**
 * The looks that concern one tenant, for a reader who takes its time: what it missed is put together, and nothing piles up.
 * Ends when `signal` aborts.
 */
export async function* looks(feed: StatusFeed, tenantId: string, signal: AbortSignal): AsyncGenerator<Look> {
  let latest: Look | undefined;
  let wake: () => void = () => undefined;
  const stop = feed.listen(tenantId, (look) => {
    latest = latest === undefined ? look : merged(latest, look);
    wake();
  });
  const aborted = (): void => wake();
  signal.addEventListener("abort", aborted);
  try {
    while (!signal.aborted) {
      if (latest !== undefined) {
        const look = latest;
        latest = undefined;
        yield look;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    stop();
    signal.removeEventListener("abort", aborted);
  }
}

function merged(earlier: Look, later: Look): Look {
  return {
    ...later,
    changed: new Set([...earlier.changed, ...later.changed]),
    anew: earlier.anew || later.anew,
  };
}
