import { setTimeout as sleep } from "node:timers/promises";
import { mintMany, post, tokenFor } from "./support/call.ts";
import { cpuTimes } from "./support/cpu.ts";
import { askLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { percentile, round, table } from "./support/report.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { type Server, startServer } from "./support/server.ts";

/** From the seeding to the common end: time to mint them all, under the five minutes that the default policies allow. */
const AT_LEAST_SECONDS = 45;
const AT_MOST_SECONDS = 270;
/** Fewer than any machine was seen to mint. */
const MINTS_PER_SECOND: Readonly<Record<string, number>> = { jwt: 200, postgres: 30 };
const GIVE_UP_SECONDS = 180;
/** How long new mints are looked at before everything ends. */
const QUIET_MS = 15_000;
/** New mints of each kind per second, beside the dying: a tenth of what the machine can do. */
const NEW_PER_SECOND = 10;

/**
 * Credentials whose purpose ends in the same second, so all of them do; nobody takes them back. The lag is the
 * ledger's: from `expires_at` to the receipt's `proven_at`. Beside them, somebody goes on minting, a login and a token in
 * turn at a steady rate: what each of these took before the end, and while the others died.
 */
export async function benchDeath(options: BenchOptions): Promise<object> {
  const { issuer = "jwt" } = options;
  if (issuer !== "jwt" && issuer !== "postgres") throw new Error("--issuer is jwt or postgres");
  const count = options.n ?? (issuer === "jwt" ? 2_000 : 200);
  const seconds = Math.max(AT_LEAST_SECONDS, count / (MINTS_PER_SECOND[issuer] ?? 1) + QUIET_MS / 1000 + 5);
  if (seconds > AT_MOST_SECONDS) throw new Error(`--n ${count} takes longer to mint than a credential may live`);
  await using server = await startServer(options);
  const endsAt = new Date(Math.ceil(Date.now() / 1000 + seconds) * 1000);
  const seeded = await seed(server, { endsAt });
  const dying = { ...seeded, callers: seeded.callers.slice(1) };
  await mintMany(server, dying, { count, target: seeded.targets[issuer], ttl: 300, width: options.connections });
  const spare = endsAt.getTime() - Date.now() - QUIET_MS;
  if (spare < 0) throw new Error(`minting ${count} took too long: the first had ended before the last was made`);
  await sleep(spare);
  const beside = startMinting(server, seeded);
  await sleep(QUIET_MS);
  const before = cpuTimes(server);
  const quiet = beside.taken();
  const ends = await allDead(seeded, count);
  const after = cpuTimes(server);
  const busy = beside.taken();
  await beside.stop();
  const lags = ends.lags.toSorted((a, b) => a - b);
  const histogram = [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, Number.POSITIVE_INFINITY];
  table(
    ["lag at most ms", "credentials"],
    histogram.map((most) => [Number.isFinite(most) ? most : "more", lags.filter((lag) => lag <= most).length]),
  );
  table(
    ["new mints of", "before: p50 ms", "p99 ms", "while they die: p50 ms", "p99 ms", "mints"],
    (["jwt", "postgres"] as const).map((kind) => [
      kind,
      ...[quiet, busy].flatMap((taken) => [0.5, 0.99].map((q) => round(percentile(taken[kind], q)))),
      quiet[kind].length + busy[kind].length,
    ]),
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
    new_mints_p99_ratio: {
      jwt: round(percentile(busy.jwt, 0.99) / percentile(quiet.jwt, 0.99), 2),
      postgres: round(percentile(busy.postgres, 0.99) / percentile(quiet.postgres, 0.99), 2),
    },
  };
}

/** The first caller's mints at a steady rate, each sent when it is due whether or not the one before was answered. */
function startMinting(server: Server, seeded: Seeded) {
  const [caller] = seeded.callers;
  if (caller === undefined) throw new Error("nobody was seeded");
  const token = tokenFor(seeded, caller.sub);
  let taken: Record<"jwt" | "postgres", number[]> = { jwt: [], postgres: [] };
  const sent = new Set<Promise<void>>();
  const mint = async (kind: "jwt" | "postgres"): Promise<void> => {
    const startedAt = performance.now();
    await post(server, token, "/v1/credentials", {
      task_id: caller.taskId,
      target: seeded.targets[kind],
      actions: ["read"],
      resources: [seeded.resource],
      ttl_seconds: 300,
    });
    taken[kind].push(performance.now() - startedAt);
  };
  let failure: unknown;
  const timer = setInterval(() => {
    for (const kind of ["jwt", "postgres"] as const) {
      const one = mint(kind)
        .catch((error: unknown) => (failure ??= error))
        .finally(() => sent.delete(one)) as Promise<void>;
      sent.add(one);
    }
  }, 1000 / NEW_PER_SECOND);
  return {
    /** Milliseconds of each since the last call, ascending. */
    taken() {
      const since = taken;
      taken = { jwt: [], postgres: [] };
      return { jwt: since.jwt.toSorted((a, b) => a - b), postgres: since.postgres.toSorted((a, b) => a - b) };
    },
    async stop() {
      clearInterval(timer);
      await Promise.all(sent);
      if (failure !== undefined) throw failure;
    },
  };
}

interface Ends {
  readonly lags: readonly number[];
  readonly states: readonly string[];
  readonly probes: readonly string[];
}

async function allDead(seeded: Seeded, count: number): Promise<Ends> {
  const lasting = seeded.callers[0]?.agentId;
  // Seldom, because a reader of the ledger is load too.
  for (const startedAt = performance.now(); ; await sleep(500)) {
    const { dead } = await askLedger<{ dead: number }>(
      seeded,
      "select count(*)::int as dead from mayfly.credentials where due_at is null and agent_id <> $1",
      [lasting],
    );
    if (dead === count) break;
    if (performance.now() - startedAt > GIVE_UP_SECONDS * 1000)
      throw new Error(`${dead} of ${count} are dead after ${GIVE_UP_SECONDS} s`);
  }
  const ends = await askLedger<{ lags: number[]; states: string[]; probes: string[]; seconds: number }>(
    seeded,
    `select array_agg((extract(epoch from (receipt ->> 'proven_at')::timestamptz - expires_at) * 1000)::float8) as lags,
       array_agg(distinct state) as states, array_agg(distinct receipt ->> 'probe') as probes,
       count(distinct expires_at)::int as seconds from mayfly.credentials where agent_id <> $1`,
    [lasting],
  );
  if (ends.seconds !== 1) throw new Error("they did not all end in the same second");
  return ends;
}
