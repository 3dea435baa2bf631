import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Db } from "./db/database.ts";
import type { JobQueue } from "./queue/queue.ts";

/** The measures of one process. Labels are constants of the product: no tenant, no id, nothing a caller can choose. */
export interface Metrics {
  readonly registry: Registry;
  minted(outcome: string, issuer: string): void;
  /** Seconds between the moment a credential was due to die and the proof that it is dead. */
  ended(issuer: string, lagSeconds: number): void;
  wakeUpsMissed(count: number): void;
  sweepFinished(): void;
  /** A reading of a trust source's keys; `reason` is empty unless it failed. */
  keysRead(outcome: string, reason: string): void;
  /** Readers of status events at this process. */
  streamsOpen(count: number): void;
}

interface Measured {
  readonly live: Readonly<Record<string, number>>;
  readonly stuck: number;
  readonly overdue_seconds: number;
  readonly quarantined_targets: number;
}

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const mints = new Counter({
    name: "mayfly_mints_total",
    help: "Requests to mint, by outcome: minted, or the first reason why not.",
    labelNames: ["outcome", "issuer"],
    registers,
  });
  const lag = new Histogram({
    name: "mayfly_revocation_lag_seconds",
    help: "From the moment a credential was due to die to the proof that it is dead.",
    labelNames: ["issuer"],
    buckets: [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900],
    registers,
  });
  const missed = new Counter({
    name: "mayfly_wake_ups_missed_total",
    help: "Wake-ups that the queue did not take; the sweep does their work.",
    registers,
  });
  const swept = new Gauge({
    name: "mayfly_last_sweep_timestamp_seconds",
    help: "When this process last finished a sweep.",
    registers,
  });
  const keysRead = new Counter({
    name: "mayfly_trust_source_keys_read_total",
    help: "Readings of trust sources' keys. Alert on reason sequence_went_back: somebody serves an old SPIFFE bundle.",
    labelNames: ["outcome", "reason"],
    registers,
  });
  const streams = new Gauge({
    name: "mayfly_status_streams",
    help: "Readers of status events at this process.",
    registers,
  });
  return {
    registry,
    minted: (outcome, issuer) => mints.inc({ outcome, issuer }),
    ended: (issuer, seconds) => lag.observe({ issuer }, Math.max(0, seconds)),
    wakeUpsMissed: (count) => missed.inc(count),
    sweepFinished: () => swept.setToCurrentTime(),
    keysRead: (outcome, reason) => keysRead.inc({ outcome, reason }),
    streamsOpen: (count) => streams.set(count),
  };
}

/** Adds what only Postgres knows: read when scraped, so the lag shown is the ledger's and never the queue's (reliability B5). */
export function measureLedger({ registry }: Metrics, db: Db, queue: JobQueue): void {
  const registers = [registry];
  const stuck = new Gauge({
    name: "mayfly_stuck_credentials",
    help: "Taken back but not proven dead after several tries. Alert when above 0.",
    registers,
  });
  const overdue = new Gauge({
    name: "mayfly_overdue_seconds",
    help: "How long the credential that is due longest has been due. Alert when above a few sweep intervals.",
    registers,
  });
  const quarantined = new Gauge({
    name: "mayfly_quarantined_targets",
    help: "Targets that mint nothing because too many of their credentials are stuck.",
    registers,
  });
  // prom-client runs every collect at a scrape; this one read serves all that the ledger knows.
  const live = new Gauge({
    name: "mayfly_credentials",
    help: "Credentials that are not dead, by state.",
    labelNames: ["state"],
    registers: [],
    async collect() {
      const [row] = await db.callAcrossTenants<{ measure: Measured }>("measure", []);
      if (row === undefined) return;
      const { measure } = row;
      for (const state of ["pending", "active", "revoking"]) this.set({ state }, measure.live[state] ?? 0);
      stuck.set(measure.stuck);
      overdue.set(measure.overdue_seconds);
      quarantined.set(measure.quarantined_targets);
    },
  });
  const depth = new Gauge({
    name: "mayfly_queue_depth",
    help: "Wake-up jobs by state.",
    labelNames: ["state"],
    registers: [],
    async collect() {
      const counts = await queue.depth().catch(() => undefined);
      this.reset();
      for (const [state, number] of Object.entries(counts ?? {})) this.set({ state }, number);
    },
  });
  registry.registerMetric(live);
  registry.registerMetric(depth);
}
