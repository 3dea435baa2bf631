import { expect, test } from "@jest/globals";
import { createLog } from "../../src/lib/log.ts";
import { openQueue } from "../../src/queue/connection.ts";

test("without a queue everything is asked for in vain, and nothing fails: the sweep does the work", async () => {
  await using queue = await openQueue({ kind: "none" }, createLog("silent"));
  queue.wakeUps.now();
  queue.wakeUps.at(new Date());
  await queue.check();
  expect(await queue.depth()).toEqual({ waiting: 0, delayed: 0, active: 0, failed: 0 });
  await queue.startWorker(() => Promise.reject(new Error("never called"))).stop();
});

test("a prefix that could reach into another queue's keys is refused", async () => {
  await expect(openQueue({ kind: "none" }, createLog("silent"), "a:b")).rejects.toBeInstanceOf(TypeError);
});
