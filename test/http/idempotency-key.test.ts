import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { memoryIdempotency } from "../support/memory-idempotency.ts";
import { type Got, noteEndpoint, type Serving, serving } from "./harness.ts";

let runs = 0;
let store: ReturnType<typeof memoryIdempotency>;
let server: Serving;

beforeEach(async () => {
  runs = 0;
  store = memoryIdempotency();
  const counted = noteEndpoint(async ({ body }) => {
    runs += 1;
    return { status: 201, body: { note: body } };
  });
  server = await serving([counted], { idempotency: store });
});
afterEach(async () => server[Symbol.asyncDispose]());

function post(key: string | undefined): Promise<Got> {
  return server.ask({ body: { text: "a" }, headers: key === undefined ? {} : { "idempotency-key": key } });
}

describe("the Idempotency-Key header", () => {
  test.each([
    `"8e03978e-40d5-43dd-bc93-6894a57f9324"`,
    "8e03978e-40d5-43dd-bc93-6894a57f9324",
    `"a"`,
    "a".repeat(255),
    `"${"a".repeat(255)}"`,
    "a:b/c=d!#$%&'*+.^_`|~{}[]()<>@?",
  ])("%s is a key", async (key) => {
    expect((await post(key)).status).toBe(201);
  });

  test.each([
    "",
    `""`,
    `"`,
    `"a`,
    `a"`,
    `"a""b"`,
    `"a\\"b"`,
    `"a b"`,
    "a b",
    "a,b",
    `"a", "b"`,
    `"a";p=1`,
    "a".repeat(256),
    `"${"a".repeat(256)}"`,
    "k\u00e9y",
    "a\tb",
  ])("%p is none, and says so by pointer", async (key) => {
    const got = await post(key);
    expect(got.status).toBe(400);
    expect(got.json["errors"]).toMatchObject([{ pointer: "#/header/idempotency-key" }]);
    expect(runs).toBe(0);
  });

  test("means the same with and without its quotes", async () => {
    await post("key-1");
    expect((await post(`"key-1"`)).headers["idempotency-replayed"]).toBe("true");
    expect(runs).toBe(1);
  });

  test("is not needed: without it every request runs", async () => {
    expect([(await post(undefined)).status, (await post(undefined)).status]).toEqual([201, 201]);
    expect([runs, store.size]).toEqual([2, 0]);
  });
});
