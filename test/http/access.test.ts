import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint } from "../../src/http/endpoint.ts";
import { type ErrorCode, MayflyError } from "../../src/lib/errors.ts";
import { authenticateForTest, noteEndpoint, type Serving, serving, TASK_ID, taskEndpoint } from "./harness.ts";

let runs = 0;
let server: Serving;

const peek = endpoint({
  method: "post",
  path: "/v1/peek",
  summary: "A public endpoint that looks at its principal",
  tag: "notes",
  allow: "public",
  replies: { 200: z.unknown() },
  handle: async ({ principal }) => ({ status: 200, body: { subject: principal.subject } }),
});
const denied = endpoint({
  method: "post",
  path: "/v1/denied",
  summary: "A denial with reasons",
  tag: "notes",
  allow: ["agent"],
  replies: { 204: null },
  handle: async () => {
    throw new MayflyError("denied", "policy says no", {
      reasons: [{ code: "purpose_expired", detail: "the purpose ended", remedy: "ttl:300" }],
      retryAfterSeconds: 2.2,
    });
  },
});
const broken = endpoint({
  method: "post",
  path: "/v1/broken",
  summary: "A bug",
  tag: "notes",
  allow: ["agent"],
  replies: { 204: null },
  handle: async () => {
    throw Object.assign(new Error("select secret from table where password = 'hunter2'"), { code: "42P01" });
  },
});

beforeAll(async () => {
  const counted = noteEndpoint(async ({ body }) => {
    runs += 1;
    return { status: 201, body: { note: body } };
  });
  server = await serving([counted, taskEndpoint(), peek, denied, broken]);
});
afterAll(async () => server[Symbol.asyncDispose]());
beforeEach(() => {
  server.refusals.length = 0;
});

describe("who is not known gets 401 with a challenge, before anything else is looked at", () => {
  test.each([
    { name: "no credentials", headers: {}, challenge: "Bearer" },
    {
      name: "a token that is not accepted",
      headers: { authorization: "Bearer x.y.z" },
      challenge: 'Bearer error="invalid_token"',
    },
    {
      name: "a DPoP token that is not accepted",
      headers: { authorization: "DPoP x" },
      challenge: 'DPoP error="invalid_token"',
    },
    { name: "a password", headers: { authorization: "Basic YTpi" }, challenge: 'Basic realm="mayfly"' },
    { name: "an empty header", headers: { authorization: "" }, challenge: 'Bearer error="invalid_token"' },
  ])("$name", async ({ headers, challenge }) => {
    const got = await server.ask({ as: null, headers, body: "{ not json and too long".repeat(9000) });
    expect([got.status, got.headers["www-authenticate"]]).toEqual([401, challenge]);
    expect(got.json).toMatchObject({
      code: "unauthenticated",
      status: 401,
      type: "https://mayfly.dev/problems/unauthenticated",
    });
    expect(server.refusals).toMatchObject([
      { code: "unauthenticated", route: "/v1/notes", method: "POST", subject: undefined },
    ]);
  });
});

test("a 401 of a read is recorded too", async () => {
  const got = await server.ask({ path: `/v1/tasks/${TASK_ID}`, as: null });
  expect(got.status).toBe(401);
  expect(server.refusals).toMatchObject([{ code: "unauthenticated", route: "/v1/tasks/{task_id}", method: "GET" }]);
});

test("a role that the endpoint does not name is 403, whatever the body", async () => {
  const before = runs;
  const got = await server.ask({ as: "Bearer auditor", body: "not json" });
  expect([got.status, got.json["code"]]).toEqual([403, "forbidden"]);
  expect(server.refusals).toMatchObject([{ code: "forbidden", subject: "caller-1" }]);
  expect(runs).toBe(before);
});

