import { describe, expect, test } from "@jest/globals";
import { until } from "../support/until.ts";
import { freshPrefix, open, type TestQueue, wakesUp } from "./open.ts";
import type { TestServer } from "./servers.ts";

/** What both back-ends promise when their server fails, and when they are stopped. */
export function itWithstandsFaults(name: string, server: () => TestServer): void {
  describe(`${name}: faults`, () => {
    test("emptied: no error, later wake-ups come, and the same second can be added again", async () => {
      const prefix = freshPrefix();
      const queue = await open(server(), prefix);
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      const due = new Date(Date.now() + 600_000);
      queue.wakeUps.at(due);
      await until("the job", async () => (await queue.depth()).delayed === 1);
      await server().empty();
      await wakesUp(queue, () => calls);
      const later = await open(server(), prefix);
      later.wakeUps.at(due);
      await until("the job is there again", async () => (await later.depth()).delayed === 1);
      expect(later.misses()).toBe(0);
    });

    test("emptied while the handler runs: its job is gone, and later wake-ups come all the same", async () => {
      const queue = await open(server(), freshPrefix());
      let calls = 0;
      let release: () => void = () => undefined;
      const held = new Promise<void>((resolve) => (release = resolve));
      queue.startWorker(async () => {
        calls += 1;
        if (calls === 1) await held;
      });
      queue.wakeUps.now();
      await until("the handler runs", () => calls === 1);
      await server().empty();
      release();
      await wakesUp(queue, () => calls);
      expect(queue.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
    });

    test("killed: calls return in the same turn and are counted as lost; started again, everything works", async () => {
      const queue = await open(server(), freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      await server().kill();
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
        await server().restart();
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
      const queue = await open(server(), freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1), { watchdogMs: 500 });
      await wakesUp(queue, () => calls);
      await server().freeze();
      try {
        let turned = false;
        setImmediate(() => (turned = true));
        for (let call = 0; call < 1_000; call++) queue.wakeUps.now();
        expect(turned).toBe(false);
        await until("they are counted", () => queue.misses() > 0);
        await expect(queue.check()).rejects.toMatchObject({ code: "unavailable" });
        await until("the watchdog has noticed", () => queue.lines.some((line) => line.includes("replaced")));
      } finally {
        await server().thaw();
      }
      await wakesUp(queue, () => calls);
    });

    test("down at the start: opening works, and so does the queue when the server is there", async () => {
      const prefix = freshPrefix();
      await server().kill();
      let queue: TestQueue;
      let calls = 0;
      try {
        queue = await open(server(), prefix);
        queue.startWorker(async () => void (calls += 1));
        queue.wakeUps.now();
        await until("it is counted", () => queue.misses() > 0);
      } finally {
        await server().restart();
      }
      await wakesUp(queue, () => calls);
    });
  });

  describe(`${name}: stop`, () => {
    test("gives the job of a handler that does not end to another process, at once", async () => {
      const prefix = freshPrefix();
      const [one, other] = await Promise.all([open(server(), prefix), open(server(), prefix)]);
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
      const queue = await open(server(), freshPrefix());
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
      const queue = await open(server(), freshPrefix());
      let calls = 0;
      const worker = queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      await (how === "killed" ? server().kill() : server().freeze());
      try {
        const began = performance.now();
        await worker.stop();
        await queue[Symbol.asyncDispose]();
        // Twice the promise: the machine is shared. What hangs here hangs for minutes.
        expect(performance.now() - began).toBeLessThan(10_000);
      } finally {
        await (how === "killed" ? server().restart() : server().thaw());
      }
    });

    test("disposed, no connection and no timer is left", async () => {
      const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
      const before = timers();
      const queue = await open(server(), freshPrefix());
      let calls = 0;
      queue.startWorker(async () => void (calls += 1));
      await wakesUp(queue, () => calls);
      expect(await server().connections()).toBeGreaterThan(0);
      await queue[Symbol.asyncDispose]();
      await until("no connection is left", async () => (await server().connections()) === 0);
      await until("no timer is left", () => timers() <= before);
      queue.wakeUps.now();
      await until("a late call is only counted", () => queue.misses() === 1);
    });
  });
}
