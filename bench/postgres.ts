import { setTimeout as sleep } from "node:timers/promises";
import { mintMany, post, tokenFor } from "./support/call.ts";
import { cpuTimes } from "./support/cpu.ts";
import { askLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { median, percentile, round, table } from "./support/report.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { type Server, startServer } from "./support/server.ts";

/** Roles of a round. All are alive together, then killed together. */
const ROLES = 300;
const POLL_MS = 50;
const PROVEN_WITHIN_MS = 120_000;

/**
 * PostgreSQL roles, minted over HTTP into a database of the same server (so its DDL and our ledger share two cores and
 * one disk), then taken back by one kill: from the order to the last receipt.
 */
export async function benchPostgres(options: BenchOptions): Promise<object> {
  await using server = await startServer(options);
  const seeded = await seed(server);
  const count = options.n ?? ROLES;
  // Connects, prepares and compiles; not measured.
  await runRound(server, seeded, Math.ceil(count / 5), options.connections);
  const rounds = [];
  for (let number = 1; number <= options.rounds; number += 1)
    rounds.push(await runRound(server, seeded, count, options.connections));
  table(
    ["round", "roles", "mints/s", "proven revokes/s", "receipt lag p50 ms", "p99 ms", "mayfly CPU s", "postgres CPU s"],
    rounds.map((done, index) => [
      index + 1,
      count,
      round(count / done.mintSeconds, 1),
      round(count / done.revokeSeconds, 1),
      round(percentile(done.lags, 0.5)),
      round(percentile(done.lags, 0.99)),
      round(done.mayfly, 1),
      round(done.postgres, 1),
    ]),
  );
  return {
    bench: "postgres",
    mints_per_s: round(median(rounds.map(({ mintSeconds }) => count / mintSeconds)), 1),
    proven_revokes_per_s: round(median(rounds.map(({ revokeSeconds }) => count / revokeSeconds)), 1),
  };
}

interface PostgresRound {
  readonly mintSeconds: number;
  /** From sending the order to the last receipt, by the ledger's clock, which is this machine's. */
  readonly revokeSeconds: number;
  readonly lags: readonly number[];
  readonly mayfly: number;
  readonly postgres: number;
}

async function runRound(server: Server, seeded: Seeded, count: number, connections: number): Promise<PostgresRound> {
  // The kill switch of the round before lets nothing new through for a second.
  await sleep(1_100);
  const before = cpuTimes(server);
  const startedAt = performance.now();
  const target = seeded.targets.postgres;
  const minted = await mintMany(server, seeded, { count, target, ttl: 300, width: connections });
  const mintSeconds = (performance.now() - startedAt) / 1000;

  const orderedAt = Date.now();
  const order = { selector: { target_id: target }, reason: "benchmark", block_seconds: 1 };
  const { matched } = await post<{ matched: number }>(
    server,
    tokenFor(seeded, seeded.orchestratorSub),
    "/v1/revocations",
    order,
  );
  if (matched !== count) throw new Error(`${matched} of ${count} roles were alive when they were killed`);
  const ids = minted.map(({ credential }) => credential.id);
  const { last, lags } = await provenDead(seeded, ids);
  const after = cpuTimes(server);
  const spent = (name: string): number => (after[name] ?? 0) - (before[name] ?? 0);
  return {
    mintSeconds,
    revokeSeconds: (last - orderedAt) / 1000,
    lags,
    mayfly: spent("mayfly"),
    postgres: spent("postgres"),
  };
}

/** Waits until every one is `revoked` with a receipt, and no role of theirs is left. Throws for any other end. */
async function provenDead(seeded: Seeded, ids: readonly string[]): Promise<{ last: number; lags: readonly number[] }> {
  for (const startedAt = performance.now(); ; await sleep(POLL_MS)) {
    const { left } = await askLedger<{ left: number }>(
      seeded,
      "select count(*)::int as left from mayfly.credentials where id = any ($1) and due_at is not null",
      [ids],
    );
    if (left === 0) break;
    if (performance.now() - startedAt > PROVEN_WITHIN_MS)
      throw new Error(`${left} roles are not proven dead after two minutes`);
  }
  const { proven, last, lags, roles } = await askLedger<{
    proven: number;
    last: number;
    lags: number[];
    roles: number;
  }>(
    seeded,
    `select count(*) filter (where state = 'revoked' and receipt ->> 'probe' = 'pg_catalog')::int as proven,
       (extract(epoch from max((receipt ->> 'proven_at')::timestamptz)) * 1000)::float8 as last,
       array_agg((receipt ->> 'lag_ms')::int order by (receipt ->> 'lag_ms')::int) as lags,
       (select count(*)::int from pg_roles where rolname like 'mfy\\_%') as roles
     from mayfly.credentials where id = any ($1)`,
    [ids],
  );
  if (proven !== ids.length || roles !== 0)
    throw new Error(`${proven} of ${ids.length} are proven, ${roles} roles are left`);
  return { last, lags };
}
