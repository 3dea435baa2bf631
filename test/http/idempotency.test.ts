import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint, type Reply } from "../../src/http/endpoint.ts";
import type { IdempotencyStore } from "../../src/http/idempotency.ts";
import { type ErrorCode, MayflyError } from "../../src/lib/errors.ts";
import { memoryIdempotency } from "../support/memory-idempotency.ts";
import { until } from "../support/until.ts";
import { type Got, gate, noteEndpoint, type Serving, serving } from "./harness.ts";

let runs = 0;
let behave: () => Promise<Reply> = async () => ({
  status: 201,
  body: { run: runs },
  headers: { location: "/v1/x" },
  etag: 3,
});
const usual = behave;
let store: ReturnType<typeof memoryIdempotency>;
let server: Serving;

const Body = z.strictObject({ text: z.string() });
const counted = (path: string, own = false) =>
  endpoint({
    method: "post",
    path,
    summary: "Counts its runs",
    tag: "runs",
    allow: ["agent"],
    body: Body,
    ...(own ? { idempotency: "own" as const } : {}),
    replies: { 201: z.strictObject({ run: z.number(), key: z.string().optional() }) },
    handle: async ({ idempotencyKey }) => {
      runs += 1;
      return own ? { status: 201, body: { run: runs, key: idempotencyKey } } : behave();
    },
  });
const perTask = endpoint({
  method: "post",
  path: "/v1/tasks/{task_id}/runs",
  summary: "Counts its runs",
  tag: "runs",
  allow: ["agent"],
  params: z.strictObject({ task_id: z.string() }),
  replies: { 204: null },
  handle: async () => {
    runs += 1;
    return { status: 204 };
  },
});
const open = endpoint({
  method: "post",
  path: "/oauth/introspect",
  summary: "An OAuth endpoint",
  tag: "runs",
  allow: ["agent"],
  errors: "oauth",
  body: z.strictObject({ text: z.string() }),
  replies: { 201: z.strictObject({ run: z.number() }) },
  handle: async () => {
    runs += 1;
    return { status: 201, body: { run: runs } };
  },
});

beforeEach(async () => {
  runs = 0;
  behave = async () => ({ status: 201, body: { run: runs }, headers: { location: "/v1/x" }, etag: 3 });
  store = memoryIdempotency();
  server = await serving([counted("/v1/runs"), counted("/v1/other"), counted("/v1/own", true), perTask, open], {
    idempotency: store,
  });
});
afterEach(async () => server[Symbol.asyncDispose]());

interface KeyedAsk {
  readonly path?: string;
  readonly text?: string;
  readonly as?: string;
}

function post(key: string | undefined, { path = "/v1/runs", text = "a", as }: KeyedAsk = {}): Promise<Got> {
  return server.ask({
    path,
    ...(as === undefined ? {} : { as }),
    body: { text },
    headers: key === undefined ? {} : { "idempotency-key": key },
  });
}

test("a finished request is answered again as it was, and does not run again", async () => {
  const first = await post("key-1");
  const again = await post("key-1");
  expect(runs).toBe(1);
  expect([again.status, again.text]).toEqual([first.status, first.text]);
  for (const name of ["etag", "location", "content-type"]) expect(again.headers[name]).toBe(first.headers[name]);
  expect([first.headers["idempotency-replayed"], again.headers["idempotency-replayed"]]).toEqual([undefined, "true"]);
});

test("of fifty requests at once under one key exactly one runs, and every other waits its turn or replays", async () => {
  const started = gate();
  const finish = gate();
  behave = async () => {
    started.open();
    await finish.passed;
    return usual();
  };
  const asked = Array.from({ length: 50 }, () => post("key-1"));
  await started.passed;
  await until("49 answers", () => server.log.filter((line) => line["status"] === 409).length === 49);
  finish.open();
  const got = await Promise.all(asked);
  expect(runs).toBe(1);
  expect(got.filter(({ status }) => status === 201).length).toBe(1);
  const waiting = got.filter(({ status }) => status === 409);
  expect(waiting.length).toBe(49);
  for (const { json, headers } of waiting) {
    expect([json["code"], json["retryable"], headers["retry-after"]]).toEqual(["in_progress", true, "1"]);
  }
  expect((await post("key-1")).headers["idempotency-replayed"]).toBe("true");
  expect(runs).toBe(1);
});

describe("a key belongs to one caller, one route and one payload", () => {
  test("another body is 422", async () => {
    await post("key-1");
    const got = await post("key-1", { text: "b" });
    expect([got.status, got.json["code"], runs]).toEqual([422, "idempotency_mismatch", 1]);
  });

  test("the same value spelled with other bytes is 422 as well", async () => {
    await post("key-1");
    const got = await server.ask({
      path: "/v1/runs",
      body: `{ "text": "a" }`,
      headers: { "idempotency-key": "key-1" },
    });
    expect([got.status, runs]).toEqual([422, 1]);
  });

  test("another path parameter is 422", async () => {
    const ask = (task: string) =>
      server.ask({ method: "POST", path: `/v1/tasks/${task}/runs`, headers: { "idempotency-key": "key-1" } });
    expect((await ask("a")).status).toBe(204);
    expect((await ask("a")).headers["idempotency-replayed"]).toBe("true");
    expect((await ask("b")).status).toBe(422);
    expect(runs).toBe(1);
  });

  test.each<[string, KeyedAsk]>([
    ["subject", { as: "Bearer agent@acme/other" }],
    ["tenant", { as: "Bearer agent@globex/caller-1" }],
    ["route", { path: "/v1/other" }],
  ])("another %s runs on its own and sees nothing of the first", async (_, ask) => {
    await post("key-1");
    const got = await post("key-1", ask);
    expect([got.status, got.headers["idempotency-replayed"], runs]).toEqual([201, undefined, 2]);
  });
});

