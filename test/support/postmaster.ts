import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The processes of an embedded PostgreSQL, to be mistreated. Linux alone. */
export interface Postmaster {
  /** Ends all of them at once (SIGKILL), as a power cut would. */
  kill(): void;
  /** Ends it without a checkpoint and without a word (`pg_ctl stop -m immediate`). */
  quit(): void;
  /** It keeps its connections and takes new ones, but answers nothing (SIGSTOP), until `thaw`. */
  freeze(): void;
  thaw(): void;
}

/** Of the server that {@link startEmbeddedPostgres} keeps in `directory`. */
export function postmasterOf(directory: string): Postmaster {
  const pid = (): number => {
    const { base } = JSON.parse(readFileSync(join(directory, "embedded.json"), "utf8"));
    return Number(readFileSync(join(base, "data", "postmaster.pid"), "utf8").split("\n")[0]);
  };
  let frozen: number[] = [];
  // It must not start another child between the listing and what is done to them.
  const stopped = (): number[] => {
    const parent = pid();
    signal(parent, "SIGSTOP");
    return [parent, ...childrenOf(parent)];
  };
  return {
    kill() {
      for (const one of stopped()) signal(one, "SIGKILL");
    },
    quit: () => signal(pid(), "SIGQUIT"),
    freeze() {
      frozen = stopped();
      for (const one of frozen) signal(one, "SIGSTOP");
    },
    thaw() {
      for (const one of frozen) signal(one, "SIGCONT");
    },
  };
}

/** A child of a server that is gone ends by itself, and may have before it is its turn. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

function childrenOf(parent: number): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ")[1] === String(parent);
    } catch {
      // It ended meanwhile.
      return false;
    }
  });
}
