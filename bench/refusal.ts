import { rmSync } from "node:fs";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Refusal } from "../test/support/refusals.ts";
import { failuresOf, jest, root } from "./support/jest.ts";
import type { BenchOptions } from "./support/options.ts";
import { percentile, round, table } from "./support/report.ts";

/** The promise of every kind that can take back, by its test's name. */
const TEST = "works from its issue until its revoke";

/**
 * How long after the call of a revoke a client is refused, for each kind of issuer, by the conformance suite: what it looks at is
 * a real client at a real far side, or at the fake that its page names. One of each a round.
 */
export async function benchRefusal({ rounds, issuer }: BenchOptions): Promise<object> {
  const directory = await mkdtemp(join(tmpdir(), "mayfly-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const told = join(directory, "refusals");
  const files: string[] = [];
  for (const name of await readdir(join(root, "test/issuers"))) {
    const path = join("test/issuers", name);
    const isSuite = name.endsWith(".test.ts") && name !== "template.test.ts";
    if (isSuite && (await readFile(join(root, path), "utf8")).includes("itIsAnIssuer(")) files.push(path);
  }
  for (let number = 1; number <= rounds; number += 1) {
    const report = join(directory, `report-${number}`);
    const args = [...files, "-t", TEST, "--json", "--outputFile", report];
    const { stderr } = await jest(args, { TEST_REFUSALS_FILE: told });
    const failed = failuresOf(await readFile(report, "utf8").catch(() => undefined), stderr);
    for (const text of failed) console.log(`FAILED ${text}\n`);
    if (failed.length > 0) process.exitCode = 1;
  }
  const lines = (await readFile(told, "utf8").catch(() => "")).split("\n").filter((line) => line !== "");
  const refusals = lines
    .map((line) => JSON.parse(line) as Refusal)
    .filter((one) => (issuer ?? one.issuer) === one.issuer);
  const kinds = [...new Set(refusals.map((one) => one.issuer))].sort();
  const figures = kinds.map((kind) => {
    const all = refusals
      .filter((one) => one.issuer === kind)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    return { kind, n: all.length, p50: round(percentile(all, 0.5)), max: round(all.at(-1) ?? 0) };
  });
  table(
    ["issuer", "revokes", "p50 ms", "max ms"],
    figures.map(({ kind, n, p50, max }) => [kind, n, p50, max]),
  );
  if (refusals.length === 0) process.exitCode = 1;
  return {
    bench: "refusal",
    kinds: kinds.length,
    revokes: refusals.length,
    max_ms: Math.max(0, ...figures.map(({ max }) => max)),
  };
}
