import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { describe } from "@jest/globals";
import { freePort } from "../../src/lib/free-port.ts";
import { testDirectory } from "./directory.ts";
import { startRedisServer } from "./redis-server.ts";

// Found by jest.config.mjs, which refuses to go on without it in CI.
const redisServer = process.env["TEST_REDIS_SERVER"];

/** A Redis of one test file's own, on a free port, empty, keeping nothing. */
export interface TestRedis extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** Ends it at once (SIGKILL), as a power cut would. */
  kill(): Promise<void>;
  /** Starts it again after `kill`, on the same port: empty, or as it was when it was last told to SAVE. */
  restart(): Promise<void>;
  /** It keeps its connections and takes new ones, but answers nothing (SIGSTOP), until `thaw`. */
  freeze(): void;
  thaw(): void;
}

/**
 * Registers a suite that needs Redis. Where `redis-server` is not installed it registers nothing (and jest.config.mjs
 * has said so once); in CI that is an error. A file with nothing but such suites is called `*.redis.test.ts`.
 */
export function describeWithRedis(name: string, suite: () => void): void {
  if (redisServer !== undefined) describe(name, suite);
}

/** Starts one: `await using redis = await testRedis()`. `args` are more arguments of `redis-server`. */
export async function testRedis(args: readonly string[] = []): Promise<TestRedis> {
  if (redisServer === undefined) throw new Error("redis-server is not installed: use describeWithRedis");
  const directory = await testDirectory();
  const start = (): Promise<ChildProcess> => startRedisServer(redisServer, port, directory.path, args);
  let port = 0;
  let server: ChildProcess | undefined;
  // Another process may take the free port before Redis does.
  for (let attempt = 0; server === undefined; attempt++) {
    port = await freePort();
    server = await start().catch((error: unknown) => {
      if (attempt === 4) throw error;
      return undefined;
    });
  }
  let running = server;
  const kill = async (): Promise<void> => {
    if (running.exitCode !== null || running.signalCode !== null) return;
    const gone = once(running, "exit");
    running.kill("SIGKILL");
    await gone;
  };
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    kill,
    async restart() {
      await kill();
      running = await start();
    },
    freeze: () => void running.kill("SIGSTOP"),
    thaw: () => void running.kill("SIGCONT"),
    async [Symbol.asyncDispose]() {
      await kill();
      await directory[Symbol.asyncDispose]();
    },
  };
}
