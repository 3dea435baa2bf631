import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { testDirectory } from "./directory.ts";

const bin = fileURLToPath(new URL("../../dist/bin/mayfly.js", import.meta.url));

/** One line that a process logged. */
export type LogLine = Readonly<Record<string, unknown>>;

/** A Mayfly process, for the tests of faults. Killed when disposed. */
export interface MayflyProcess extends AsyncDisposable {
  readonly pid: number;
  /** The line that said it was ready. */
  readonly ready: LogLine;
  /** Every JSON line of its standard output so far. */
  readonly lines: readonly LogLine[];
  /** Everything it has printed so far, on both streams: where a leaked secret would show. */
  output(): string;
  /** Ends it at once (SIGKILL). */
  kill(): Promise<void>;
  /** Asks it to end (SIGTERM) and returns its exit code. */
  stop(): Promise<number | null>;
}

/** What to start. */
export interface StartOptions {
  /** The whole environment, PATH apart: nothing of the developer's own leaks into a test. */
  readonly env: Readonly<Record<string, string>>;
  /** Which line means that it is ready. By default the one whose `msg` is `ready`. */
  readonly isReady?: (line: LogLine) => boolean;
}

/**
 * Runs `mayfly <args>` from `dist/` and waits until it says that it is ready: `await using mayfly = await
 * startMayfly(["serve"], { env })`. Rejects, with everything it printed, when it ends before. It works in an empty
 * directory, so a `.mayfly/` that it makes is its own unless MAYFLY_DATA_DIR says otherwise.
 */
export async function startMayfly(args: readonly string[], options: StartOptions): Promise<MayflyProcess> {
  const directory = await testDirectory();
  const isReady = options.isReady ?? ((line) => line["msg"] === "ready");
  const child = spawn(process.execPath, ["--no-warnings", bin, ...args], {
    cwd: directory.path,
    env: { PATH: process.env["PATH"] ?? "", ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: LogLine[] = [];
  let output = "";
  let rest = "";
  const exited = once(child, "exit");
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const ready = await new Promise<LogLine>((resolve, reject) => {
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      const parts = (rest + chunk.toString()).split("\n");
      rest = parts.pop() ?? "";
      for (const line of parts.flatMap(parseLine)) {
        lines.push(line);
        if (isReady(line)) resolve(line);
      }
    });
    child.once("error", reject);
    child.once("close", (code, signal) => {
      reject(new Error(`mayfly ${args.join(" ")} ended (${code ?? signal}) before it was ready:\n${output}`));
    });
  });
  return {
    pid: child.pid ?? 0,
    ready,
    lines,
    output: () => output,
    kill,
    async stop() {
      child.kill("SIGTERM");
      await exited;
      return child.exitCode;
    },
    async [Symbol.asyncDispose]() {
      await kill();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Runs `mayfly <args>` from `dist/` to its end. */
export async function runMayfly(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }> {
  await using directory = await testDirectory();
  const child = spawn(process.execPath, ["--no-warnings", bin, ...args], {
    cwd: directory.path,
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  await once(child, "close");
  return { code: child.exitCode, stdout, stderr };
}

function parseLine(line: string): LogLine[] {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? [value as LogLine] : [];
  } catch {
    return [];
  }
}