describe("a header that decides something is refused when it comes twice", () => {
  test.each([
    { name: "authorization", values: ["Bearer agent", "Bearer admin"] },
    { name: "authorization", values: ["Bearer agent", "Bearer agent"] },
    { name: "content-type", values: ["application/json", "text/plain"] },
    { name: "idempotency-key", values: ["a", "b"] },
    { name: "dpop", values: ["a", "b"] },
    { name: "if-match", values: ['"1"', '"2"'] },
  ])("$name: $values", async ({ name, values }) => {
    const body = `{"text":"a"}`;
    const lines = values.map((value, index) => `${index === 0 ? name : name.toUpperCase()}: ${value}\r\n`).join("");
    const rest = name === "authorization" ? "" : "authorization: Bearer agent\r\n";
    const type = name === "content-type" ? "" : "content-type: application/json\r\n";
    const got = await server.raw(
      `POST /v1/notes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${lines}${rest}${type}content-length: ${body.length}\r\n\r\n${body}`,
    );
    expect(got).toMatch(/^HTTP\/1\.1 400 /);
    expect(got).toContain(`"pointer":"#/header/${name}"`);
  });

  test("and so are more headers than 64, the last of which Node would drop in silence", async () => {
    const many = Array.from({ length: 70 }, (_, index) => `x-h-${index}: 1\r\n`).join("");
    const got = await server.raw(
      `POST /v1/notes HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer agent\r\n${many}\r\n`,
    );
    expect(got).toMatch(/^HTTP\/1\.1 400 /);
    expect(got).toContain("more than 64 headers");
  });
});

test("an authentication that fails for another reason than the caller is a 500 and lets nobody in", async () => {
  const before = runs;
  await using other = await serving([noteEndpoint()], {
    authenticate: async () => {
      throw new TypeError("keys are gone");
    },
  });
  const got = await other.ask({ body: { text: "a" } });
  expect([got.status, got.json["code"]]).toEqual([500, "internal"]);
  expect(runs).toBe(before);
});

test("an authentication is told method, path and address, which proofs of possession are bound to", async () => {
  const seen: unknown[] = [];
  await using other = await serving([taskEndpoint()], {
    authenticate: async (headers, { method, path, remoteAddress }) => {
      seen.push({ method, path, remoteAddress });
      return authenticateForTest(headers);
    },
  });
  await other.ask({ path: `/v1/tasks/${TASK_ID}?x=1` });
  expect(seen).toEqual([{ method: "GET", path: `/v1/tasks/${TASK_ID}`, remoteAddress: "127.0.0.1" }]);
});

test("a public endpoint that looks at its principal fails instead of seeing somebody", async () => {
  const got = await server.ask({ path: "/v1/peek", method: "POST", as: null });
  expect([got.status, got.json["code"]]).toEqual([500, "internal"]);
});

describe("a refusal", () => {
  test("carries its reasons to the caller and to the record", async () => {
    const got = await server.ask({ path: "/v1/denied", method: "POST" });
    const reasons = [{ code: "purpose_expired", detail: "the purpose ended", remedy: "ttl:300" }];
    expect([got.status, got.headers["retry-after"]]).toEqual([403, "3"]);
    expect(got.json).toMatchObject({ code: "denied", detail: "policy says no", reasons });
    expect(server.refusals).toMatchObject([
      { code: "denied", reasons, subject: "caller-1", requestId: got.headers["x-request-id"] },
    ]);
  });

  test("of a body is recorded by pointers, never by values", async () => {
    await server.ask({ body: { text: 1, extra: "VALUE" } });
    expect(server.refusals).toMatchObject([{ code: "invalid_request", pointers: ["/text", "/extra"] }]);
    expect(JSON.stringify(server.refusals)).not.toContain("VALUE");
  });

  test("of a read is not recorded, a success neither", async () => {
    await server.ask({ path: "/v1/tasks/tsk_1" });
    await server.ask({ body: { text: "a" } });
    expect(server.refusals).toEqual([]);
  });

  test("is recorded before the answer leaves", async () => {
    const order: string[] = [];
    let release: () => void = () => undefined;
    const recorded = new Promise<void>((resolve) => {
      release = resolve;
    });
    await using other = await serving([noteEndpoint()], {
      onRefused: async () => {
        await recorded;
        order.push("recorded");
      },
    });
    const answer = other.ask({ body: {} }).then(({ status }) => order.push(`answered ${status}`));
    await new Promise(setImmediate);
    release();
    await answer;
    expect(order).toEqual(["recorded", "answered 400"]);
  });

  test.each<[string, string | null, unknown]>([
    ["a bad body", "Bearer agent", {}],
    ["a wrong role", "Bearer auditor", { text: "a" }],
    ["no credentials", null, { text: "a" }],
  ])("that cannot be recorded (%s) is 503 instead", async (_, as, body) => {
    await using other = await serving([noteEndpoint()], {
      onRefused: async () => {
        throw new Error("the audit is down");
      },
    });
    const got = await other.ask({ as, body });
    expect([got.status, got.json["code"], got.headers["retry-after"]]).toEqual([503, "unavailable", "1"]);
    expect(got.text).not.toContain("audit");
  });
});

