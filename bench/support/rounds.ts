import type { Helper } from "./child.ts";
import { type CpuTimes, cpuTimes, processTime } from "./cpu.ts";
import type { Prepare, Round, RunRound } from "./load.ts";
import { median, percentile, round, table } from "./report.ts";
import type { Recipe } from "./requests.ts";
import type { Seeded } from "./seed.ts";
import type { Server } from "./server.ts";

/** One of the things that are measured against each other. */
export interface Side {
  readonly name: string;
  readonly port: number;
  /** Made anew for every round: tokens age. */
  readonly recipe: () => Recipe | Promise<Recipe>;
  /** Throws unless the body of an answer is what it should be. */
  readonly check: (body: string) => void;
  /** Processor time so far, by process. */
  readonly cpu: () => CpuTimes;
}

/** What one side did in all its rounds. */
export interface Measured {
  /** Answers per second: the median over the rounds. */
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** Answers of 2xx in all, the warm-up included. */
  readonly answered: number;
}

interface Load {
  readonly seconds: number;
  readonly rounds: number;
  readonly connections: number;
}

interface Tally {
  readonly rounds: Round[];
  readonly cpu: Record<string, number>;
  answered: number;
}

/** The longest warm-up: compilers and caches, not a measurement. */
const WARM_UP_SECONDS = 3;

/**
 * Measures sides in turn, A B A B, so that what else the machine does hits all of them alike, after one round each that
 * does not count. Prints every round. Throws when anything was answered with an error: a rate of refusals is no rate.
 */
export async function measure(load: Helper, sides: readonly Side[], options: Load): Promise<readonly Measured[]> {
  const tallies = new Map<Side, Tally>(sides.map((side) => [side, { rounds: [], cpu: {}, answered: 0 }]));
  for (let number = 0; number <= options.rounds; number += 1) {
    for (const side of sides) {
      const tally = tallies.get(side);
      if (tally === undefined) continue;
      const warmUp = number === 0;
      await load.ask({ do: "prepare", recipe: await side.recipe() } satisfies Prepare);
      const before = side.cpu();
      const seconds = warmUp ? Math.min(WARM_UP_SECONDS, options.seconds) : options.seconds;
      const done = await load.ask<Round>({
        do: "run",
        port: side.port,
        connections: options.connections,
        seconds,
      } satisfies RunRound);
      const after = side.cpu();
      if (done.failed > 0)
        throw new Error(
          `${side.name}: ${done.failed} of ${done.failed + done.answered} failed, first: ${done.failure}`,
        );
      side.check(done.sample);
      tally.answered += done.answered;
      if (warmUp) continue;
      tally.rounds.push(done);
      for (const [name, time] of Object.entries(after))
        tally.cpu[name] = (tally.cpu[name] ?? 0) + time - (before[name] ?? 0);
      tally.cpu["load generator"] = (tally.cpu["load generator"] ?? 0) + done.cpuSeconds;
    }
  }
  printRounds(tallies);
  printCpu(tallies);
  return [...tallies.values()].map(summarise);
}

function summarise({ rounds, answered }: Tally): Measured {
  const latencies = Float64Array.from(rounds.flatMap((done) => [...done.latencies])).sort();
  return {
    perSecond: median(rounds.map((done) => done.answered / done.seconds)),
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
    answered,
  };
}

function printRounds(tallies: ReadonlyMap<Side, Tally>): void {
  const rows = [...tallies].flatMap(([{ name }, { rounds }]) =>
    rounds.map(({ answered, seconds, latencies }, index) => [
      name,
      index + 1,
      round(answered / seconds),
      round(percentile(latencies, 0.5), 1),
      round(percentile(latencies, 0.99), 1),
      round(latencies.at(-1) ?? 0, 1),
    ]),
  );
  table(["", "round", "per second", "p50 ms", "p99 ms", "max ms"], rows);
}

function printCpu(tallies: ReadonlyMap<Side, Tally>): void {
  const rows = [...tallies].flatMap(([{ name }, { rounds, cpu }]) => {
    const answered = rounds.reduce((sum, done) => sum + done.answered, 0);
    const seconds = rounds.reduce((sum, done) => sum + done.seconds, 0);
    return Object.entries(cpu).map(([process, time]) => [
      name,
      process,
      round((time / answered) * 1e6),
      round((time / seconds) * 100),
    ]);
  });
  if (rows.length > 0) table(["", "process", "µs of CPU each", "% of a core"], rows);
}

/** Mints of JWTs, as one side. `fresh`: how many requests a round may need, each with a token of its own; 0 to reuse tokens. */
export function mintSide(
  server: Server,
  seeded: Seeded,
  options: { readonly ttl: number; readonly fresh: number },
): Side {
  return {
    name: "mint",
    port: server.port,
    recipe: () => ({ kind: "mint", host: new URL(server.url).host, target: seeded.targets.jwt, ...seeded, ...options }),
    check(body) {
      const { secret } = JSON.parse(body) as { secret: { access_token: string } };
      if (secret.access_token.split(".").length !== 3) throw new Error(`not a mint: ${body}`);
    },
    cpu: () => cpuTimes(server),
  };
}

/** Processor time of a helper that serves. */
export function helperCpu(name: string, { pid }: Helper): () => CpuTimes {
  return () => ({ [name]: processTime(pid) });
}
