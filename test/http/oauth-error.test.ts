import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint } from "../../src/http/endpoint.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { oauthError } from "../../src/lib/oauth-error.ts";
import { type Ask, type Serving, serving } from "./harness.ts";

let server: Serving;
let fail: (() => MayflyError) | undefined;

const token = endpoint({
  method: "post",
  path: "/oauth/token",
  summary: "Token",
  tag: "oauth",
  allow: "public",
  bodyKind: "form",
  repeatable: ["resource", "audience"],
  errors: "oauth",
  body: z.object({
    grant_type: z.string(),
    scope: z.string().optional(),
    resource: z.array(z.string()).optional(),
    audience: z.array(z.string()).optional(),
  }),
  replies: { 200: z.strictObject({ got: z.unknown() }) },
  handle: async ({ body, request }) => {
    if (fail !== undefined) throw fail();
    if (request.headers.authorization === "Basic bad") throw new MayflyError("unauthenticated", "wrong secret");
    return { status: 200, body: { got: body } };
  },
});

beforeAll(async () => {
  server = await serving([token]);
});
afterAll(async () => server[Symbol.asyncDispose]());
beforeEach(() => {
  fail = undefined;
  server.refusals.length = 0;
});

function form(body: string, rest: Ask = {}): Ask {
  return {
    path: "/oauth/token",
    as: null,
    body,
    ...rest,
    headers: { "content-type": "application/x-www-form-urlencoded", ...rest.headers },
  };
}

describe("a form is flat: what RFC 6749 allows gets through", () => {
  test.each<[string, string, unknown]>([
    ["unknown parameters are ignored (T-1.4)", "grant_type=a&x=1", { grant_type: "a" }],
    ["an empty value counts as absent", "grant_type=a&scope=", { grant_type: "a" }],
    ["a plus is a space, an escape a character", "grant_type=a+b%2Bc%C3%A9", { grant_type: "a b+cé" }],
    ["brackets make no object", "grant_type=a&scope[x]=1", { grant_type: "a" }],
    ["what may repeat is an array", "grant_type=a&resource=x&resource=y", { grant_type: "a", resource: ["x", "y"] }],
    ["and is one for a single value, too", "grant_type=a&audience=x", { grant_type: "a", audience: ["x"] }],
    ["an equals sign in a value", "grant_type=a=b=", { grant_type: "a=b=" }],
  ])("%s", async (_, body, got) => {
    expect((await server.ask(form(body))).json).toEqual({ got });
  });
});

describe("an OAuth error is the RFC 6749 document, 400, not cacheable, in the permitted characters", () => {
  test.each<[string, Ask]>([
    ["a parameter twice (T-1.1)", form("grant_type=a&grant_type=b")],
    ["a parameter twice, once empty", form("grant_type=a&grant_type=")],
    ["a missing parameter", form("scope=x")],
    ["an empty body", form("")],
    ["a JSON body (T-1.2)", form(`{"grant_type":"a"}`, { headers: { "content-type": "application/json" } })],
    ["parameters in the query", form("grant_type=a", { path: "/oauth/token?scope=x" })],
    ["a broken escape", form("grant_type=%zz")],
    ["bytes that are no UTF-8", form("grant_type=%ff")],
    ["raw bytes beyond ASCII", form("grant_type=é")],
    ["NUL", form("grant_type=a%00b")],
    ["__proto__", form("grant_type=a&__proto__=b")],
    ["seventy parameters", form(Array.from({ length: 70 }, (_, index) => `p${index}=1`).join("&"))],
  ])("%s", async (_, ask) => {
    const got = await server.ask(ask);
    expect([got.status, got.json["error"]]).toEqual([400, "invalid_request"]);
    expect(got.headers["cache-control"]).toBe("no-store");
    expect(got.headers["content-type"]).toBe("application/json; charset=utf-8");
    expect(got.json["error_description"]).toMatch(/^[\x20-\x21\x23-\x5b\x5d-\x7e]+$/);
    expect(Object.keys(got.json).sort()).toEqual(["error", "error_description"]);
  });

  test("a description is brought into the permitted characters, whatever it quotes", async () => {
    fail = () => new MayflyError("invalid_request", 'say "a\\b"\r\nSet-Cookie: é\u0000\u{1f41b}');
    const { json } = await server.ask(form("grant_type=a"));
    expect(json["error_description"]).toBe("say 'a?b'??Set-Cookie: ????");
  });

  test.each([
    [oauthError("invalid_grant", "the assertion expired"), 400, "invalid_grant"],
    [oauthError("invalid_target", "no such target"), 400, "invalid_target"],
    [oauthError("invalid_client", "unknown client"), 401, "invalid_client"],
    [oauthError("access_denied", "policy", "denied"), 400, "access_denied"],
    [new MayflyError("denied", "no"), 400, "access_denied"],
    [new MayflyError("forbidden", "no"), 400, "unauthorized_client"],
    [new MayflyError("not_found", "no"), 400, "invalid_request"],
    [new MayflyError("rate_limited", "slower", { retryAfterSeconds: 7 }), 429, "temporarily_unavailable"],
    [new MayflyError("internal", "no"), 500, "server_error"],
    [new MayflyError("unavailable", "no"), 503, "temporarily_unavailable"],
  ])("%s → %i %s", async (error, status, code) => {
    fail = () => error;
    const got = await server.ask(form("grant_type=a"));
    expect([got.status, got.json["error"]]).toEqual([status, code]);
    expect(got.headers["cache-control"]).toBe("no-store");
    if (status === 429) expect(got.headers["retry-after"]).toBe("7");
  });

  test("the reasons of a denial travel with it", async () => {
    const reasons = [{ code: "purpose_expired", detail: "it ended", remedy: "ttl:60" }];
    fail = () => new MayflyError("denied", "no", { reasons });
    expect((await server.ask(form("grant_type=a"))).json).toMatchObject({ error: "access_denied", reasons });
  });

  test("a foreign error is server_error and says nothing of itself", async () => {
    fail = () => new TypeError("hunter2") as never;
    const got = await server.ask(form("grant_type=a"));
    expect([got.status, got.json["error"], got.text.includes("hunter2")]).toEqual([500, "server_error", false]);
  });
});

test("a client that authenticated in a header and failed gets 401 with a challenge in its scheme", async () => {
  const got = await server.ask(form("grant_type=a", { headers: { authorization: "Basic bad" } }));
  expect([got.status, got.json["error"], got.headers["www-authenticate"]]).toEqual([
    401,
    "invalid_client",
    'Basic realm="mayfly"',
  ]);
  expect(server.refusals).toMatchObject([{ code: "unauthenticated", route: "/oauth/token" }]);
});

test("failed client authentications count against the address", async () => {
  await using other = await serving([token]);
  const statuses: number[] = [];
  for (let index = 0; index < 40; index += 1) {
    statuses.push((await other.ask(form("grant_type=a", { headers: { authorization: "Basic bad" } }))).status);
  }
  expect([statuses[0], statuses.at(-1)]).toEqual([401, 429]);
  expect((await other.ask(form("grant_type=a"))).status).toBe(200);
});

test("another method on an OAuth path is refused as everywhere", async () => {
  const got = await server.ask({ path: "/oauth/token", method: "GET" });
  expect([got.status, got.headers["allow"]]).toEqual([405, "POST, OPTIONS"]);
});
