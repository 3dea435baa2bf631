import { setTimeout as sleep } from "node:timers/promises";
import { mintMany, post, tokenFor } from "./support/call.ts";
import { askLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { median, round, table } from "./support/report.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { type Server, startServer } from "./support/server.ts";

const TARGETS = 5;
const CREDENTIALS = 200;
const PROVEN_WITHIN_MS = 120_000;

/**
 * The kill switch: an agent with logins at five targets is killed by one order. From sending the order to its answer, from
 * which on nothing is issued to it; to the first login that is proven dead; and to the last.
 */
export async function benchKill(options: BenchOptions): Promise<object> {
  const count = options.n ?? CREDENTIALS;
  await using server = await startServer(options);
  const seeded = await seed(server, { postgresTargets: TARGETS });
  const rounds = [];
  for (let number = 0; number < options.rounds; number += 1) {
    const caller = seeded.callers[number % seeded.callers.length];
    if (caller === undefined) throw new Error("nobody was seeded");
    await Promise.all(
      seeded.postgresTargets.map((target) =>
        mintMany(server, { ...seeded, callers: [caller] }, { count: count / TARGETS, target, ttl: 300, width: 4 }),
      ),
    );
    rounds.push(await kill(server, seeded, caller.agentId, count));
  }
  table(
    ["round", "credentials", "answered ms", "first proof ms", "last proof ms"],
    rounds.map((done, index) => [index + 1, count, round(done.answered), round(done.first), round(done.last)]),
  );
  return {
    bench: "kill",
    targets: TARGETS,
    n: count,
    answered_ms: round(median(rounds.map(({ answered }) => answered))),
    first_proof_ms: round(median(rounds.map(({ first }) => first))),
    last_proof_ms: round(median(rounds.map(({ last }) => last))),
  };
}

interface Killed {
  readonly answered: number;
  readonly first: number;
  readonly last: number;
}

async function kill(server: Server, seeded: Seeded, agentId: string, count: number): Promise<Killed> {
  const orderedAt = Date.now();
  const { matched } = await post<{ matched: number }>(
    server,
    tokenFor(seeded, seeded.orchestratorSub),
    "/v1/revocations",
    { selector: { agent_id: agentId }, reason: "benchmark", block_seconds: 1 },
  );
  const answered = Date.now() - orderedAt;
  if (matched !== count) throw new Error(`${matched} of ${count} logins were alive when they were killed`);
  for (const startedAt = performance.now(); ; await sleep(50)) {
    const { left, first, last } = await askLedger<{ left: number; first: number; last: number }>(
      seeded,
      `select count(*) filter (where due_at is not null)::int as left,
         (extract(epoch from min((receipt ->> 'proven_at')::timestamptz)) * 1000)::float8 as first,
         (extract(epoch from max((receipt ->> 'proven_at')::timestamptz)) * 1000)::float8 as last
       from mayfly.credentials where agent_id = $1`,
      [agentId],
    );
    if (left === 0) return { answered, first: first - orderedAt, last: last - orderedAt };
    if (performance.now() - startedAt > PROVEN_WITHIN_MS)
      throw new Error(`${left} are not proven dead after two minutes`);
  }
}
