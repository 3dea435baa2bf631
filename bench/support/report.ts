import { execFileSync } from "node:child_process";
import { readFileSync, statfsSync } from "node:fs";
import { cpus, loadavg, tmpdir, totalmem } from "node:os";

// statfs(2) magic numbers of file systems on which fsync() means nothing, or little.
const MEMORY_FILE_SYSTEMS = new Set([0x01021994, 0x858458f6]);

/** The first line of every report: what was measured on. */
export function machine(): string {
  const [cpu] = cpus();
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const load = loadavg()[0] ?? 0;
  const inMemory = MEMORY_FILE_SYSTEMS.has(statfsSync(tmpdir()).type);
  return [
    `mayfly ${version}${commit()}, node ${process.version}, ${process.platform} ${process.arch}`,
    `${cpus().length} × ${cpu?.model ?? "?"}, ${Math.round(totalmem() / 2 ** 30)} GiB, load before the run ${load.toFixed(1)}`,
    ...(load > cpus().length / 4 ? ["! something else is running on this machine: trust ratios, not rates"] : []),
    ...(inMemory ? [`! ${tmpdir()} is in memory, so fsync costs nothing here: set TMPDIR to a disk`] : []),
  ].join("\n");
}

function commit(): string {
  try {
    return ` (${execFileSync("git", ["rev-parse", "--short", "HEAD"], { stdio: ["ignore", "pipe", "ignore"] })
      .toString()
      .trim()})`;
  } catch {
    return "";
  }
}

/** Nearest rank of sorted numbers: the smallest value that at least this share of them does not exceed. */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return Number.isInteger(middle)
    ? ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
    : (sorted[Math.floor(middle)] ?? 0);
}

export function round(value: number, digits = 0): number {
  return Number(value.toFixed(digits));
}

/** Prints rows under their column names, numbers to the right. */
export function table(columns: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const cells = [columns, ...rows.map((row) => row.map(String))];
  const widths = columns.map((_, index) => Math.max(...cells.map((row) => row[index]?.length ?? 0)));
  const isText = columns.map((_, index) => rows.some((row) => typeof row[index] === "string"));
  for (const row of cells) {
    const line = row.map((cell, index) =>
      isText[index] ? cell.padEnd(widths[index] ?? 0) : cell.padStart(widths[index] ?? 0),
    );
    console.log(`  ${line.join("  ").trimEnd()}`);
  }
  console.log("");
}
