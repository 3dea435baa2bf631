import { describe, expect, test } from "@jest/globals";
import type { WakeUps } from "../../src/queue/queue.ts";
import type { WakeJob } from "../../src/queue/server.ts";
import { createWakeUps } from "../../src/queue/wake-ups.ts";
import { until } from "../support/until.ts";

const HOUR_MS = 3_600_000;

/** A queue's server that does with an add what the test says. */
interface Fake {
  readonly wakeUps: WakeUps;
  /** Every batch of jobs, as it was handed over. */
  readonly batches: (readonly WakeJob[])[];
  readonly jobs: () => readonly WakeJob[];
  readonly misses: () => number;
  readonly failures: unknown[];
}

function fakeQueue(add: (jobs: readonly WakeJob[]) => Promise<void> = async () => undefined): Fake {
  const batches: (readonly WakeJob[])[] = [];
  const failures: unknown[] = [];
  let misses = 0;
  const wakeUps = createWakeUps({
    add: async (jobs) => {
      batches.push(jobs);
      await add(jobs);
    },
    onFailure: (error) => void failures.push(error),
    onMiss: (count) => (misses += count),
  });
  return { wakeUps, batches, jobs: () => batches.flat(), misses: () => misses, failures };
}

/** A full second that is well ahead, so that its shared job is used. */
function secondAhead(seconds: number): Date {
  return new Date((Math.ceil(Date.now() / 1_000) + seconds) * 1_000);
}

/** A full second that is between 0.4 and 0.95 seconds ahead. */
async function secondClose(): Promise<Date> {
  await until("the middle of a second", () => Date.now() % 1_000 > 50 && Date.now() % 1_000 < 600);
  return new Date(Math.ceil(Date.now() / 1_000) * 1_000);
}

describe("what becomes of calls", () => {
  test("a hundred thousand calls for one second are one job, whose id is the second", async () => {
    const queue = fakeQueue();
    const time = secondAhead(60);
    for (let call = 0; call < 100_000; call++) queue.wakeUps.at(time);
    await until("the job", () => queue.jobs().length > 0);
    for (let call = 0; call < 1_000; call++) queue.wakeUps.at(time);
    queue.wakeUps.now();
    await until("the wake-up of now", () => queue.jobs().some(({ id }) => id.startsWith("now-")));
    expect(queue.jobs().filter(({ id }) => id.startsWith("wake-"))).toEqual([
      { id: `wake-${time.getTime() / 1_000}`, at: time.getTime() + 20, bucket: time.getTime() / 1_000 },
    ]);
  });

  test("a time within a second is looked at after it has passed, never before", async () => {
    const queue = fakeQueue();
    const second = secondAhead(60).getTime();
    queue.wakeUps.at(new Date(second + 1));
    queue.wakeUps.at(new Date(second + 999));
    await until("the job", () => queue.jobs().length > 0);
    expect(queue.jobs().map(({ at }) => at)).toEqual([second + 1_020]);
  });

  test("no id holds a colon, which BullMQ rejects", async () => {
    const queue = fakeQueue();
    queue.wakeUps.now();
    queue.wakeUps.at(secondAhead(60));
    queue.wakeUps.at(new Date(Date.now() + 300));
    await until("three jobs", () => queue.jobs().length === 3);
    for (const { id } of queue.jobs()) expect(id).toMatch(/^[a-z0-9-]+$/);
  });

  test("one add is under way at a time, and the calls that come meanwhile share the next", async () => {
    const held: (() => void)[] = [];
    const queue = fakeQueue(() => new Promise((resolve) => held.push(resolve)));
    queue.wakeUps.now();
    await until("the first add", () => held.length === 1);
    for (let call = 0; call < 1_000; call++) queue.wakeUps.now();
    queue.wakeUps.at(secondAhead(60));
    expect(held.length).toBe(1);
    held[0]?.();
    await until("the second add", () => held.length === 2);
    held[1]?.();
    expect(queue.batches.map((jobs) => jobs.length)).toEqual([1, 2]);
    expect(new Set(queue.jobs().map(({ id }) => id)).size).toBe(3);
  });

  test("a call is never answered by an add that began before it", async () => {
    const held: (() => void)[] = [];
    const queue = fakeQueue(() => new Promise((resolve) => held.push(resolve)));
    const soon = await secondClose();
    queue.wakeUps.at(soon);
    await until("the first add", () => held.length === 1);
    queue.wakeUps.at(soon);
    held[0]?.();
    await until("an add of its own", () => queue.jobs().length === 2);
    held[1]?.();
  });
});

describe("a credential that is committed while its second's job runs (reliability B2)", () => {
  test("less than a second ahead, the shared id is not used: the job of that id may have been taken", async () => {
    const queue = fakeQueue();
    const second = await secondClose();
    queue.wakeUps.at(second);
    await until("a job", () => queue.jobs().length === 1);
    queue.wakeUps.at(second);
    await until("another job", () => queue.jobs().length === 2);
    const ids = queue.jobs().map(({ id }) => id);
    // Whether the second was still to come or just over, both ids are new.
    expect(ids).not.toContain(`wake-${second.getTime() / 1_000}`);
    expect(new Set(ids).size).toBe(2);
  });

  test("when the second is over, the wake-up is for now", async () => {
    const queue = fakeQueue();
    queue.wakeUps.at(new Date(Date.now() - 5_000));
    await until("a job", () => queue.jobs().length === 1);
    expect(queue.jobs()[0]?.id).toMatch(/^now-/);
  });
});

