import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { until } from "../support/until.ts";
import { itWithstandsFaults } from "./faults.ts";
import { closeAll, freshPrefix, open, wakesUp } from "./open.ts";
import type { TestServer } from "./servers.ts";

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

    test("what a worker runs is told nothing of the job, and a job that fails is not kept", async () => {
      const prefix = freshPrefix();
      const backend = server.backend(prefix);
      await backend.prepare();
      const producer = backend.produce();
      const calls: unknown[][] = [];
      const consumer = backend.consume(async (...args: unknown[]) => {
        calls.push(args);
        throw new Error("it failed");
      });
      try {
        await producer.ready();
        await producer.add({ id: "now-1", at: Date.now() });
        await until("the job is taken", () => calls.length > 0);
        expect(calls).toEqual([[]]);
        await until("no trace is left", async () => !(await server.stored(prefix)).includes("now-1"));
      } finally {
        consumer.discard();
        producer.discard();
      }
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

  itWithstandsFaults(name, () => server);

  return () => server;
}
