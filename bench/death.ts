import { setTimeout as sleep } from "node:timers/promises";
import { mintMany } from "./support/call.ts";
import { cpuTimes } from "./support/cpu.ts";
import { askLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { percentile, round, table } from "./support/report.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { startServer } from "./support/server.ts";

/** From the seeding to the common end: time to mint them all, under the five minutes that the default policies allow. */
const ENDS_IN_SECONDS = 45;
const GIVE_UP_SECONDS = 120;

/**
 * Credentials whose purpose ends in the same second, so all of them do; nobody takes them back. The lag is the
 * ledger's: from `expires_at` to the receipt's `proven_at`.
 */
export async function benchDeath(options: BenchOptions): Promise<object> {
  const { issuer } = options;
  if (issuer !== "jwt" && issuer !== "postgres") throw new Error("--issuer is jwt or postgres");
  const count = options.n ?? (issuer === "jwt" ? 2_000 : 200);
  await using server = await startServer(options);
  const endsAt = new Date(Math.ceil(Date.now() / 1000 + ENDS_IN_SECONDS) * 1000);
  const seeded = await seed(server, { endsAt });
  await mintMany(server, seeded, { count, target: seeded.targets[issuer], ttl: 300, width: options.connections });
  const spare = endsAt.getTime() - Date.now();
  if (spare < 2_000) throw new Error(`minting ${count} took too long: the first had ended before the last was made`);
  await sleep(spare - 1_000);
  const before = cpuTimes(server);
  await sleep(1_000);
  const ends = await allDead(seeded, count);
  const after = cpuTimes(server);
  const lags = ends.lags.toSorted((a, b) => a - b);
  const histogram = [50, 100, 200, 500, 1_000, 2_000, 5_000, Number.POSITIVE_INFINITY];
  table(
    ["lag at most ms", "credentials"],
    histogram.map((most) => [Number.isFinite(most) ? most : "more", lags.filter((lag) => lag <= most).length]),
  );
  table(
    ["process", "CPU seconds"],
    Object.keys(after).map((name) => [name, round((after[name] ?? 0) - (before[name] ?? 0), 2)]),
  );
  console.log(
    `all ${count} ended at ${endsAt.toISOString()}, as ${ends.states.join(", ")}; probes: ${ends.probes.join(", ")}\n`,
  );
  return {
    bench: "death",
    issuer,
    n: count,
    lag_ms: {
      p50: round(percentile(lags, 0.5)),
      p99: round(percentile(lags, 0.99)),
      max: round(lags.at(-1) ?? Number.NaN),
    },
  };
}

interface Ends {
  readonly lags: readonly number[];
  readonly states: readonly string[];
  readonly probes: readonly string[];
}

async function allDead(seeded: Seeded, count: number): Promise<Ends> {
  // Seldom, because a reader of the ledger is load too.
  for (const startedAt = performance.now(); ; await sleep(500)) {
    const { dead } = await askLedger<{ dead: number }>(
      seeded,
      "select count(*)::int as dead from mayfly.credentials where due_at is null",
    );
    if (dead === count) break;
    if (performance.now() - startedAt > GIVE_UP_SECONDS * 1000)
      throw new Error(`${dead} of ${count} are dead after two minutes`);
  }
  const ends = await askLedger<{ lags: number[]; states: string[]; probes: string[]; seconds: number }>(
    seeded,
    `select array_agg((extract(epoch from (receipt ->> 'proven_at')::timestamptz - expires_at) * 1000)::float8) as lags,
       array_agg(distinct state) as states, array_agg(distinct receipt ->> 'probe') as probes,
       count(distinct expires_at)::int as seconds from mayfly.credentials`,
  );
  if (ends.seconds !== 1) throw new Error("they did not all end in the same second");
  return ends;
}