test("a bug is a 500 that says nothing of its cause, which the log holds without the text", async () => {
  const got = await server.ask({ path: "/v1/broken", method: "POST" });
  expect([got.status, got.json["code"], got.json["retryable"]]).toEqual([500, "internal", true]);
  const line = await server.logged(got.headers["x-request-id"] ?? "");
  expect(line).toMatchObject({ level: "error", err: { code: "internal", cause: { name: "Error", code: "42P01" } } });
  for (const text of [got.text, JSON.stringify(line)]) expect(text).not.toContain("hunter2");
});

test("every error code answers with its own status, title and type", async () => {
  const codes: ErrorCode[] = [
    "conflict",
    "not_found",
    "rate_limited",
    "target_unavailable",
    "target_rejected",
    "unavailable",
  ];
  let next: ErrorCode = "conflict";
  await using other = await serving([
    noteEndpoint(async () => {
      throw new MayflyError(next, "as asked");
    }),
  ]);
  for (const code of codes) {
    next = code;
    const { status, title, retryable } = new MayflyError(code, "");
    const got = await other.ask({ body: { text: "a" } });
    expect(got.status).toBe(status);
    expect(got.json).toMatchObject({
      type: `https://mayfly.dev/problems/${code}`,
      title,
      status,
      detail: "as asked",
      code,
      retryable,
    });
  }
});

describe("a flood of bad credentials", () => {
  test("is answered 429 beyond its share and no longer recorded, while good credentials still work", async () => {
    await using other = await serving([noteEndpoint()]);
    const statuses: number[] = [];
    let retryAfter: string | undefined;
    for (let index = 0; index < 40; index += 1) {
      const got = await other.ask({ as: "Bearer ?", body: { text: "a" } });
      statuses.push(got.status);
      retryAfter ??= got.headers["retry-after"];
    }
    expect(statuses.slice(0, 30)).toEqual(Array.from({ length: 30 }, () => 401));
    expect(statuses.at(-1)).toBe(429);
    expect(Number(retryAfter)).toBeGreaterThanOrEqual(1);
    expect(other.refusals.length).toBe(statuses.filter((status) => status === 401).length);
    expect((await other.ask({ body: { text: "a" } })).status).toBe(201);
  });

  test("is counted by what a trusted proxy says, and only then", async () => {
    const flood = async (other: Serving) => {
      const statuses = new Set<number>();
      for (let index = 0; index < 40; index += 1) {
        const got = await other.ask({ as: null, body: {}, headers: { "x-forwarded-for": `10.0.0.${index}` } });
        statuses.add(got.status);
      }
      return [...statuses];
    };
    await using direct = await serving([noteEndpoint()]);
    await using proxied = await serving([noteEndpoint()], { trustProxy: ["127.0.0.1"] });
    expect(await flood(direct)).toEqual([401, 429]);
    expect(await flood(proxied)).toEqual([401]);
  });
});
