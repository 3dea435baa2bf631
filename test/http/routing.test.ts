import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { assertEndpoints } from "../../src/http/catalogue.ts";
import { type Endpoint, endpoint } from "../../src/http/endpoint.ts";
import { notFound } from "../../src/lib/errors.ts";
import { idPattern } from "../../src/lib/ids.ts";
import { noteEndpoint, type Serving, serving, TASK_ID, taskEndpoint } from "./harness.ts";

const UNKNOWN_ID = `tsk_${"f".repeat(32)}`;
let server: Serving;

const end = endpoint({
  method: "post",
  path: "/v1/tasks/{task_id}/end",
  summary: "End a task",
  tag: "tasks",
  allow: ["agent"],
  params: z.strictObject({ task_id: z.string().regex(idPattern("task")) }),
  replies: { 204: null },
  handle: async () => ({ status: 204 }),
});
const search = endpoint({
  method: "get",
  path: "/v1/tasks/search",
  summary: "A literal beside a parameter",
  tag: "tasks",
  allow: ["agent"],
  replies: { 200: z.strictObject({ found: z.boolean() }) },
  handle: async () => ({ status: 200, body: { found: true } }),
});
const keys = endpoint({
  method: "get",
  path: "/.well-known/jwks.json",
  summary: "Keys",
  tag: "keys",
  allow: "public",
  mediaType: "application/jwk-set+json",
  replies: { 200: z.strictObject({ keys: z.array(z.unknown()) }) },
  handle: async () => ({ status: 200, body: { keys: [] }, headers: { "Cache-Control": "public, max-age=300" } }),
});
const split = endpoint({
  method: "get",
  path: "/v1/split",
  summary: "A header with a line break",
  tag: "keys",
  allow: "public",
  replies: { 204: null },
  handle: async () => ({ status: 204, headers: { location: "/a\r\nset-cookie: x=1" } }),
});

beforeAll(async () => {
  const task = taskEndpoint({
    handle: async ({ params }) => {
      const { task_id: id } = params as { task_id: string };
      if (id === UNKNOWN_ID) throw notFound();
      return { status: 200, body: { id }, etag: 7 };
    },
  });
  // The parameter first: the order of declaration must not matter.
  server = await serving([task, search, end, keys, split, noteEndpoint()]);
});
afterAll(async () => server[Symbol.asyncDispose]());

describe("a path is matched exactly, and what does not match is one problem document", () => {
  test.each([
    "/",
    "/v1/notes/",
    "/V1/notes",
    "/v1/Notes",
    "/v1//notes",
    "//v1/notes",
    "/v1/note%73",
    "/v1%2fnotes",
    "/v1/./notes",
    "/v1/x/../notes",
    "/v1/notes;v=1",
    "/v1/notes%00",
    "/v1/notes/%zz",
    "/constructor",
    "/__proto__",
    `/v1/tasks/${TASK_ID}/`,
    `/v1/tasks/${TASK_ID}/END`,
    `/v1/tasks//end`,
    `/${"a".repeat(8000)}`,
  ])("%s → 404", async (path) => {
    const got = await server.ask({ path, method: "POST" });
    expect(got.status).toBe(404);
    expect(got.json).toMatchObject({ code: "not_found", status: 404, retryable: false });
    expect(got.headers["content-type"]).toBe("application/problem+json");
  });
});

describe("an id that is not spelled as one answers as an unknown id does, byte for byte", () => {
  test.each([
    "search2",
    "tsk_1",
    `tsk_${"F".repeat(32)}`,
    `agt_${"f".repeat(32)}`,
    `${UNKNOWN_ID}0`,
    `${UNKNOWN_ID}%0a`,
    `${UNKNOWN_ID}%00`,
    "%2e%2e%2fnotes",
    "..%2f..%2fetc",
    "%F0%9F%90%9B",
    "%ff",
    "%zz",
    "'%20or%201=1--",
  ])("%s", async (id) => {
    const requestId = "same-request-id";
    const headers = { "x-request-id": requestId };
    const known = await server.ask({ path: `/v1/tasks/${UNKNOWN_ID}`, headers });
    const got = await server.ask({ path: `/v1/tasks/${id}`, headers });
    expect(known.status).toBe(404);
    expect(got.text).toBe(known.text);
    const { date: _, ...gotHeaders } = got.headers;
    const { date: __, ...knownHeaders } = known.headers;
    expect(gotHeaders).toEqual(knownHeaders);
  });
});