describe("times that are no times", () => {
  test("a wait is at most an hour, also for the end of time and for Infinity", async () => {
    const queue = fakeQueue();
    const infinite = Number.POSITIVE_INFINITY as unknown as Date;
    for (const time of [new Date(Date.now() + 2 * HOUR_MS), new Date(8.64e15), infinite]) queue.wakeUps.at(time);
    await until("a job", () => queue.jobs().length > 0);
    for (const { at } of queue.jobs()) {
      expect(at - Date.now()).toBeLessThanOrEqual(HOUR_MS);
      expect(at - Date.now()).toBeGreaterThan(HOUR_MS - 60_000);
    }
    expect(queue.jobs().length).toBeLessThanOrEqual(2);
  });

  test("NaN and what is no date at all throw nothing and add nothing, but are counted", () => {
    const queue = fakeQueue();
    queue.wakeUps.at(new Date(Number.NaN));
    queue.wakeUps.at(undefined as unknown as Date);
    queue.wakeUps.at({} as unknown as Date);
    expect(queue.misses()).toBe(3);
    expect(queue.jobs()).toEqual([]);
  });

  test("the beginning of time is now", async () => {
    const queue = fakeQueue();
    queue.wakeUps.at(new Date(-8.64e15));
    queue.wakeUps.at(Number.NEGATIVE_INFINITY as unknown as Date);
    await until("a job", () => queue.jobs().length > 0);
    expect(queue.jobs().map(({ id }) => id.slice(0, 4))).toEqual(["now-"]);
  });
});

describe("a server that hangs or fails", () => {
  test("calls return in the turn of the event loop that they are made in, and give nothing to wait for", () => {
    const queue = fakeQueue(() => new Promise(() => undefined));
    let turned = false;
    setImmediate(() => (turned = true));
    const time = secondAhead(60);
    for (let call = 0; call < 10_000; call++) {
      expect(queue.wakeUps.now() as unknown).toBeUndefined();
      expect(queue.wakeUps.at(time) as unknown).toBeUndefined();
    }
    expect(turned).toBe(false);
  });

  test("an add that throws at once throws at nobody", async () => {
    const queue = fakeQueue(() => {
      throw new Error("synchronously");
    });
    queue.wakeUps.now();
    await until("the miss", () => queue.misses() === 1);
  });

  test("a hanging add is given up and counted, and after a pause the next one is tried", async () => {
    let hang = true;
    const queue = fakeQueue(() => (hang ? new Promise(() => undefined) : Promise.resolve()));
    queue.wakeUps.now();
    await until("the miss", () => queue.misses() === 1);
    expect(queue.failures).toHaveLength(1);
    hang = false;
    const tried = queue.batches.length;
    await until("a later add", () => {
      queue.wakeUps.now();
      return queue.batches.length > tried;
    });
    expect(queue.failures).toHaveLength(1);
  });

  test("while it fails, a storm of calls costs about one try a second, and everything else is lost at once", async () => {
    const queue = fakeQueue(() => Promise.reject(new Error("down")));
    const began = performance.now();
    let asked = 0;
    while (performance.now() - began < 2_500) {
      queue.wakeUps.at(secondAhead(60 + (asked++ % 1_000)));
      queue.wakeUps.now();
      if (asked % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    const lasted = (performance.now() - began) / 1_000;
    expect(queue.batches.length).toBeGreaterThan(0);
    expect(queue.batches.length).toBeLessThanOrEqual(Math.ceil(lasted));
    await until("every call of a turn is accounted for", () => queue.misses() > queue.batches.length);
  });

  test("a second whose add was lost is forgotten, so that a later call adds it", async () => {
    let down = true;
    const queue = fakeQueue(() => (down ? Promise.reject(new Error("down")) : Promise.resolve()));
    const time = secondAhead(60);
    queue.wakeUps.at(time);
    await until("the miss", () => queue.misses() === 1);
    down = false;
    await until("the second try", () => {
      queue.wakeUps.at(time);
      return queue.batches.length === 2;
    });
    expect(queue.jobs().map(({ id }) => id)).toEqual(Array(2).fill(`wake-${time.getTime() / 1_000}`));
  });

  test("a metric that throws breaks nothing", async () => {
    let added = 0;
    const wakeUps = createWakeUps({
      add: async () => {
        added += 1;
        throw new Error("down");
      },
      onFailure: () => undefined,
      onMiss: () => {
        throw new Error("the metric is broken");
      },
    });
    wakeUps.at(new Date(Number.NaN));
    wakeUps.now();
    await until("the first add", () => added === 1);
    await until("the next add", () => {
      wakeUps.now();
      return added === 2;
    });
  });
});

test("a clock that is set back does not grow what is remembered without bound", async () => {
  const real = Date.now;
  const begin = real();
  const queue = fakeQueue();
  const first = new Date(begin + 60_000);
  try {
    queue.wakeUps.at(first);
    for (let day = 1; day <= 2; day++) {
      Date.now = () => begin - day * 86_400_000;
      for (let second = 2; second < 3_000; second++) queue.wakeUps.at(new Date(Date.now() + second * 1_000));
    }
    Date.now = () => begin;
    await until("all is handed over", () => queue.jobs().length === 1 + 2 * 2_998);
    queue.wakeUps.at(first);
    await until("the first one, forgotten to make room, is added again", () => queue.jobs().length === 2 + 2 * 2_998);
  } finally {
    Date.now = real;
  }
});
