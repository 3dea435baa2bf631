import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { freePort } from "../../src/lib/free-port.ts";
import { testDirectory } from "../../test/support/directory.ts";
import { startRedisServer } from "../../test/support/redis-server.ts";
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
  const directory = await testDirectory();
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}`;
  const start = async () => {
    const started = await startRedisServer("redis-server", port, directory.path);
    endWith(started);
    return started;
  };
  let server = await start();
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
      server = await start();
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
      await directory[Symbol.asyncDispose]();
    },
  };
}