test("a literal segment wins over a parameter, whatever the order of declaration", async () => {
  expect((await server.ask({ path: "/v1/tasks/search" })).json).toEqual({ found: true });
});

describe("a known path with another method is 405 with what it allows", () => {
  test.each([
    { method: "DELETE", path: "/v1/notes", allow: "POST, OPTIONS" },
    { method: "GET", path: "/v1/notes", allow: "POST, OPTIONS" },
    { method: "HEAD", path: "/v1/notes", allow: "POST, OPTIONS" },
    { method: "PUT", path: `/v1/tasks/${TASK_ID}`, allow: "GET, HEAD, OPTIONS" },
    { method: "TRACE", path: "/v1/notes", allow: "POST, OPTIONS" },
    { method: "PROPFIND", path: "/v1/notes", allow: "POST, OPTIONS" },
    { method: "POST", path: "/healthz", allow: "GET, HEAD, OPTIONS" },
    { method: "POST", path: "/openapi.json", allow: "GET, HEAD, OPTIONS" },
  ])("$method $path", async ({ method, path, allow }) => {
    const got = await server.ask({ method, path });
    expect([got.status, got.headers["allow"]]).toEqual([405, allow]);
    if (method !== "HEAD") expect(got.json).toMatchObject({ code: "method_not_allowed", status: 405 });
  });
});

test("OPTIONS says what a path takes and allows no other origin", async () => {
  const got = await server.ask({ method: "OPTIONS", as: null, headers: { origin: "https://evil.example" } });
  expect([got.status, got.headers["allow"], got.text]).toEqual([204, "POST, OPTIONS", ""]);
  expect(Object.keys(got.headers).filter((name) => name.startsWith("access-control"))).toEqual([]);
});

test("HEAD answers as GET does, without the body", async () => {
  const path = `/v1/tasks/${TASK_ID}`;
  const get = await server.ask({ path });
  const head = await server.ask({ path, method: "HEAD" });
  expect([head.status, head.text, head.headers["content-length"]]).toEqual([200, "", String(get.text.length)]);
  expect(head.headers["etag"]).toBe(get.headers["etag"]);
});

test.each(["x-http-method-override", "x-http-method", "x-method-override"])(
  "the header %s overrides nothing",
  async (name) => {
    const got = await server.ask({ body: { text: "a" }, headers: { [name]: "DELETE" } });
    expect(got.status).toBe(201);
  },
);

const HEADERS = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "referrer-policy": "no-referrer",
  "strict-transport-security": "max-age=31536000",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "()",
};

