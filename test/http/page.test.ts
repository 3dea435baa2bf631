import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint } from "../../src/http/endpoint.ts";
import { createPager, pageOf, pageQuery } from "../../src/http/page.ts";
import { type Got, type Serving, serving } from "./harness.ts";

interface Row {
  readonly at: string;
  readonly id: string;
  readonly state: "open" | "done";
}

const key = Buffer.alloc(32, 7);
const pager = createPager(key);
const Key = z.tuple([z.string(), z.string()]);
let rows: Row[] = [];
let server: Serving;

const row = (index: number): Row => ({
  at: `2026-01-01T00:00:${String(Math.floor(index / 10) % 60).padStart(2, "0")}Z`,
  id: `id_${String(index).padStart(4, "0")}`,
  state: index % 2 === 0 ? "open" : "done",
});
const listing = (path: string) =>
  endpoint({
    method: "get",
    path,
    summary: "List",
    tag: "things",
    allow: ["agent"],
    query: z.strictObject({ ...pageQuery, state: z.enum(["open", "done"]).optional(), since: z.string().optional() }),
    replies: { 200: pageOf(z.strictObject({ id: z.string() })) },
    handle: async (call) => {
      const page = pager.read(call, Key);
      const [at, id] = page.after ?? ["", ""];
      const found = rows
        .filter(({ state }) => call.query.state === undefined || state === call.query.state)
        .filter((each) => each.at > at || (each.at === at && each.id > id))
        .slice(0, page.limit);
      return pager.reply(call, page, {
        rows: found,
        keyOf: (each) => [each.at, each.id] as [string, string],
        toItem: (each) => ({ id: each.id }),
      });
    },
  });

beforeAll(async () => {
  server = await serving([listing("/v1/things"), listing("/v1/others")]);
});
afterAll(async () => server[Symbol.asyncDispose]());

const idsOf = (got: Got) => (got.json["items"] as { id: string }[]).map(({ id }) => id);
const tokenOf = (got: Got) => String(got.json["next_page_token"]);
const get = (query: string, as = "Bearer agent", path = "/v1/things") => server.ask({ path: `${path}?${query}`, as });

describe("a list is walked to its end", () => {
  test.each([0, 1, 2, 3, 10, 99, 100, 101])("with %i rows, each exactly once, in order", async (count) => {
    rows = Array.from({ length: count }, (_, index) => row(index));
    const seen: string[] = [];
    let pages = 0;
    for (let token: string | undefined; token !== ""; pages += 1) {
      const got = await get(`page_size=10${token === undefined ? "" : `&page_token=${token}`}`);
      seen.push(...idsOf(got));
      token = tokenOf(got);
      expect(got.headers["link"] === undefined).toBe(token === "");
    }
    expect(seen).toEqual(rows.map(({ id }) => id));
    expect(pages).toBe(Math.max(1, Math.ceil(count / 10)));
  });

  test("also while rows come and go: none that stays is missed or seen twice", async () => {
    rows = Array.from({ length: 30 }, (_, index) => row(index));
    const first = await get("page_size=10");
    rows = rows.filter(({ id }) => id !== "id_0003" && id !== "id_0012");
    rows.unshift({ ...row(0), id: "id_0000a" });
    const second = await get(`page_size=10&page_token=${tokenOf(first)}`);
    expect(idsOf(second)).toEqual(rows.slice(10, 20).map(({ id }) => id));
  });

  test("by its Link headers alone (RFC 8288)", async () => {
    rows = Array.from({ length: 25 }, (_, index) => row(index));
    const seen: string[] = [];
    let path: string | undefined = "/v1/things?state=open&page_size=4";
    while (path !== undefined) {
      const got: Got = await server.ask({ path });
      seen.push(...idsOf(got));
      path = /^<([^>]+)>; rel="next"$/.exec(got.headers["link"] ?? "")?.[1];
    }
    expect(seen).toEqual(rows.filter(({ state }) => state === "open").map(({ id }) => id));
  });
});

