import { spawn } from "node:child_process";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Where the project is. */
export const root = fileURLToPath(new URL("../..", import.meta.url));

/** What Jest says of a run, as far as it is read here. */
interface JestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** The tests that failed, by name, each with what it says; and the suites that could not be run at all. */
export function failuresOf(report: string | undefined, stderr: string): string[] {
  if (report === undefined) return [`jest\n${stderr}`];
  const results = (JSON.parse(report) as JestReport).testResults;
  return results.flatMap(({ name, status, message, assertionResults }) => {
    const failed = assertionResults.filter((one) => one.status === "failed");
    if (status === "failed" && failed.length === 0) return [`${basename(name)}\n${message}`];
    return failed.map(
      ({ fullName, failureMessages }) => `${basename(name)}: ${fullName}\n${withoutStack(failureMessages)}`,
    );
  });
}

function withoutStack(messages: readonly string[]): string {
  const lines = messages.join("\n").split("\n");
  return lines.filter((line) => line !== "" && !/^\s+at /.test(line)).join("\n");
}

/** Runs Jest to its end, in a group of its own: what it has started ends with it when this is interrupted. */
export async function jest(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const bin = join(root, "node_modules/jest/bin/jest.js");
  const flags = ["--experimental-vm-modules", "--no-warnings"];
  const child = spawn(process.execPath, [...flags, bin, "--runTestsByPath", ...args], {
    cwd: root,
    env: { ...process.env, NO_COLOR: "1", ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const end = (): void => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGTERM");
  };
  process.once("exit", end);
  const said = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (said.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (said.stderr += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  process.off("exit", end);
  return said;
}
