import { createLog } from "../../src/lib/log.ts";
import { openQueue } from "../../src/queue/connection.ts";
import type { JobQueue } from "../../src/queue/queue.ts";
import { until } from "../support/until.ts";
import type { TestServer } from "./servers.ts";

/** A queue of a process, as the tests see it. */
export interface TestQueue extends JobQueue {
  readonly misses: () => number;
  readonly lines: readonly string[];
}

let serial = 0;
const opened: JobQueue[] = [];

/** A prefix that no other test uses. */
export function freshPrefix(): string {
  return `test${process.pid}-${++serial}`;
}

/** Opens a queue as a process does. Closed after the test. */
export async function open(server: Pick<TestServer, "config">, prefix: string): Promise<TestQueue> {
  const lines: string[] = [];
  let misses = 0;
  const log = createLog("info", { write: (line) => void lines.push(line) });
  const queue = await openQueue(server.config, log, prefix, { onMiss: (count) => void (misses += count) });
  opened.push(queue);
  return { ...queue, [Symbol.asyncDispose]: () => queue[Symbol.asyncDispose](), misses: () => misses, lines };
}

/** Closes what a test opened: `afterEach(closeAll)`. */
export async function closeAll(): Promise<void> {
  await Promise.all(opened.splice(0).map((queue) => queue[Symbol.asyncDispose]()));
}

/** Asks for wake-ups until the worker takes one: recovery may lose some, and the sweep does not run here. */
export async function wakesUp(queue: JobQueue, calls: () => number): Promise<void> {
  const before = calls();
  await until("a wake-up reaches the handler", () => {
    queue.wakeUps.now();
    return calls() > before;
  });
}
