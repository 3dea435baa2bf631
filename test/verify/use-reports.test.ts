import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { systemClock } from "../../src/verify/clock.ts";
import type { Problem } from "../../src/verify/index.ts";
import { createUseReports, type Use, type UseReports } from "../../src/verify/use-reports.ts";
import { until } from "../support/until.ts";
import { type Broker, bodyOf, startBroker, TOOL_TOKEN, usesEndpoint } from "./broker.ts";

let broker: Broker;
let reports: UseReports;
const problems: Problem[] = [];

beforeEach(async () => {
  broker = await startBroker();
  problems.length = 0;
  reports = createUseReports({
    endpoint: usesEndpoint(broker),
    authorization: () => TOOL_TOKEN,
    clock: systemClock,
    onProblem: (problem) => problems.push(problem),
  });
});
afterEach(async () => {
  await reports.close(5000);
  await broker[Symbol.asyncDispose]();
  expect(broker.problems).toEqual([]);
});

const use = (index: number): Use => ({
  credential_id: `crd_${index}`,
  action: "read",
  resource: "tickets",
  outcome: "allowed",
});
const told = (): string[] => broker.uses.map(({ credential_id: id }) => id);
const numbers = (count: number): string[] => Array.from({ length: count }, (_, index) => `crd_${index}`);

describe("reports of uses", () => {
  test("arrive by themselves, in order, in batches of at most 500", async () => {
    for (let index = 0; index < 1234; index += 1) reports.report(use(index));
    await until("all were acknowledged", () => reports.state().waiting === 0);
    expect(told()).toEqual(numbers(1234));
    expect(broker.asked["uses"]).toBe(3);
    expect(reports.state()).toEqual({ waiting: 0, dropped: 0 });
  });

  test("that come one by one share a request", async () => {
    for (let index = 0; index < 10; index += 1) {
      reports.report(use(index));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until("all arrived", () => broker.uses.length === 10);
    expect(broker.asked["uses"]).toBe(1);
  });

  test("are delivered once though the broker fails, by the same key", async () => {
    const { uses } = broker.routes;
    let attempts = 0;
    broker.routes.uses = (request, response) => {
      attempts += 1;
      if (attempts === 1) return void response.writeHead(500).end();
      if (attempts === 2) return void response.writeHead(401).end();
      // Taken, but the answer is lost.
      if (attempts === 3) return uses(request, Object.assign(response, { writeHead: () => response.destroy() }));
      return uses(request, response);
    };
    reports.report(use(0));
    await until("it was acknowledged", () => reports.state().waiting === 0);
    expect(attempts).toBe(4);
    expect(told()).toEqual(["crd_0"]);
    expect(new Set(broker.idempotencyKeys).size).toBe(1);
    expect(problems.map(({ code }) => code)).toEqual(["uses_not_sent", "uses_not_sent", "uses_not_sent"]);
  });

  test("that the broker does not take do not keep the others from it", async () => {
    const { uses } = broker.routes;
    const poison = new Set(["crd_3", "crd_41"]);
    broker.routes.uses = (request, response) => {
      void bodyOf(request).then((text) => {
        const sent = (JSON.parse(text) as { uses: Use[] }).uses;
        const isPoisoned = sent.some(({ credential_id: id }) => poison.has(id));
        if (!isPoisoned) broker.uses.push(...(sent as never[]));
        response.writeHead(isPoisoned ? 422 : 202).end();
      });
    };
    for (let index = 0; index < 100; index += 1) reports.report(use(index));
    await until("the rest arrived", () => broker.uses.length === 98 && reports.state().waiting === 0);
    expect(told()).toEqual(numbers(100).filter((id) => !poison.has(id)));
    expect(reports.state().dropped).toBe(2);
    broker.routes.uses = uses;
  });

  test("make room for newer ones when the broker is away, and the lost ones are counted", async () => {
    const { uses } = broker.routes;
    broker.routes.uses = (_request, response) => void response.writeHead(503).end();
    for (let index = 0; index < 500; index += 1) reports.report(use(index));
    await until("the first batch is under way", () => problems.length > 0);
    for (let index = 500; index < 10_100; index += 1) reports.report(use(index));
    expect(reports.state()).toEqual({ waiting: 10_000, dropped: 100 });
    broker.routes.uses = uses;
    await until("the rest was acknowledged", () => reports.state().waiting === 0);
    expect(told().slice(0, 501)).toEqual([...numbers(500), "crd_600"]);
  });

  test.each([
    ["nothing", ""],
    ["a control character", "a\nb"],
    ["a name that the registry cannot have", "tickets/7"],
    ["an endless name", "x".repeat(64)],
  ])("of %s are not sent: the broker would refuse the batch", async (_what, resource) => {
    reports.report({ ...use(0), resource });
    reports.report(use(1));
    await until("the other one arrived", () => broker.uses.length === 1);
    expect(told()).toEqual(["crd_1"]);
    expect(reports.state().dropped).toBe(1);
  });

  test("are flushed at the end", async () => {
    for (let index = 0; index < 700; index += 1) reports.report(use(index));
    await reports.close(30_000);
    expect(told()).toEqual(numbers(700));
    reports.report(use(700));
    expect(reports.state()).toEqual({ waiting: 0, dropped: 1 });
  });

  test("are given up at the end when the broker is away: a close does not hang", async () => {
    broker.routes.uses = () => {};
    for (let index = 0; index < 700; index += 1) reports.report(use(index));
    await reports.close(100);
    expect(reports.state()).toEqual({ waiting: 0, dropped: 700 });
  });
});
