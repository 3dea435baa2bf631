import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "@jest/globals";

// Design §5: on Node 20, V8's inlining of calls into WebAssembly ends the process ("unreachable code").
const hasTheDefect = process.versions.node.startsWith("20.");
// Sharing two cores with other tests is what takes the time.
const PATIENCE_MS = 600_000;

async function run(script: string, ...args: string[]): Promise<unknown> {
  const file = fileURLToPath(new URL(script, import.meta.url));
  const options = { env: { ...process.env, NODE_OPTIONS: "" } };
  const { stdout } = await promisify(execFile)(process.execPath, ["--no-warnings", file, ...args], options);
  return JSON.parse(stdout);
}

describe("a process that decides", () => {
  test(
    "survives 50,000 decisions under concurrent HTTP load",
    async () => {
      expect(await run("decide-under-load.mjs", "50000")).toEqual({ decided: 50_000, allowed: 50_000 });
    },
    PATIENCE_MS,
  );

  test(
    "survives leaving optimized code in the middle of a call to Cedar",
    async () => {
      expect(await run("deoptimize-in-cedar.mjs")).toEqual({ before: 2, during: 3, after: 3 });
    },
    PATIENCE_MS,
  );

  // Without this one, nobody would notice that the one above has stopped testing anything.
  (hasTheDefect ? test : test.skip)(
    "would not without the flag, on Node 20",
    async () => {
      await expect(run("deoptimize-in-cedar.mjs", "without-flag")).rejects.toMatchObject({
        stderr: expect.stringContaining("unreachable code"),
      });
    },
    PATIENCE_MS,
  );
});
