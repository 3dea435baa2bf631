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
  /** Its resident memory, in megabytes. */
  megabytes(): Promise<number>;
  /** Its open files and sockets. */
  descriptors(): Promise<number>;
  /** Ends it. With `--profile` this is when the profile is printed. */
  stop(): Promise<void>;
}

const READY_WITHIN_MS = 120_000;
let processes = 0;

/** A server process of its own (`mayfly serve`) with a database of its own; `publicUrl` when it is behind something. */
export async function startServer({
  profile,
  publicUrl,
  command = "serve",
  sweepSeconds,
  redisUrl,
}: {
  readonly profile: boolean;
  readonly publicUrl?: string;
  /** `api`: the workers are processes of their own. */
  readonly command?: "serve" | "api";
  readonly sweepSeconds?: number;
  /** Absent: the queue is in PostgreSQL. */
  readonly redisUrl?: string | undefined;
}): Promise<Server> {
  const directory = await mkdtemp(join(tmpdir(), "mayfly-bench-"));
  // PostgreSQL is another user when this runs as root, and must be able to pass through.
  await chmod(directory, 0o711);
  const env = {
    MAYFLY_DATA_DIR: join(directory, "data"),
    MAYFLY_PORT: "0",
    NODE_ENV: "production",
    ...(publicUrl === undefined ? {} : { MAYFLY_PUBLIC_URL: publicUrl }),
    ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
    ...(sweepSeconds === undefined ? {} : { MAYFLY_SWEEP_SECONDS: String(sweepSeconds) }),
  };
  const flags = profile ? ["--cpu-prof", "--cpu-prof-dir", join(directory, "profile")] : [];
  const started = start(command, { directory, env, flags });
  const stop = async (): Promise<void> => {
    await started.end();
    for (const file of profile ? await readdir(join(directory, "profile")) : [])
      printProfile(await readFile(join(directory, "profile", file), "utf8"));
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const ready = await started.ready();
    const megabytes = () => megabytesOf(started.pid);
    const descriptors = () => descriptorsOf(started.pid);
    return { ...ready, pid: started.pid, directory, env, megabytes, descriptors, stop, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Another API process (`mayfly api`) of the same deployment. */
export async function startReplica({ directory, env }: Server): Promise<{ readonly port: number } & AsyncDisposable> {
  const started = start("api", { directory, env, flags: [] });
  try {
    const { port } = await started.ready();
    return { port, [Symbol.asyncDispose]: started.end };
  } catch (error) {
    await started.end();
    throw error;
  }
}

/** Another process of the same deployment, to be killed and stopped as one likes. It keeps its port. */
export interface Process extends AsyncDisposable {
  readonly url: string;
  megabytes(): Promise<number>;
  descriptors(): Promise<number>;
  /** `kill -9`, and a new one in its place. */
  killAndStart(): Promise<void>;
  /** Stops it where it stands for so long (SIGSTOP). */
  pause(ms: number): Promise<void>;
}

export async function startProcess(server: Server, command: "api" | "worker"): Promise<Process> {
  const begin = async (port: number) => {
    const env = { ...server.env, MAYFLY_PORT: String(port), MAYFLY_PUBLIC_URL: server.url };
    const started = start(command, { directory: server.directory, env, flags: [] });
    const ready = await started.ready();
    return { ...started, port: ready.port };
  };
  let current = await begin(0);
  return {
    url: `http://127.0.0.1:${current.port}`,
    megabytes: () => megabytesOf(current.pid),
    descriptors: () => descriptorsOf(current.pid),
    async killAndStart() {
      await current.kill();
      current = await begin(current.port);
    },
    async pause(ms) {
      process.kill(current.pid, "SIGSTOP");
      await sleep(ms);
      process.kill(current.pid, "SIGCONT");
    },
    [Symbol.asyncDispose]: () => current.end(),
  };
}

async function megabytesOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
}

async function descriptorsOf(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`).catch(() => [])).length;
}

function start(
  command: "serve" | "api" | "worker",
  {
    directory,
    env,
    flags,
  }: {
    readonly directory: string;
    readonly env: Readonly<Record<string, string>>;
    readonly flags: readonly string[];
  },
) {
  const bin = fileURLToPath(new URL("../../dist/bin/mayfly.js", import.meta.url));
  const output = join(directory, `${command}-${(processes += 1)}.log`);
  const log = openSync(output, "a");
  const child = spawn(process.execPath, ["--no-warnings", ...flags, bin, command], {
    cwd: directory,
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdio: ["ignore", log, log],
  });
  endWith(child);
  const exited = once(child, "exit");
  return {
    pid: child.pid ?? 0,
    async ready(): Promise<{ readonly url: string; readonly port: number }> {
      for (const startedAt = performance.now(); ; await sleep(50)) {
        const lines = (await readFile(output, "utf8")).split("\n");
        const ready = lines.find((line) => line.includes('"msg":"ready"'));
        if (ready !== undefined) {
          const { url, port = 0 } = JSON.parse(ready) as { url: string; port?: number };
          return { url, port };
        }
        if (child.exitCode !== null || performance.now() - startedAt > READY_WITHIN_MS)
          throw new Error(`mayfly ${command} did not start:\n${lines.join("\n")}`);
      }
    },
    async kill(): Promise<void> {
      child.kill("SIGKILL");
      await exited;
    },
    async end(): Promise<void> {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGTERM");
      await exited;
    },
  };
}
