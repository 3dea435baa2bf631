import { type ChildProcess, spawn } from "node:child_process";

/** Runs this `redis-server`, which keeps nothing unless `args` say so, and waits until it takes connections. Rejects with all it said. */
export async function startRedisServer(
  program: string,
  port: number,
  directory: string,
  args: readonly string[] = [],
): Promise<ChildProcess> {
  const own = ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "no"];
  const server = spawn(program, [...own, ...args], { cwd: directory, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  await new Promise<void>((resolve, reject) => {
    server.stdout.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes("Ready to accept connections")) resolve();
    });
    server.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
    server.once("error", reject);
    server.once("exit", () => reject(new Error(`redis-server did not start:\n${said}`)));
  });
  return server;
}