describe("what is kept under a key", () => {
  const fail = (code: ErrorCode) => async () => {
    throw new MayflyError(code, `run ${runs}`);
  };

  test.each<ErrorCode>(["denied", "not_found", "conflict", "precondition_failed", "target_refused"])(
    "a refusal that is final (%s) is replayed, and recorded each time",
    async (code) => {
      behave = fail(code);
      const first = await post("key-1");
      const again = await post("key-1");
      expect([first.json["detail"], again.json["detail"], runs]).toEqual(["run 1", "run 1", 1]);
      expect([again.status, again.headers["content-type"]]).toEqual([first.status, "application/problem+json"]);
      expect(server.refusals.map((refusal) => refusal.code)).toEqual([code, code]);
    },
  );

  test("a replayed refusal that cannot be recorded is 503, as the first one would be", async () => {
    let recorded = 0;
    const onRefused = async () => {
      recorded += 1;
      if (recorded > 1) throw new Error("the audit is down");
    };
    behave = fail("denied");
    await using other = await serving([counted("/v1/runs")], { onRefused });
    const ask = () => other.ask({ path: "/v1/runs", body: { text: "a" }, headers: { "idempotency-key": "key-1" } });
    expect([(await ask()).status, (await ask()).status, runs]).toEqual([403, 503, 1]);
  });

  test.each<ErrorCode>(["unavailable", "internal", "target_unavailable", "target_rejected", "rate_limited"])(
    "what may pass (%s) frees the key: the next try runs",
    async (code) => {
      behave = fail(code);
      await post("key-1");
      behave = usual;
      const again = await post("key-1");
      expect([again.status, again.headers["idempotency-replayed"], runs]).toEqual([201, undefined, 2]);
    },
  );

  test("a bug frees the key as well", async () => {
    behave = async () => {
      throw new Error("foreign");
    };
    expect((await post("key-1")).status).toBe(500);
    behave = usual;
    expect((await post("key-1")).status).toBe(201);
  });

  test("a body that is refused uses up no key", async () => {
    const bad = await server.ask({ path: "/v1/runs", body: {}, headers: { "idempotency-key": "key-1" } });
    expect([bad.status, store.size]).toEqual([400, 0]);
    expect((await post("key-1")).status).toBe(201);
  });
});

test("an endpoint that keeps its own keys is given the key and always runs", async () => {
  const got = [await post(`"key-1"`, { path: "/v1/own" }), await post("key-1", { path: "/v1/own" })];
  expect(got.map(({ json }) => json)).toEqual([
    { run: 1, key: "key-1" },
    { run: 2, key: "key-1" },
  ]);
  expect(store.size).toBe(0);
  expect((await post("a b", { path: "/v1/own" })).status).toBe(400);
});

test("an OAuth endpoint never replays: an introspection must be of now", async () => {
  const got = [await post("key-1", { path: "/oauth/introspect" }), await post("key-1", { path: "/oauth/introspect" })];
  expect(got.map(({ json }) => json)).toEqual([{ run: 1 }, { run: 2 }]);
});

describe("when the store fails", () => {
  const failing = (method: keyof IdempotencyStore) => ({
    ...memoryIdempotency(),
    [method]: async () => {
      throw new Error("the store is down");
    },
  });

  test("before the work, nothing is done and the answer is 503", async () => {
    await using other = await serving([counted("/v1/runs")], { idempotency: failing("begin") });
    const got = await other.ask({ path: "/v1/runs", body: { text: "a" }, headers: { "idempotency-key": "key-1" } });
    expect([got.status, got.json["code"], runs]).toEqual([503, "unavailable", 0]);
  });

  test("after the work, the answer still says what was done, and a retry does not do it twice", async () => {
    const keys = memoryIdempotency();
    const finish = async () => {
      throw new Error("the store is down");
    };
    await using other = await serving([counted("/v1/runs")], { idempotency: { ...keys, finish } });
    const ask = () => other.ask({ path: "/v1/runs", body: { text: "a" }, headers: { "idempotency-key": "key-1" } });
    expect([(await ask()).status, (await ask()).status, runs]).toEqual([201, 409, 1]);
  });
});

test("a retry after a time-out gets the first try's outcome, not a second run", async () => {
  const finish = gate();
  const slow = noteEndpoint(async ({ body }) => {
    runs += 1;
    await finish.passed;
    return { status: 201, body: { note: body } };
  });
  await using other = await serving([slow], { limits: { handlerTimeoutMs: 50 } });
  const ask = () => other.ask({ body: { text: "a" }, headers: { "idempotency-key": "key-1" } });
  expect((await ask()).status).toBe(503);
  expect((await ask()).status).toBe(409);
  finish.open();
  const replayed = await until("the outcome", async () => {
    const got = await ask();
    return got.status === 201 && got;
  });
  expect([replayed.headers["idempotency-replayed"], runs]).toEqual(["true", 1]);
});
