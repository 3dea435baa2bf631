import { spawn } from "node:child_process";
import { once } from "node:events";

/** A Node process that runs a script of a test. Killed when disposed: one left over would keep Jest from ending. */
export interface NodeProcess extends AsyncDisposable {
  readonly pid: number;
  /** Its next line of standard output, which must be JSON. Rejects, with what it said, when it ends without. */
  line(): Promise<Record<string, unknown>>;
  kill(): Promise<void>;
}

/** Starts `script` (an ES module) in a process of its own. */
export async function startNode(script: string): Promise<NodeProcess> {
  const child = spawn(process.execPath, ["--input-type=module", "--no-warnings", "-e", script], {
    cwd: process.env["TEST_RUN_DIRECTORY"],
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "exit");
  let output = "";
  let taken = 0;
  let ended = false;
  let wake = (): void => undefined;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      wake();
    });
  }
  child.on("close", () => {
    ended = true;
    wake();
  });
  await once(child, "spawn");
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  return {
    pid: child.pid ?? 0,
    async line() {
      for (;;) {
        const end = output.indexOf("\n", taken);
        if (end >= 0) {
          const text = output.slice(taken, end);
          taken = end + 1;
          if (text.startsWith("{")) return JSON.parse(text) as Record<string, unknown>;
        } else if (ended) {
          throw new Error(`the script ended without the line:\n${output}`);
        } else {
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    },
    kill,
    [Symbol.asyncDispose]: kill,
  };
}
