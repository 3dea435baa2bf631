import { execFile, spawn } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

/** Mayfly as a process of its own, with the PostgreSQL that it brings, in a directory that goes with it. */
export interface RunningMayfly extends AsyncDisposable {
  readonly url: string;
  /** What `mayfly admin-token` printed: enough for the first steps. */
  readonly adminToken: string;
}

const bin = new URL("../../dist/bin/mayfly.js", import.meta.url).pathname;

export async function startMayfly(): Promise<RunningMayfly> {
  const directory = await mkdtemp(join(tmpdir(), "mayfly-mcp-"));
  // PostgreSQL runs as another user when we are root, and must be able to pass through.
  await chmod(directory, 0o711);
  const port = await freePort();
  const env = {
    PATH: dirname(process.execPath),
    MAYFLY_DATA_DIR: join(directory, "data"),
    MAYFLY_PORT: String(port),
    MAYFLY_LOG_LEVEL: "info",
  };
  const child = spawn(process.execPath, ["--no-warnings", bin, "serve"], { env, stdio: ["ignore", "pipe", "inherit"] });
  await new Promise<void>((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`mayfly serve ended with ${code} before it was ready`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line.includes('"msg":"ready"')) resolve();
    });
  });
  const printed = await promisify(execFile)(process.execPath, ["--no-warnings", bin, "admin-token"], { env });
  return {
    url: `http://127.0.0.1:${port}`,
    adminToken: printed.stdout.trim(),
    async [Symbol.asyncDispose]() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await ended;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
