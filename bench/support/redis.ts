import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { endWith } from "./child.ts";

/** A Redis of a benchmark's own on a free port, which keeps nothing. */
export interface BenchRedis extends AsyncDisposable {
  readonly url: string;
  keys(): Promise<number>;
  flush(): Promise<void>;
  /** `kill -9`; empty again after so long. */
  lose(ms: number): Promise<void>;
  /** Stops it where it stands for so long (SIGSTOP). */
  pause(ms: number): Promise<void>;
}

/** Starts `redis-server`, which must be on the PATH. */
export async function startRedis(): Promise<BenchRedis> {
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}`;
  let server = await start(port);
  const client = new Redis(url, { maxRetriesPerRequest: null });
  client.on("error", () => undefined);
  return {
    url,
    keys: () => client.dbsize(),
    async flush() {
      await client.flushall();
    },
    async lose(ms) {
      server.kill("SIGKILL");
      await sleep(ms);
      server = await start(port);
    },
    async pause(ms) {
      server.kill("SIGSTOP");
      await sleep(ms);
      server.kill("SIGCONT");
    },
    async [Symbol.asyncDispose]() {
      client.disconnect();
      server.kill("SIGKILL");
      await once(server, "exit");
    },
  };
}

async function start(port: number): Promise<ChildProcess> {
  const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  const server = spawn("redis-server", args, { stdio: ["ignore", "pipe", "ignore"] });
  endWith(server);
  let said = "";
  await new Promise<void>((resolve, reject) => {
    server.stdout.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes("Ready to accept connections")) resolve();
    });
    server.once("error", reject);
    server.once("exit", () => reject(new Error(`redis-server did not start:\n${said}`)));
  });
  return server;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  return typeof address === "object" && address !== null ? address.port : 0;
}
