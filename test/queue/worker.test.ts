import { describe, expect, test } from "@jest/globals";
import { createLog } from "../../src/lib/log.ts";
import type { WorkerOptions } from "../../src/queue/queue.ts";
import type { Consumer, QueueServer } from "../../src/queue/server.ts";
import { superviseWorker } from "../../src/queue/worker.ts";
import { until } from "../support/until.ts";

/** A BullMQ worker that does what the test says. */
class FakeConsumer implements Consumer {
  readonly broken: Promise<unknown>;
  taken = 0;
  busy = false;
  discarded = false;
  givenBack = 0;
  fail: (error: unknown) => void = () => undefined;
  drain: () => Promise<void> = async () => undefined;
  readonly #run: () => Promise<void>;

  constructor(run: () => Promise<void>) {
    this.#run = run;
    this.broken = new Promise((resolve) => (this.fail = resolve));
  }

  async take(): Promise<void> {
    this.taken += 1;
    this.busy = true;
    await this.#run();
    this.busy = false;
  }

  giveBack = async (): Promise<void> => void (this.givenBack += 1);
  discard = (): void => void (this.discarded = true);
}

/** A supervised worker on a server that does what the test says. */
function supervised(handler: () => Promise<void>, options: WorkerOptions = {}) {
  const consumers: FakeConsumer[] = [];
  const lines: string[] = [];
  const state = { prepare: async (): Promise<void> => undefined, isDueJobStanding: async () => false, prepared: 0 };
  const server: QueueServer = {
    kind: "redis",
    prepare: async () => {
      state.prepared += 1;
      await state.prepare();
    },
    produce: () => {
      throw new Error("a worker adds no jobs");
    },
    consume(run) {
      const consumer = new FakeConsumer(run);
      consumers.push(consumer);
      return consumer;
    },
  };
  const log = createLog("info", { write: (line) => void lines.push(line) });
  const isDueJobStanding = (): Promise<boolean> => state.isDueJobStanding();
  const worker = superviseWorker({ server, handler, isDueJobStanding, log }, options);
  const nth = async (count: number): Promise<FakeConsumer> =>
    await until(`worker number ${count}`, () => consumers[count - 1]);
  return { worker, consumers, nth, lines, state };
}

describe("recovery", () => {
  test("the first error of a worker replaces it, after the server was prepared anew", async () => {
    const { worker, nth, state } = supervised(async () => undefined);
    const first = await nth(1);
    first.fail(new Error("function move_to_active does not exist"));
    await nth(2);
    expect(first.discarded).toBe(true);
    expect(state.prepared).toBe(2);
    await worker.stop();
  });

  test("a server that fails again and again is asked with pauses, and one line is logged per outage", async () => {
    const { worker, consumers, nth, lines, state } = supervised(async () => undefined);
    state.prepare = () => Promise.reject(new Error("down"));
    (await nth(1)).fail(new Error("down"));
    const began = performance.now();
    await until("three tries", () => state.prepared >= 4);
    await worker.stop();
    // Pauses of about 100, 200 and 400 ms before them; a hot loop would be through in one.
    expect(performance.now() - began).toBeGreaterThan(400);
    expect(consumers).toHaveLength(1);
    expect(lines.filter((line) => line.includes("replaced"))).toHaveLength(1);
  });

  test("a worker that takes nothing although jobs are standing is replaced (reliability B5, B6)", async () => {
    const { worker, nth, state } = supervised(async () => undefined, { watchdogMs: 20 });
    state.isDueJobStanding = async () => true;
    const first = await nth(1);
    await nth(2);
    expect(first.discarded).toBe(true);
    await worker.stop();
  });

  test("a worker is left alone while it is busy, while it takes jobs, and while nothing is due", async () => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    const { worker, consumers, nth, state } = supervised(() => held, { watchdogMs: 20 });
    const first = await nth(1);
    let looks = 0;
    const looked = async (what: string, standing: () => boolean): Promise<void> => {
      looks = 0;
      state.isDueJobStanding = async () => {
        looks += 1;
        return standing();
      };
      await until(what, () => looks >= 5);
    };
    await looked("five looks at an empty queue", () => false);
    const taking = first.take();
    await looked("five looks while it is busy", () => true);
    first.busy = false;
    await looked("five looks while it takes jobs", () => (first.taken += 1) > 0);
    state.isDueJobStanding = async () => false;
    release();
    await taking;
    expect(consumers).toHaveLength(1);
    await worker.stop();
  });

  test("a worker whose server does not answer the watchdog is replaced", async () => {
    const { worker, nth, state } = supervised(async () => undefined, { watchdogMs: 20 });
    await nth(1);
    state.isDueJobStanding = () => Promise.reject(new Error("no answer"));
    await nth(2);
    await worker.stop();
  });
});

