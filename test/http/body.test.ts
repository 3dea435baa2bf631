import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint } from "../../src/http/endpoint.ts";
import { type Ask, Note, noteEndpoint, type Serving, serving } from "./harness.ts";

const SECRET = "s3cr3t-value-of-a-caller";
let runs = 0;
let server: Serving;

const release = endpoint({
  method: "post",
  path: "/v1/release",
  summary: "Give back",
  tag: "notes",
  allow: ["agent"],
  replies: { 204: null },
  handle: async () => ({ status: 204 }),
});
const list = endpoint({
  method: "get",
  path: "/v1/notes",
  summary: "List notes",
  tag: "notes",
  allow: ["agent"],
  query: z.strictObject({ state: z.enum(["open", "done"]).optional(), after: z.string().optional() }),
  replies: { 200: z.strictObject({ state: z.string() }) },
  handle: async ({ query }) => ({ status: 200, body: { state: query.state ?? "any" } }),
});
const small = endpoint({
  method: "post",
  path: "/v1/small",
  summary: "A small body",
  tag: "notes",
  allow: ["agent"],
  body: Note,
  bodyLimitBytes: 100,
  replies: { 204: null },
  handle: async () => ({ status: 204 }),
});

beforeAll(async () => {
  const counted = noteEndpoint(async ({ body }) => {
    runs += 1;
    return { status: 201, body: { note: body } };
  });
  server = await serving([counted, release, list, small]);
});
afterAll(async () => server[Symbol.asyncDispose]());

function jsonText(text: string | Buffer, type = "application/json"): Ask {
  return { body: text, headers: { "content-type": type } };
}

const nested = (depth: number) => `{"text":"a","tags":${"[".repeat(depth)}${"]".repeat(depth)}}`;

type BadInput = readonly [name: string, ask: Ask, status: number, pointers?: readonly string[]];

const chunked = { "transfer-encoding": "chunked" };
const coded = (body: Buffer, coding: string): Ask => ({ body, headers: { "content-encoding": coding } });
const note = (value: string | Buffer) =>
  Buffer.concat([Buffer.from('{"text":"'), Buffer.from(value), Buffer.from('"}')]);
const query = (text: string): Ask => ({ path: `/v1/notes?${text}` });
const manyParameters = Array.from({ length: 100 }, (_, index) => `p${index}=1`).join("&");

const badJson: readonly BadInput[] = [
  ["text that is no JSON", jsonText(`{"text":"${SECRET}"`), 400, [""]],
  ["JSON with a trailing comma", jsonText(`{"text":"${SECRET}",}`), 400, [""]],
  ["two JSON values", jsonText(`{"text":"a"}{"text":"b"}`), 400, [""]],
  ["an unknown member", { body: { text: "a", tenant_id: SECRET } }, 400, ["/tenant_id"]],
  ["an unknown member inside", { body: { text: "a", tags: [{ name: "x", state: SECRET }] } }, 400, ["/tags/0/state"]],
  ["an unknown member whose name needs escaping", { body: { text: "a", "a/b~c": 1 } }, 400, ["/a~1b~0c"]],
  ["every problem at once", { body: { text: 7, level: 99, nope: SECRET } }, 400, ["/text", "/level", "/nope"]],
  ["a number written as text", { body: { text: "a", level: "3" } }, 400, ["/level"]],
  ["a missing member", { body: { level: 3 } }, 400, ["/text"]],
  ["an array for an object", { body: [] }, 400, [""]],
  ["null for an object", jsonText("null"), 400, [""]],
  ["an empty body", { method: "POST", headers: { "content-type": "application/json" } }, 400, [""]],
  ["white space for a body", jsonText("  \n "), 400, [""]],
  ["a member twice", jsonText(`{"text":"a","text":"${SECRET}"}`), 400, ["/text"]],
  ["a member twice, once escaped", jsonText(`{"text":"a","te\\u0078t":"${SECRET}"}`), 400, ["/text"]],
  ["__proto__", jsonText(`{"text":"a","__proto__":{"roles":["${SECRET}"]}}`), 400, ["/__proto__"]],
  ["constructor", jsonText(`{"text":"a","constructor":{"prototype":{}}}`), 400, ["/constructor"]],
  ["nesting deeper than ten", jsonText(nested(10)), 400],
  ["nesting of thirty thousand", jsonText(nested(30_000)), 400],
  ["more members than 500", jsonText(`{"text":"a","tags":[${"1,".repeat(600)}1]}`), 400],
  ["a number beyond a double", jsonText(`{"text":"a","level":1e999}`), 400, ["/level"]],
  ["NUL in a string", jsonText(`{"text":"a\\u0000b"}`), 400, ["/text"]],
  ["half a surrogate pair", jsonText(`{"text":"\\ud800"}`), 400, ["/text"]],
  ["a byte order mark", jsonText(Buffer.from('\ufeff{"text":"a"}', "utf8")), 400, [""]],
  ["UTF-16", jsonText(Buffer.from('\ufeff{"text":"a"}', "utf16le")), 400, [""]],
  ["UTF-16 without a mark", jsonText(Buffer.from('{"text":"a"}', "utf16le")), 400, [""]],
  ["bytes that are no UTF-8", jsonText(note(Buffer.of(0xff, 0xfe))), 400, [""]],
  ["an overlong encoding of a slash", jsonText(note(Buffer.of(0xc0, 0xaf))), 400, [""]],
  ["a surrogate in UTF-8", jsonText(note(Buffer.of(0xed, 0xa0, 0x80))), 400, [""]],
  ["a body where none is taken", { path: "/v1/release", body: { state: SECRET } }, 400, ["/state"]],
];