describe("every answer carries the security headers and nothing about what made it", () => {
  test.each([
    { name: "success", ask: { body: { text: "a" } } },
    { name: "no content", ask: { path: `/v1/tasks/${TASK_ID}/end`, method: "POST" } },
    { name: "bad request", ask: { body: { text: 1 } } },
    { name: "unauthenticated", ask: { body: { text: "a" }, as: null } },
    { name: "unknown path", ask: { path: "/nope" } },
    { name: "method not allowed", ask: { method: "DELETE" } },
    { name: "options", ask: { method: "OPTIONS" } },
    { name: "health", ask: { path: "/healthz" } },
  ])("$name", async ({ ask }) => {
    const { headers } = await server.ask(ask);
    expect(headers).toMatchObject(HEADERS);
    expect(headers["x-request-id"]).toMatch(/^[A-Za-z0-9_-]{8,64}$/);
    expect([headers["x-powered-by"], headers["server"], headers["set-cookie"]]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("malformed HTTP", async () => {
    const answer = (await server.raw("GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n")).toLowerCase();
    for (const [name, value] of Object.entries(HEADERS)) expect(answer).toContain(`${name}: ${value}\r\n`);
  });
});

test("an endpoint may say that its answer can be cached, and of which media type it is", async () => {
  const { headers } = await server.ask({ path: "/.well-known/jwks.json?cache-buster=1", as: null });
  expect([headers["cache-control"], headers["content-type"]]).toEqual([
    "public, max-age=300",
    "application/jwk-set+json",
  ]);
});

test("a header with a line break is a 500 without it, not a second header", async () => {
  const got = await server.ask({ path: "/v1/split" });
  expect([got.status, got.json["code"], got.headers["set-cookie"]]).toEqual([500, "internal", undefined]);
});

describe("a request id", () => {
  test("is the caller's own in the answer, the problem and the log when it is harmless", async () => {
    const sent = "0af7651916cd43dd8448eb211c80319c";
    const got = await server.ask({ path: "/nope", headers: { "x-request-id": sent } });
    expect(got.headers["x-request-id"]).toBe(sent);
    expect(got.json["instance"]).toBe(`urn:mayfly:request:${sent}`);
    expect(await server.logged(sent)).toMatchObject({ route: "unmatched", status: 404 });
  });

  test.each(["short", "a".repeat(65), "with space in it", "semi;colon-1", 'quote"quote', "dots..dots", "{jsonjson}"])(
    "is a new one instead of %p",
    async (sent) => {
      const got = await server.ask({ path: "/nope", headers: { "x-request-id": sent } });
      expect(got.headers["x-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
      expect(got.text).not.toContain(sent);
    },
  );

  test("is a new one when two are sent", async () => {
    const got = await server.ask({ path: "/nope", headers: { "x-request-id": ["aaaaaaaa-1", "bbbbbbbb-2"] } });
    expect(got.headers["x-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe("the log line of a request", () => {
  test("names the route pattern, the caller and the outcome, and nothing of what was sent", async () => {
    const got = await server.ask({
      path: `/v1/tasks/${TASK_ID}/end?marker-query=1`,
      method: "POST",
      as: "Bearer agent@acme/robot-7",
      headers: { "x-marker": "marker-header", cookie: "marker=cookie" },
    });
    const line = await server.logged(got.headers["x-request-id"] ?? "");
    expect(line).toMatchObject({
      level: "info",
      msg: "request",
      method: "POST",
      route: "/v1/tasks/{task_id}/end",
      status: 400,
      code: "invalid_request",
      subject: "robot-7",
    });
    expect(line["tenant"]).toMatch(/^ten_/);
    expect(typeof line["ms"]).toBe("number");
    const written = JSON.stringify(server.log);
    for (const secret of ["marker", "Bearer", TASK_ID]) expect(written).not.toContain(secret);
  });
});

describe("a catalogue with a mistake does not start", () => {
  const sound = taskEndpoint();
  const post = noteEndpoint();
  test.each<[string, Endpoint[], RegExp]>([
    ["the same endpoint twice", [sound, sound], /declared twice/],
    ["a parameter without a schema", [taskEndpoint({ params: z.strictObject({}) })], /parameters \[task_id\]/],
    ["a schema for a parameter that is not there", [taskEndpoint({ path: "/v1/tasks" })], /its schema \[task_id\]/],
    ["a path with a trailing slash", [{ ...post, path: "/v1/notes/" }], /not spelled/],
    ["a path in capitals", [{ ...post, path: "/V1/notes" }], /not spelled/],
    ["a wildcard in a path", [{ ...post, path: "/v1/*rest" }], /not spelled/],
    ["a body that drops unknown members", [{ ...post, body: z.object({ a: z.string() }) }], /unknown members at \//],
    [
      "a body that drops them deep inside",
      [{ ...post, body: z.strictObject({ a: z.array(z.object({ b: z.string() })) }) }],
      /\/properties\/a\/items/,
    ],
    ["a query that drops them", [{ ...post, query: z.object({ a: z.string() }) }], /query schema/],
    ["an error as a reply", [{ ...post, replies: { 404: null } }], /error as a reply/],
    ["no reply", [{ ...post, replies: {} }], /no reply/],
    ["GET with a body", [{ ...post, method: "get" }], /GET takes no body/],
  ])("%s", (_, endpoints, message) => {
    expect(() => assertEndpoints(endpoints)).toThrow(message);
  });
});
