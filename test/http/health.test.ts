import { describe, expect, jest, test } from "@jest/globals";
import { Registry } from "prom-client";
import { until } from "../support/until.ts";
import { gate, noteEndpoint, serving, TASK_ID, taskEndpoint } from "./harness.ts";

describe("health", () => {
  test("/healthz says only that the process answers, whatever else is down", async () => {
    await using server = await serving([], {
      health: {
        postgres: async () => {
          throw new Error("down");
        },
      },
    });
    const got = await server.ask({ path: "/healthz", as: null });
    expect([got.status, got.json]).toEqual([200, { status: "ok" }]);
  });

  test("/readyz is 200 while every check passes, and 503 with the names of those that do not", async () => {
    let isUp = true;
    await using server = await serving([], {
      health: {
        postgres: async () => {
          if (!isUp) throw Object.assign(new Error("password is hunter2"), { code: "ECONNREFUSED" });
        },
        keys: async () => undefined,
      },
    });
    const up = await server.ask({ path: "/readyz", as: null });
    expect([up.status, up.json]).toEqual([200, { status: "ready", checks: ["postgres", "keys"] }]);
    isUp = false;
    const down = await server.ask({ path: "/readyz", as: null });
    expect([down.status, down.json]).toEqual([503, { status: "not_ready", failed: ["postgres"] }]);
    const line = server.log.find(({ msg }) => msg === "not ready");
    expect(line).toMatchObject({ level: "warn", check: "postgres", err: { code: "ECONNREFUSED" } });
    expect(JSON.stringify(server.log)).not.toContain("hunter2");
  });

  test("what nobody waits for is named when it fails, and takes no process out of service", async () => {
    await using server = await serving([], {
      health: { postgres: async () => undefined },
      healthWarnings: { queue: () => Promise.reject(new Error("down")) },
    });
    const got = await server.ask({ path: "/readyz", as: null });
    expect([got.status, got.json]).toEqual([
      200,
      { status: "ready", checks: ["postgres", "queue"], degraded: ["queue"] },
    ]);
  });

  test("a check that hangs is a failed one after two seconds, and is told so", async () => {
    const asked = gate();
    let signal: AbortSignal | undefined;
    await using server = await serving([], {
      health: {
        queue: (given) => {
          signal = given;
          asked.open();
          return new Promise(() => undefined);
        },
      },
    });
    jest.useFakeTimers({ doNotFake: ["nextTick", "setImmediate", "queueMicrotask", "performance"] });
    try {
      const got = server.ask({ path: "/readyz", as: null });
      await asked.passed;
      jest.advanceTimersByTime(2000);
      expect((await got).json).toEqual({ status: "not_ready", failed: ["queue"] });
      expect(signal?.aborted).toBe(true);
    } finally {
      jest.useRealTimers();
    }
  });

  test("probes are logged at debug alone", async () => {
    await using server = await serving([]);
    const got = await server.ask({ path: "/healthz" });
    expect(await server.logged(got.headers["x-request-id"] ?? "")).toMatchObject({ level: "debug" });
  });
});

describe("metrics", () => {
  test("count requests by constants of the code, never by what was sent", async () => {
    await using server = await serving([noteEndpoint(), taskEndpoint()], { metrics: new Registry() });
    await server.ask({ path: `/v1/tasks/${TASK_ID}` });
    await server.ask({ path: "/v1/tasks/tsk_zzz" });
    await server.ask({ body: { text: "a" } });
    await server.ask({ path: "/v1/nobody-knows-this" });
    await server.ask({ method: "PROPFIND", path: "/v1/notes" });
    // A request counts when its last byte is written, which its caller may see first.
    const { text, headers } = await until("five requests", async () => {
      const got = await server.ask({ path: "/metrics", as: null });
      return got.text.includes('route="unmatched"') && got.text.includes('method="OTHER"') && got;
    });
    expect(headers["content-type"]).toContain("text/plain");
    const counts = [...text.matchAll(/_count\{(.*)\} (\d+)$/gm)]
      .map(([, labels, count]) => `${labels} ${count}`)
      .filter((line) => !line.includes("/metrics"));
    expect(counts.sort()).toEqual([
      'route="/v1/notes",method="OTHER",status="405" 1',
      'route="/v1/notes",method="POST",status="201" 1',
      'route="/v1/tasks/{task_id}",method="GET",status="200" 1',
      'route="/v1/tasks/{task_id}",method="GET",status="404" 1',
      'route="unmatched",method="GET",status="404" 1',
    ]);
    for (const sent of [TASK_ID, "tsk_zzz", "nobody", "PROPFIND"]) expect(text).not.toContain(sent);
  });

  test("have no page without a registry", async () => {
    await using server = await serving([]);
    expect((await server.ask({ path: "/metrics" })).status).toBe(404);
  });
});
