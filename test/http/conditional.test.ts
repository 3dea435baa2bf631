import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { type Endpoint, endpoint, type Reply } from "../../src/http/endpoint.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { noteEndpoint, type Serving, serving, TASK_ID, taskEndpoint } from "./harness.ts";

let runs = 0;
let server: Serving;

const change = endpoint({
  method: "patch",
  path: "/v1/agent",
  summary: "Change it",
  tag: "agents",
  allow: ["admin"],
  conditional: true,
  body: z.strictObject({ name: z.string() }),
  replies: { 200: z.strictObject({ seen: z.string().optional() }) },
  handle: async ({ ifMatch }) => {
    runs += 1;
    if (ifMatch === "old") throw new MayflyError("precondition_failed", "it has changed since");
    return { status: 200, body: { seen: ifMatch }, etag: "next" };
  },
});

beforeAll(async () => {
  server = await serving([change, taskEndpoint(), noteEndpoint()]);
});
afterAll(async () => server[Symbol.asyncDispose]());

describe("a change needs the version that the caller read", () => {
  const ask = (ifMatch?: string) =>
    server.ask({
      path: "/v1/agent",
      method: "PATCH",
      as: "Bearer admin",
      body: { name: "x" },
      headers: ifMatch === undefined ? {} : { "if-match": ifMatch },
    });

  test("and is given it without its quotes; the answer has the next one, strong", async () => {
    const got = await ask('"v7"');
    expect([got.status, got.json, got.headers["etag"]]).toEqual([200, { seen: "v7" }, '"next"']);
  });

  test.each<[string | undefined, number, string]>([
    [undefined, 428, "precondition_required"],
    ['"old"', 412, "precondition_failed"],
    ['W/"v7"', 412, "precondition_failed"],
    ["*", 400, "invalid_request"],
    ["v7", 400, "invalid_request"],
    ['"a", "b"', 400, "invalid_request"],
    ['""', 400, "invalid_request"],
    ['"a"b"', 400, "invalid_request"],
    [`"${"a".repeat(129)}"`, 400, "invalid_request"],
  ])("If-Match: %s → %i %s", async (ifMatch, status, code) => {
    const before = runs;
    const got = await ask(ifMatch);
    expect([got.status, got.json["code"]]).toEqual([status, code]);
    expect(runs).toBe(ifMatch === '"old"' ? before + 1 : before);
  });

  test("but not where the endpoint does not ask for it", async () => {
    expect((await server.ask({ body: { text: "a" }, headers: { "if-match": "nonsense" } })).status).toBe(201);
  });
});

describe("a read that the caller has already is 304 without a body", () => {
  test.each([
    ['"7"', 304],
    ['W/"7"', 304],
    ['"6", "7"', 304],
    ["*", 304],
    ['"8"', 200],
    ["7", 200],
  ])("If-None-Match: %s → %i", async (header, status) => {
    const got = await server.ask({ path: `/v1/tasks/${TASK_ID}`, headers: { "if-none-match": header } });
    expect([got.status, got.headers["etag"]]).toEqual([status, '"7"']);
    if (status === 304) expect([got.text, got.headers["content-length"]]).toEqual(["", undefined]);
  });
});

describe("under test a reply that its endpoint does not declare is a 500", () => {
  const replying = (reply: Reply, overrides: Partial<Endpoint> = {}) =>
    taskEndpoint({
      replies: { 200: z.strictObject({ id: z.string() }), 204: null },
      ...overrides,
      handle: async () => reply,
    });

  test.each<[string, Reply]>([
    ["a status that is not declared", { status: 202, body: { id: "x" } }],
    ["a member that is not declared", { status: 200, body: { id: "x", hash: "y" } }],
    ["a missing member", { status: 200, body: {} }],
    ["no body", { status: 200 }],
    ["a body where none is declared", { status: 204, body: {} }],
    ["a value of another type", { status: 200, body: { id: 1 } }],
  ])("%s", async (_, reply) => {
    await using other = await serving([replying(reply)]);
    const got = await other.ask({ path: `/v1/tasks/${TASK_ID}` });
    expect([got.status, got.json["code"]]).toEqual([500, "internal"]);
    await using lax = await serving([replying(reply)], { validateReplies: false });
    expect((await lax.ask({ path: `/v1/tasks/${TASK_ID}` })).status).toBe(reply.status);
  });

  test.each<[string, Reply]>([
    ["a status that HTTP does not have", { status: 42 }],
    ["a body that is no JSON", { status: 200, body: { size: 1n } }],
    ["a header without a value", { status: 204, headers: { location: undefined as never } }],
  ])("and %s is one even when nobody checks", async (_, reply) => {
    await using other = await serving([replying(reply)], { validateReplies: false });
    const got = await other.ask({ path: `/v1/tasks/${TASK_ID}` });
    expect([got.status, got.json["code"]]).toEqual([500, "internal"]);
  });

  test("while what goes over the wire as declared passes, dates included", async () => {
    const replies = { 200: z.strictObject({ at: z.iso.datetime(), gone: z.string().optional() }) };
    await using other = await serving([
      replying({ status: 200, body: { at: new Date(0), gone: undefined } }, { replies }),
    ]);
    expect((await other.ask({ path: `/v1/tasks/${TASK_ID}` })).json).toEqual({ at: "1970-01-01T00:00:00.000Z" });
  });

  test("and text is written as it is under a media type that is no JSON", async () => {
    const overrides = { mediaType: "application/statuslist+jwt", replies: { 200: z.string() } };
    await using other = await serving([replying({ status: 200, body: "a.b.c" }, overrides)]);
    const got = await other.ask({ path: `/v1/tasks/${TASK_ID}` });
    expect([got.text, got.headers["content-type"]]).toEqual(["a.b.c", "application/statuslist+jwt"]);
    await using wrong = await serving([replying({ status: 200, body: { a: 1 } }, overrides)], {
      validateReplies: false,
    });
    expect((await wrong.ask({ path: `/v1/tasks/${TASK_ID}` })).status).toBe(500);
  });
});
