import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Seconds of processor time, by who used them. Empty where there is no /proc. */
export type CpuTimes = Readonly<Record<string, number>>;

/** Linux counts in these, whatever its own tick. */
const TICKS_PER_SECOND = 100;

/** Processor time used so far by a server process and by its PostgreSQL, all backends together. */
export function cpuTimes(server: { readonly pid: number; readonly directory: string }): CpuTimes {
  try {
    const postmaster = Number(/^\d+/.exec(readFileSync(join(postgresData(server.directory), "postmaster.pid"), "utf8"))?.[0]);
    return { mayfly: ownTime(server.pid), postgres: treeTime(postmaster) };
  } catch {
    return {};
  }
}

export function processTime(pid: number): number {
  try {
    return ownTime(pid);
  } catch {
    return 0;
  }
}

function postgresData(directory: string): string {
  const home = join(directory, "data", "postgres");
  const { base } = JSON.parse(readFileSync(join(home, "embedded.json"), "utf8")) as { base: string };
  return join(base, "data");
}

function ownTime(pid: number): number {
  const [, , , , , , , , , , , utime = 0, stime = 0] = statOf(pid);
  return (utime + stime) / TICKS_PER_SECOND;
}

/** A postmaster's own, its living backends', and what it has inherited from those that ended. */
function treeTime(pid: number): number {
  const [, , , , , , , , , , , utime = 0, stime = 0, cutime = 0, cstime = 0] = statOf(pid);
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        return statOf(Number(name))[1] === pid ? [ownTime(Number(name))] : [];
      } catch {
        return [];
      }
    });
  return (utime + stime + cutime + cstime) / TICKS_PER_SECOND + children.reduce((sum, time) => sum + time, 0);
}

/** The fields of /proc/<pid>/stat from the state on (proc(5)); the name before it may hold anything. */
function statOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  return text.slice(text.lastIndexOf(")") + 2).split(" ").map(Number);
}
