import { randomInt } from "node:crypto";
import { rmSync } from "node:fs";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FaultRun } from "../test/support/fault-runs.ts";
import { failuresOf, jest, root } from "./support/jest.ts";
import type { BenchOptions } from "./support/options.ts";
import { round, table } from "./support/report.ts";

const CRASHES = "test/faults/crash-matrix.test.ts";
/** What a suite needs that not every machine has, by the word in its name. */
const programs: Readonly<Record<string, string>> = { redis: "redis-server", mariadb: "mariadbd" };

/** A suite that puts one kind of issuer through the faults of its far side. */
interface Suite {
  readonly kind: string;
  readonly file: string;
  /** A program that must be installed, or Jest does not run it. */
  readonly needs: string | undefined;
}

/**
 * The fault matrices of the tests, again and again: every fault of every far side in mints, probes and revokes, and `kill -9` at
 * every step of mints and revokes. Each round has its faults in another order, and each comes a little later or sooner; its seed
 * is printed. A test that fails is named, and the process ends with 1.
 */
export async function benchFaults({ rounds, issuer }: BenchOptions): Promise<object> {
  const suites = (await suitesOf()).filter(({ kind }) => issuer === undefined || kind === issuer);
  if (suites.length === 0) throw new Error(`no faults for an issuer ${issuer}`);
  const directory = await mkdtemp(join(tmpdir(), "mayfly-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const listed = await jest(["--listTests", ...suites.map(({ file }) => file)], {});
  process.stderr.write(listed.stderr);
  const here = suites.filter(({ file }) => listed.stdout.includes(file));
  const files = here.length === 0 ? [] : [...here.map(({ file }) => file), CRASHES];
  const only = issuer === undefined ? {} : { TEST_FAULTS_ISSUER: issuer };
  const runs: FaultRun[] = [];
  let failures = 0;
  for (let number = 1; files.length > 0 && number <= rounds; number += 1) {
    const seed = String(randomInt(2 ** 31));
    console.log(`round ${number} of ${rounds}: TEST_FAULTS_SEED=${seed}`);
    const [report, told] = [join(directory, `report-${number}`), join(directory, `runs-${number}`)];
    const env = { ...only, TEST_FAULTS_SEED: seed, TEST_FAULTS_FILE: told };
    const { stderr } = await jest([...files, "--json", "--outputFile", report], env);
    const failed = failuresOf(await readFile(report, "utf8").catch(() => undefined), stderr);
    for (const text of failed) console.log(`FAILED ${text}\n`);
    failures += failed.length;
    const lines = (await readFile(told, "utf8").catch(() => "")).split("\n").filter((line) => line !== "");
    runs.push(...lines.map((line) => JSON.parse(line) as FaultRun));
    const { runs: so, orphans, falseRevoked, leaks } = sum(runs);
    console.log(
      `  so far ${so} runs: ${orphans} orphans, ${falseRevoked} false revoked, ${leaks} leaks, ${failures} failures`,
    );
  }
  const rows = suites.map((suite) => ({ suite, ...sum(runs.filter((run) => run.issuer === suite.kind)) }));
  table(
    ["issuer", "cells", "runs", "orphans", "false revoked", "leaks", "seconds"],
    rows.map(({ suite, cells, runs: count, orphans, falseRevoked, leaks, ms }) => {
      const why = suite.needs === undefined ? "" : `: no ${suite.needs} here`;
      const name = here.includes(suite) ? suite.kind : `${suite.kind} (not run${why})`;
      return [name, cells, count, orphans, falseRevoked, leaks, round(ms / 1000)];
    }),
  );
  const silent = rows.filter(({ suite, runs: count }) => count === 0 && here.includes(suite));
  for (const { suite } of silent) console.log(`FAILED ${suite.file}: it told of no run\n`);
  if (failures + silent.length > 0 || here.length === 0) process.exitCode = 1;
  const { cells, runs: count, orphans, falseRevoked, leaks } = sum(runs);
  return { bench: "faults", cells, runs: count, orphans, false_revoked: falseRevoked, leaks };
}

async function suitesOf(): Promise<Suite[]> {
  const names = (await readdir(join(root, "test/issuers"))).map((name) =>
    /^(.+)-faults(?:\.(\w+))?\.test\.ts$/.exec(name),
  );
  return names.flatMap((match) =>
    match === null
      ? []
      : [{ kind: match[1] ?? "", file: `test/issuers/${match[0]}`, needs: programs[match[2] ?? ""] ?? match[2] }],
  );
}

function sum(runs: readonly FaultRun[]) {
  const total = (of: (run: FaultRun) => number): number => runs.reduce((so, run) => so + of(run), 0);
  return {
    cells: new Set(runs.map(({ issuer, call, fault }) => `${issuer} ${call} ${fault}`)).size,
    runs: runs.length,
    orphans: total(({ orphans }) => orphans),
    falseRevoked: total(({ falseRevoked }) => falseRevoked),
    leaks: total(({ leaks }) => leaks),
    ms: total(({ ms }) => ms),
  };
}
