import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Seconds of processor time, by who used them. Empty where there is no /proc. */
export type CpuTimes = Readonly<Record<string, number>>;

/** Linux counts in these, whatever its own tick. */
const TICKS_PER_SECOND = 100;

/** Processor time used so far by a server process and by its PostgreSQL, all backends together. */
export function cpuTimes(server: { readonly pid: number; readonly directory: string }): CpuTimes {
  try {
    const postmaster = Number(
      /^\d+/.exec(readFileSync(join(postgresData(server.directory), "postmaster.pid"), "utf8"))?.[0],
    );
    return { mayfly: statOf(server.pid).own, postgres: treeTime(postmaster) };
  } catch {
    return {};
  }
}

export function processTime(pid: number): number {
  try {
    return statOf(pid).own;
  } catch {
    return 0;
  }
}

function postgresData(directory: string): string {
  const home = join(directory, "data", "postgres");
  const { base } = JSON.parse(readFileSync(join(home, "embedded.json"), "utf8")) as { base: string };
  return join(base, "data");
}

/** A postmaster's own, its living backends', and what it has inherited from those that ended. */
function treeTime(pid: number): number {
  const { own, inherited } = statOf(pid);
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = statOf(Number(name));
        return stat.parent === pid ? [stat.own] : [];
      } catch {
        return [];
      }
    });
  return own + inherited + children.reduce((sum, time) => sum + time, 0);
}

function statOf(pid: number): { readonly parent: number; readonly own: number; readonly inherited: number } {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  // proc(5), from the third field on: the second is a name, which may hold anything.
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const seconds = (first: number): number => ((fields[first] ?? 0) + (fields[first + 1] ?? 0)) / TICKS_PER_SECOND;
  return { parent: fields[1] ?? 0, own: seconds(11), inherited: seconds(13) };
}
