import { spawn } from "node:child_process";
import { once } from "node:events";
import { openSync } from "node:fs";
import { chmod, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { endWith } from "./child.ts";
import { printProfile } from "./profile.ts";

/** `mayfly serve` as a user starts it, on a PostgreSQL of its own in a temporary directory: durable, logging. */
export interface Server extends AsyncDisposable {
  readonly pid: number;
  readonly port: number;
  readonly url: string;
  readonly directory: string;
  /** What a process needs in its environment to open the same deployment. */
  readonly env: Readonly<Record<string, string>>;
  /** Ends it. With `--profile` this is when the profile is printed. */
  stop(): Promise<void>;
}

const READY_WITHIN_MS = 120_000;

export async function startServer({ profile }: { readonly profile: boolean }): Promise<Server> {
  const bin = fileURLToPath(new URL("../../dist/bin/mayfly.js", import.meta.url));
  const directory = await mkdtemp(join(tmpdir(), "mayfly-bench-"));
  // PostgreSQL is another user when this runs as root, and must be able to pass through.
  await chmod(directory, 0o711);
  const env = { MAYFLY_DATA_DIR: join(directory, "data"), MAYFLY_PORT: "0", NODE_ENV: "production" };
  const output = join(directory, "server.log");
  const log = openSync(output, "a");
  const flags = profile ? ["--cpu-prof", "--cpu-prof-dir", join(directory, "profile")] : [];
  const child = spawn(process.execPath, ["--no-warnings", ...flags, bin, "serve"], {
    cwd: directory,
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdio: ["ignore", log, log],
  });
  endWith(child);
  const exited = once(child, "exit");
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await exited;
    }
    for (const file of profile ? await readdir(join(directory, "profile")) : [])
      printProfile(await readFile(join(directory, "profile", file), "utf8"));
    await rm(directory, { recursive: true, force: true });
  };
  for (const startedAt = performance.now(); ; await sleep(50)) {
    const lines = (await readFile(output, "utf8")).split("\n");
    const ready = lines.find((line) => line.includes('"msg":"ready"'));
    if (ready !== undefined) {
      const { url, port } = JSON.parse(ready) as { url: string; port: number };
      return { pid: child.pid ?? 0, port, url, directory, env, stop, [Symbol.asyncDispose]: stop };
    }
    if (child.exitCode !== null || performance.now() - startedAt > READY_WITHIN_MS) {
      await stop();
      throw new Error(`mayfly serve did not start:\n${lines.join("\n")}`);
    }
  }
}