describe("page_size", () => {
  test.each([
    ["", 50],
    ["page_size=1", 1],
    ["page_size=200", 200],
    ["page_size=201", 200],
    ["page_size=999999999", 200],
  ])("%s gives %i rows", async (query, count) => {
    rows = Array.from({ length: 300 }, (_, index) => row(index));
    expect(idsOf(await get(query)).length).toBe(count);
  });

  test.each(["0", "-1", "1.5", "1e2", "0x10", "ten", "%2010", "", "01", "9999999999"])(
    "%p is refused",
    async (size) => {
      const got = await get(`page_size=${size}`);
      expect(got.status).toBe(400);
      expect(got.json["errors"]).toMatchObject([{ pointer: "#/query/page_size" }]);
    },
  );
});

describe("a page token opens only the list that it came from", () => {
  const fresh = async () => {
    rows = Array.from({ length: 30 }, (_, index) => row(index));
    return tokenOf(await get("state=open&page_size=5"));
  };

  test("and with another page size still that one", async () => {
    expect((await get(`state=open&page_size=7&page_token=${await fresh()}`)).status).toBe(200);
  });

  test("an empty token is the beginning", async () => {
    await fresh();
    expect(idsOf(await get("page_token="))[0]).toBe("id_0000");
  });

  test.each<[string, (token: string) => Promise<Got>]>([
    ["another filter", (token) => get(`state=done&page_token=${token}`)],
    ["no filter", (token) => get(`page_token=${token}`)],
    ["one more filter", (token) => get(`state=open&since=x&page_token=${token}`)],
    ["another list", (token) => get(`state=open&page_token=${token}`, "Bearer agent", "/v1/others")],
    ["another tenant", (token) => get(`state=open&page_token=${token}`, "Bearer agent@globex")],
    [
      "another sort key",
      (token) => get(`state=open&page_token=${Buffer.from('["","x"]').toString("base64url")}.${token.split(".")[1]}`),
    ],
    ["no MAC", (token) => get(`state=open&page_token=${token.split(".")[0]}`)],
    ["an empty MAC", (token) => get(`state=open&page_token=${token.split(".")[0]}.`)],
    ["half a MAC", (token) => get(`state=open&page_token=${token.slice(0, -20)}`)],
    [
      "a changed character",
      (token) => get(`state=open&page_token=${token.startsWith("W") ? "X" : "W"}${token.slice(1)}`),
    ],
    ["something behind it", (token) => get(`state=open&page_token=${token}.x`)],
    ["noise", () => get("state=open&page_token=..%00%00")],
    ["noise of 3 KB", () => get(`state=open&page_token=${"A".repeat(3000)}`)],
  ])("%s is 400", async (_, ask) => {
    const got = await ask(await fresh());
    expect([got.status, got.json["code"]]).toEqual([400, "invalid_request"]);
    expect(got.json["errors"]).toMatchObject([{ pointer: "#/query/page_token" }]);
  });

  test("another process with the same key reads it, one with another key does not", async () => {
    const token = await fresh();
    const call = {
      principal: { tenantId: `ten_${Buffer.from("acme").toString("hex").padEnd(32, "0")}` },
      query: { state: "open", page_token: token },
      request: { path: "/v1/things" },
    } as never;
    expect(createPager(Buffer.from(key)).read(call, Key).after).toEqual([row(8).at, row(8).id]);
    expect(() => createPager(Buffer.alloc(32, 8)).read(call, Key)).toThrow(/page_token|token of this list/);
    expect(() => createPager(Buffer.alloc(16))).toThrow(RangeError);
  });

  test("a sort key of another shape than the list has now is refused, not misread", async () => {
    const call = {
      principal: { tenantId: "ten_1" },
      query: {},
      request: { path: "/v1/x" },
    } as never;
    const page = { size: 1, limit: 2, after: undefined };
    const reply = pager.reply(call, page, { rows: [1, 2], keyOf: (each) => each, toItem: (each) => each });
    const token = (reply.body as { next_page_token: string }).next_page_token;
    const again = { ...(call as object), query: { page_token: token } } as never;
    expect(pager.read(again, z.number()).after).toBe(1);
    expect(() => pager.read(again, Key)).toThrow(/token of this list/);
  });
});
