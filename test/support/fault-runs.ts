import { appendFileSync } from "node:fs";

/** What a run of a cell of a fault matrix saw that must not be. */
export interface Seen {
  /** What works although the fault is over and everything was taken back. */
  orphans: number;
  /** Times that something was called dead, by a revoke or a probe, and worked. */
  falseRevoked: number;
  /** Secrets that an error showed, and calls of a host that nobody named. */
  leaks: number;
}

/** What every run must have seen. */
export const nothing: Readonly<Seen> = { orphans: 0, falseRevoked: 0, leaks: 0 };

/** One run: `fault` in `call`. */
export interface FaultRun extends Seen {
  readonly issuer: string;
  readonly call: "inspect" | "mint" | "probe" | "revoke";
  readonly fault: string;
  readonly ms: number;
}

/** Tells `npm run bench -- faults` of a run. Without it, nobody listens. */
export function tellRun(run: FaultRun): void {
  const file = process.env["TEST_FAULTS_FILE"];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(run)}\n`);
}

/** How many of these secrets a text shows. Of several lines the longest is looked for: who prints them may escape their ends. */
export function countShown(secrets: readonly unknown[], text: string): number {
  const longest = (lines: readonly string[]): string => lines.reduce((a, b) => (b.length > a.length ? b : a), "");
  return secrets.filter((one) => typeof one === "string" && text.includes(longest(one.split("\n")))).length;
}

/** Numbers from 0 up to 1, the same ones for the same `TEST_FAULTS_SEED`. Undefined without one: everything in its order, at once. */
export function faultChance(): (() => number) | undefined {
  const text = process.env["TEST_FAULTS_SEED"];
  if (text === undefined) return undefined;
  let state = Number(text);
  // Mulberry32.
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