const badTypes: readonly BadInput[] = [
  ["the charset utf-16", jsonText(`{"text":"a"}`, "application/json; charset=utf-16"), 415],
  ["the charset utf-7", jsonText(`{"text":"a"}`, "application/json; charset=utf-7"), 415],
  ["a form", jsonText("text=a", "application/x-www-form-urlencoded"), 415],
  ["text/plain, which browsers send unasked", jsonText(`{"text":"a"}`, "text/plain"), 415],
  ["no type", jsonText(`{"text":"a"}`, ""), 415],
  ["two types in one header", jsonText(`{"text":"a"}`, "application/json, text/plain"), 415],
  ["a type that only begins like JSON", jsonText(`{"text":"a"}`, "application/jsonp"), 415],
  ["multipart", jsonText("--x--", "multipart/form-data; boundary=x"), 415],
  ["gzip", coded(gzipSync(`{"text":"a"}`), "gzip"), 415],
  ["a gzip bomb of 10 MB in 10 KB", coded(gzipSync(Buffer.alloc(10_000_000, 0x20)), "gzip"), 415],
  ["brotli", coded(Buffer.of(0x0b, 0x02, 0x80), "br"), 415],
  ["gzip behind identity", coded(Buffer.from("{}"), "identity, gzip"), 415],
  ["one byte above 64 KiB", { body: { text: "x".repeat(65_536 - 11 + 1) } }, 413],
  ["900 KB", { body: { text: "x".repeat(900_000) } }, 413],
  ["above 64 KiB in chunks", { body: note("x".repeat(200_000)), headers: chunked }, 413],
  ["above an endpoint's own limit", { path: "/v1/small", body: { text: "x".repeat(100) } }, 413],
];

const badQueries: readonly BadInput[] = [
  ["an unknown parameter", query(`tenant=${SECRET}`), 400, ["#/query/tenant"]],
  ["a parameter of a POST that takes none", { ...query("x=1"), body: { text: "a" } }, 400, ["#/query/x"]],
  ["a parameter twice", query("state=open&state=done"), 400, ["#/query/state"]],
  ["brackets, which some parsers make objects of", query("state[x]=open"), 400, ["#/query/state[x]"]],
  ["__proto__ in the query", query("__proto__=open"), 400, ["#/query/__proto__"]],
  ["a value that is not known", query(`state=${SECRET}`), 400, ["#/query/state"]],
  ["a query that is no UTF-8", query("after=%ff"), 400, ["#/query/after"]],
  ["NUL in the query", query("after=a%00b"), 400, ["#/query/after"]],
  ["a broken escape", query("after=%zz"), 400, ["#/query/after"]],
  ["a hundred parameters", query(manyParameters), 400, ["#/query"]],
];

const codes: Readonly<Record<number, string>> = {
  400: "invalid_request",
  413: "payload_too_large",
  415: "unsupported_media_type",
};

describe("what is not well formed is refused before the handler, by pointer and without an echo", () => {
  const rows = [...badJson, ...badTypes, ...badQueries].map(([name, ask, status, pointers]) => ({
    name,
    ask,
    status,
    pointers,
  }));
  test.each(rows)("$name", async ({ ask, status, pointers }) => {
    const before = runs;
    const got = await server.ask(ask);
    expect([got.status, got.json["code"]]).toEqual([status, codes[status]]);
    expect(got.headers["content-type"]).toBe("application/problem+json");
    const errors = (got.json["errors"] ?? []) as { pointer: string; detail: string }[];
    if (pointers !== undefined) expect(errors.map(({ pointer }) => pointer)).toEqual(pointers);
    for (const { detail } of errors) expect(detail.length).toBeGreaterThan(5);
    expect(got.text).not.toContain(SECRET);
    expect(JSON.stringify(server.log)).not.toContain(SECRET);
    expect(runs).toBe(before);
  });
});

describe("what is well formed gets through", () => {
  test.each<[string, Ask, number]>([
    ["a plain body", { body: { text: "a" } }, 201],
    ["a charset, quoted and in capitals", jsonText(`{"text":"a"}`, 'Application/JSON; Charset="UTF-8"'), 201],
    ["a body of exactly 64 KiB", { body: { text: "x".repeat(65_536 - 11) } }, 201],
    ["identity as a content coding", coded(note("a"), "identity"), 201],
    ["nesting within the limit", { body: { text: "a", tags: [{ name: "x" }] } }, 201],
    ["a chunked body", { body: note("a"), headers: chunked }, 201],
    ["no body where none is needed", { method: "POST", path: "/v1/release" }, 204],
    ["an empty object where no body is needed", { path: "/v1/release", body: {} }, 204],
    ["a known query parameter", query("state=open&after=a+b%2Fc"), 200],
    ["an empty query", query(""), 200],
  ])("%s", async (_, ask, status) => {
    expect((await server.ask(ask)).status).toBe(status);
  });
});

test("a body's text arrives unchanged, byte for byte", async () => {
  const text = "žluťoučký 🐛 \u2028 <script> %00 \\ \" '";
  expect((await server.ask({ body: { text } })).json).toEqual({ note: { text } });
});

test("a list of problems is bounded, whatever is sent", async () => {
  const members = Object.fromEntries(Array.from({ length: 400 }, (_, index) => [`m${index}`, 1]));
  const got = await server.ask({ body: { text: "a", ...members } });
  expect((got.json["errors"] as unknown[]).length).toBe(32);
});

test("a member name of 60 KB is cut where it is named", async () => {
  const name = "n".repeat(60_000);
  for (const body of [{ text: "a", [name]: 1 }, `{"text":"a","${name}":{"a":1,"a":2}}`]) {
    const got = await server.ask({ body, headers: { "content-type": "application/json" } });
    expect(got.status).toBe(400);
    expect(got.text.length).toBeLessThan(1500);
  }
});