describe("the handler", () => {
  test("what it throws, at once or later, is logged and stops nothing", async () => {
    let calls = 0;
    const { worker, nth, lines } = supervised(() => {
      calls += 1;
      if (calls === 1) throw new TypeError("at once");
      return calls === 2 ? Promise.reject(new TypeError("later")) : Promise.resolve();
    });
    const consumer = await nth(1);
    for (let job = 0; job < 3; job++) await consumer.take();
    expect(calls).toBe(3);
    expect(lines.filter((line) => line.includes("the wake-up handler failed"))).toHaveLength(2);
    expect(consumer.discarded).toBe(false);
    await worker.stop();
  });

  test("it never runs twice at once in a process, also not while a worker is replaced", async () => {
    let running = 0;
    let most = 0;
    let calls = 0;
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    const { worker, nth } = supervised(async () => {
      calls += 1;
      running += 1;
      most = Math.max(most, running);
      if (calls === 1) await held;
      running -= 1;
    });
    const first = await nth(1);
    const old = first.take();
    await until("the first call", () => calls === 1);
    first.fail(new Error("connection lost"));
    const fresh = (await nth(2)).take();
    release();
    await Promise.all([old, fresh]);
    expect({ calls, most }).toEqual({ calls: 2, most: 1 });
    await worker.stop();
  });
});

describe("stop", () => {
  test("waits for the handler, and then cuts the connections", async () => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    const { worker, nth } = supervised(() => held);
    const consumer = await nth(1);
    const taking = consumer.take();
    consumer.drain = () => taking;
    let stopped = false;
    const stopping = worker.stop().then(() => (stopped = true));
    await until("a turn", async () => true);
    expect({ stopped, discarded: consumer.discarded }).toEqual({ stopped: false, discarded: false });
    release();
    await stopping;
    expect(consumer).toMatchObject({ discarded: true, givenBack: 0 });
  });

  test("gives the job of a handler that does not end to other processes, and returns", async () => {
    const { worker, nth, lines } = supervised(() => new Promise(() => undefined), { drainMs: 30 });
    const consumer = await nth(1);
    void consumer.take();
    consumer.drain = () => new Promise(() => undefined);
    await worker.stop();
    expect(consumer).toMatchObject({ discarded: true, givenBack: 1 });
    expect(lines.some((line) => line.includes("given to another process"))).toBe(true);
  });

  test("returns though nothing answers: neither saying goodbye nor giving back", async () => {
    const { worker, nth } = supervised(() => new Promise(() => undefined), { drainMs: 30 });
    const consumer = await nth(1);
    void consumer.take();
    consumer.drain = () => new Promise(() => undefined);
    consumer.giveBack = () => new Promise(() => undefined);
    await worker.stop();
    expect(consumer.discarded).toBe(true);
  });

  test("returns while the server cannot be prepared, and starts no worker afterwards", async () => {
    let release: () => void = () => undefined;
    const { worker, consumers, state, nth } = supervised(async () => undefined);
    await nth(1);
    state.prepare = () => new Promise((resolve) => (release = resolve));
    consumers[0]?.fail(new Error("down"));
    await until("it is being prepared", () => state.prepared === 2);
    await worker.stop();
    release();
    await until("a turn", async () => true);
    expect(consumers).toHaveLength(1);
  });

  test("may be called twice", async () => {
    const { worker, nth } = supervised(async () => undefined);
    await nth(1);
    await Promise.all([worker.stop(), worker.stop()]);
    await worker.stop();
  });
});
