import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
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

/** What both back-ends promise. `start` makes a server of this suite's own. */
export function itIsAQueue<Server extends TestServer>(name: string, start: () => Promise<Server>): () => Server {
  let server: Server;
  beforeAll(async () => {
    server = await start();
  }, 120_000);
  afterEach(closeAll);
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });

  describe(`${name}: wake-ups`, () => {
    test("now() makes a worker look, in another process too, and tells the handler nothing", async () => {
      const prefix = freshPrefix();
      const api = await open(server, prefix);
      const worker = await open(server, prefix);
      const calls: unknown[][] = [];
      worker.startWorker(async (...args: unknown[]) => void calls.push(args));
      api.wakeUps.now();
      await until("the handler", () => calls.length > 0);
      expect(calls[0]).toEqual([]);
    });

    test("at() makes a worker look when the second has come, not before", async () => {
      const queue = await open(server, freshPrefix());
      const due = (Math.ceil(Date.now() / 1_000) + 2) * 1_000;
      const looked: number[] = [];
      queue.startWorker(async () => void looked.push(Date.now()));
      queue.wakeUps.at(new Date(due));
      await until("the handler", () => looked.length > 0);
      expect(looked[0]).toBeGreaterThanOrEqual(due);
    });

    test("many calls of several processes for one second are one job, and depth() counts it", async () => {
      const prefix = freshPrefix();
      const queues = await Promise.all([open(server, prefix), open(server, prefix), open(server, prefix)]);
      const due = (Math.ceil(Date.now() / 1_000) + 600) * 1_000;
      for (const { wakeUps } of queues) {
        for (let call = 0; call < 10_000; call++) wakeUps.at(new Date(due + 1_000 * (call % 2)));
      }
      await until("two jobs", async () => (await queues[0]?.depth())?.delayed === 2);
      expect(await queues[1]?.depth()).toEqual({ waiting: 0, delayed: 2, active: 0, failed: 0 });
      expect(queues.map(({ misses }) => misses())).toEqual([0, 0, 0]);
    });

    test("what comes while the job of its second runs is looked at as well (reliability B2)", async () => {
      const prefix = freshPrefix();
      const queue = await open(server, prefix);
      const due = new Date((Math.ceil(Date.now() / 1_000) + 2) * 1_000);
      let calls = 0;
      let release: () => void = () => undefined;
      const held = new Promise<void>((resolve) => (release = resolve));
      queue.startWorker(async () => {
        calls += 1;
        if (calls === 1) await held;
      });
      queue.wakeUps.at(due);
      await until("the job of that second runs", () => calls === 1);
      expect((await queue.depth()).active).toBe(1);
      // From here on the handler has asked Postgres already, and a credential of that second is committed.
      queue.wakeUps.at(due);
      await until("a job is waiting for the one that runs", async () => (await queue.depth()).waiting === 1);
      release();
      await until("it looks again", () => calls === 2);
    });

    test("a job holds nothing, so there is nothing to leak", async () => {
      const prefix = freshPrefix();
      const queue = await open(server, prefix);
      queue.wakeUps.now();
      queue.wakeUps.at(new Date(Date.now() + 600_000));
      await until("both jobs", async () => {
        const { waiting, delayed } = await queue.depth();
        return waiting + delayed === 2;
      });
      const stored = await server.stored(prefix);
      expect(stored).toContain("wake-");
      expect(stored).not.toMatch(/_[0-9a-f]{32}|tenant|cred|secret/i);
      for (const data of stored.matchAll(/"data":("[^"]*"|\{[^}]*\})/g)) expect(data[1]).toMatch(/^("\{\}"|\{\})$/);
    });

    test("a forged job is a wake-up like any other: nothing in it reaches the handler, and it is removed", async () => {
      const prefix = freshPrefix();
      const queue = await open(server, prefix);
      const calls: unknown[][] = [];
      queue.startWorker(async (...args: unknown[]) => void calls.push(args));
      await server.forge(prefix, "revoke", { credential: "crd_0", tenant: "ten_0" }, { attempts: 50, priority: 1 });
      await server.forge(prefix, "wake", { __proto__: { admin: true } }, { jobId: "wake-1", backoff: 1 });
      await until("both", () => calls.length === 2);
      expect(calls).toEqual([[], []]);
      await until("nothing is left", async () => (await queue.depth()).active === 0);
    });

    test("fifty wake-ups at once with four workers run the handler once per process at a time, and leave nothing", async () => {
      const prefix = freshPrefix();
      const queues = await Promise.all(Array.from({ length: 4 }, () => open(server, prefix)));
      const running = [0, 0, 0, 0];
      let calls = 0;
      let overlaps = 0;
      queues.forEach((queue, process) =>
        queue.startWorker(async () => {
          running[process] = (running[process] ?? 0) + 1;
          if ((running[process] ?? 0) > 1) overlaps += 1;
          await new Promise((resolve) => setImmediate(resolve));
          calls += 1;
          running[process] = (running[process] ?? 0) - 1;
        }),
      );
      for (let id = 0; id < 50; id++)
        await server.forge(prefix, "wake", {}, { jobId: `wake-${id}`, removeOnComplete: true });
      await until("all are done", async () => calls >= 50 && (await queues[0]?.depth())?.active === 0);
      expect(overlaps).toBe(0);
      expect(await queues[0]?.depth()).toEqual({ waiting: 0, delayed: 0, active: 0, failed: 0 });
    });

    test("a handler that throws leaves no job behind, and the next wake-up comes", async () => {
      const prefix = freshPrefix();
      const queue = await open(server, prefix);
      let calls = 0;
      queue.startWorker(async () => {
        calls += 1;
        if (calls === 1) throw new Error("the database is down");
      });
      await wakesUp(queue, () => calls);
      await wakesUp(queue, () => calls);
      await until("nothing is left", async () => (await queue.depth()).active === 0);
      expect((await queue.depth()).failed).toBe(0);
      // Not as a finished job either, which would block its id for ever.
      await until("no trace is left", async () => !(await server.stored(prefix)).includes("now-"));
    });

    test("a due job that nobody takes is seen, delayed or not; one that is not due is not (reliability B5)", async () => {
      const prefix = freshPrefix();
      const backend = server.backend(prefix);
      await backend.prepare();
      const producer = backend.produce();
      try {
        await producer.ready();
        expect(await producer.isDueJobStanding()).toBe(false);
        await producer.add({ id: "later", at: Date.now() + 600_000 });
        expect(await producer.isDueJobStanding()).toBe(false);
        await server.forge(prefix, "wake", {}, { jobId: "overdue", delay: 1_000, timestamp: Date.now() - 60_000 });
        expect(await producer.isDueJobStanding()).toBe(true);
        await server.empty();
        expect(await producer.isDueJobStanding()).toBe(false);
        await producer.add({ id: "now", at: Date.now() });
        expect(await producer.isDueJobStanding()).toBe(true);
      } finally {
        producer.discard();
      }
    });
  });

  describe(`${name}: faults`, () => {
    test("emptied: no error, later wake-ups come, and the same second can be added again", async () => {
      const prefix = freshPrefix();
      const queue = await open(server, prefix);
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      const due = new Date(Date.now() + 600_000);
      queue.wakeUps.at(due);
      await until("the job", async () => (await queue.depth()).delayed === 1);
      await server.empty();
      await wakesUp(queue, () => calls);
      const later = await open(server, prefix);
      later.wakeUps.at(due);
      await until("the job is there again", async () => (await later.depth()).delayed === 1);
      expect(later.misses()).toBe(0);
    });

    test("emptied while the handler runs: its job is gone, and later wake-ups come all the same", async () => {
      const queue = await open(server, freshPrefix());
      let calls = 0;
      let release: () => void = () => undefined;
      const held = new Promise<void>((resolve) => (release = resolve));
      queue.startWorker(async () => {
        calls += 1;
        if (calls === 1) await held;
      });
      queue.wakeUps.now();
      await until("the handler runs", () => calls === 1);
      await server.empty();
      release();
      await wakesUp(queue, () => calls);
      expect(queue.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
    });

    test("killed: calls return in the same turn and are counted as lost; started again, everything works", async () => {
      const queue = await open(server, freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      await server.kill();
      try {
        let turned = false;
        setImmediate(() => (turned = true));
        for (let call = 0; call < 1_000; call++) {
          queue.wakeUps.now();
          queue.wakeUps.at(new Date(Date.now() + 60_000 + call * 1_000));
        }
        expect(turned).toBe(false);
        await until("they are counted", () => queue.misses() > 0);
        await expect(queue.check()).rejects.toMatchObject({ code: "unavailable" });
        await expect(queue.depth()).rejects.toMatchObject({ code: "unavailable" });
      } finally {
        await server.restart();
      }
      await wakesUp(queue, () => calls);
      await until("it is well again", () =>
        queue.check().then(
          () => true,
          () => false,
        ),
      );
      const complaints = queue.lines.filter((line) => line.includes("wake-ups are lost"));
      expect(complaints).toHaveLength(1);
    });

    test("frozen: calls return in the same turn and are counted as lost; thawed, everything works", async () => {
      const queue = await open(server, freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1), { watchdogMs: 500 });
      await wakesUp(queue, () => calls);
      await server.freeze();
      try {
        let turned = false;
        setImmediate(() => (turned = true));
        for (let call = 0; call < 1_000; call++) queue.wakeUps.now();
        expect(turned).toBe(false);
        await until("they are counted", () => queue.misses() > 0);
        await expect(queue.check()).rejects.toMatchObject({ code: "unavailable" });
        await until("the watchdog has noticed", () => queue.lines.some((line) => line.includes("replaced")));
      } finally {
        await server.thaw();
      }
      await wakesUp(queue, () => calls);
    });

    test("down at the start: opening works, and so does the queue when the server is there", async () => {
      const prefix = freshPrefix();
      await server.kill();
      let queue: TestQueue;
      let calls = 0;
      try {
        queue = await open(server, prefix);
        queue.startWorker(async () => void (calls += 1));
        queue.wakeUps.now();
        await until("it is counted", () => queue.misses() > 0);
      } finally {
        await server.restart();
      }
      await wakesUp(queue, () => calls);
    });
  });

  describe(`${name}: stop`, () => {
    test("gives the job of a handler that does not end to another process, at once", async () => {
      const prefix = freshPrefix();
      const [one, other] = await Promise.all([open(server, prefix), open(server, prefix)]);
      let started = false;
      const stuck = one.startWorker(() => ((started = true), new Promise(() => undefined)), { drainMs: 50 });
      one.wakeUps.now();
      await until("the handler hangs", () => started);
      await stuck.stop();
      let calls = 0;
      other.startWorker(async () => void (calls += 1));
      await until("the other process gets it", () => calls === 1);
    });

    test("stopped, a worker takes nothing more", async () => {
      const queue = await open(server, freshPrefix());
      let calls = 0;
      const worker = queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      await worker.stop();
      const before = calls;
      queue.wakeUps.now();
      await until("the job is standing", async () => (await queue.depth()).waiting > 0);
      expect(calls).toBe(before);
    });

    test.each(["killed", "frozen"] as const)("returns within five seconds with the server %s", async (how) => {
      const queue = await open(server, freshPrefix());
      let calls = 0;
      const worker = queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      await (how === "killed" ? server.kill() : server.freeze());
      try {
        const began = performance.now();
        await worker.stop();
        await queue[Symbol.asyncDispose]();
        // Twice the promise: the machine is shared. What hangs here hangs for minutes.
        expect(performance.now() - began).toBeLessThan(10_000);
      } finally {
        await (how === "killed" ? server.restart() : server.thaw());
      }
    });

    test("disposed, no connection and no timer is left", async () => {
      const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
      const before = timers();
      const queue = await open(server, freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      expect(await server.connections()).toBeGreaterThan(0);
      await queue[Symbol.asyncDispose]();
      await until("no connection is left", async () => (await server.connections()) === 0);
      await until("no timer is left", () => timers() <= before);
      queue.wakeUps.now();
      await until("a late call is only counted", () => queue.misses() === 1);
    });
  });

  return () => server;
}
