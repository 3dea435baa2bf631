import { readFile, readlink, realpath, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { isAlive } from "./directory-lock.ts";
import { run } from "./embedded-binaries.ts";

/** What `postmaster.pid` of a data directory stands for. `stale`: a living process that is not its server. */
export type Postmaster = { kind: "live"; port: number } | { kind: "none" } | { kind: "stale" };

/**
 * The server of a data directory: `live` is proven by logging in and asking for its data directory, and a server that
 * is starting or stopping is waited for. Rejects when a process that is its server does not answer within `timeoutMs`.
 */
export async function findPostmaster(data: string, superuserPassword: string, timeoutMs: number): Promise<Postmaster> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const lines = (await readFile(join(data, "postmaster.pid"), "utf8").catch(() => "")).split("\n");
    const pid = Number(lines[0]);
    if (!isAlive(pid)) return { kind: "none" };
    const port = Number(lines[3]);
    if (port > 0 && (await answers(port, superuserPassword, data))) return { kind: "live", port };
    if (!(await serves(pid, data))) return { kind: "stale" };
    if (performance.now() > deadline) {
      throw new Error(`process ${pid} holds the database in ${data} and does not answer on port ${port}`);
    }
    await delay(50);
  }
}

/**
 * Makes a stale `postmaster.pid` harmless. After a crash another process may have got the id in it, and PostgreSQL
 * then refuses to start. The file stays, with the id of nobody: its other lines let PostgreSQL see whether backends of
 * the dead server are still there.
 */
export async function disownPostmaster(data: string): Promise<void> {
  const path = join(data, "postmaster.pid");
  const [, ...rest] = (await readFile(path, "utf8")).split("\n");
  await writeFile(path, ["999999999", ...rest].join("\n"));
}

async function answers(port: number, superuserPassword: string, data: string): Promise<boolean> {
  const client = new pg.Client({
    host: "127.0.0.1",
    port,
    user: "postgres",
    password: superuserPassword,
    database: "postgres",
    connectionTimeoutMillis: 5_000,
  });
  client.on("error", () => undefined);
  try {
    await client.connect();
    const shown = await client.query<{ data_directory: string }>("show data_directory");
    return (await realpath(shown.rows[0]?.data_directory ?? "")) === (await realpath(data));
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

// A postmaster works in its data directory. Where that cannot be seen, its command line names it; where neither can
// be seen, it is taken for the server, which at worst ends in an error that names the process.
async function serves(pid: number, data: string): Promise<boolean> {
  if (process.platform === "linux") {
    try {
      return (await readlink(`/proc/${pid}/cwd`)) === (await realpath(data));
    } catch (error) {
      return error instanceof Error && "code" in error && error.code === "EACCES";
    }
  }
  if (process.platform === "win32") return (await stat(data)).isDirectory();
  const listed = await run("ps", ["-o", "command=", "-p", String(pid)]);
  return listed.output.includes(data);
}
