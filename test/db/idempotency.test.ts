import { createHash, randomBytes } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import pg from "pg";
import { type Db, openDatabase } from "../../src/db/database.ts";
import { createIdempotencyStore, type RunInTenant } from "../../src/db/idempotency.ts";
import type { Begun, IdempotencyScope, IdempotencyStore, StoredReply } from "../../src/http/idempotency.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { noteEndpoint, serving } from "../http/harness.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { until } from "../support/until.ts";

let database: TestDatabase;
let db: Db;
let runInTenant: RunInTenant;
let store: IdempotencyStore;
let superuser: pg.Client;
const macKey = randomBytes(32);
let scope: IdempotencyScope;

const reply: StoredReply = {
  status: 201,
  headers: { "content-type": "application/json", etag: '"1"' },
  body: JSON.stringify({ text: 'a "quoted" \\ line\n\u0000 and 🐛' }),
};

beforeAll(async () => {
  database = await testDatabase();
  db = openDatabase({ connectionString: database.runtimeUrl, log: createLog("silent") });
  runInTenant = (tenantId, work) => db.withTenant({ tenantId, actor: "test" }, work);
  store = createIdempotencyStore(runInTenant, macKey);
  superuser = new pg.Client({ connectionString: database.superuserUrl });
  await superuser.connect();
});
afterAll(async () => {
  await superuser.end();
  await db[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});
beforeEach(() => {
  scope = { tenantId: newId("tenant"), subject: "agent-1", route: "POST /v1/tasks", key: "key-1" };
});

async function leaseOf(given: IdempotencyScope, fingerprint = "f"): Promise<string> {
  const begun = await store.begin(given, fingerprint);
  if (begun.state !== "new") throw new Error(`the key is ${begun.state}`);
  return begun.lease;
}

/** So many at once. Who gets no connection in time is told `unavailable`, which means that nothing was done, and asks again. */
function beginAtOnce(count: number, given: IdempotencyScope): Promise<Begun[]> {
  const begin = () =>
    store.begin(given, "f").catch((error: unknown) => {
      if (error instanceof MayflyError && error.code === "unavailable") return undefined;
      throw error;
    });
  return Promise.all(Array.from({ length: count }, () => until("the database has time for it", begin)));
}

/** Moves a key's clock back, as time would. */
async function age(column: "created_at" | "locked_until", interval: string): Promise<void> {
  await superuser.query(
    `update mayfly.idempotency_keys set ${column} = ${column} - $2::interval where tenant_id = $1`,
    [scope.tenantId, interval],
  );
}

describe("a key in Postgres", () => {
  test("is new once, running until it is finished, and then its first answer, byte for byte", async () => {
    const lease = await leaseOf(scope);
    expect(await store.begin(scope, "f")).toEqual({ state: "running" });
    await store.finish(scope, lease, reply);
    expect(await store.begin(scope, "f")).toEqual({ state: "done", reply });
    expect(await store.begin(scope, "f")).toEqual({ state: "done", reply });
  });

  test("keeps the code of a refusal", async () => {
    const refusal: StoredReply = { status: 403, headers: {}, body: "{}", code: "denied" };
    await store.finish(scope, await leaseOf(scope), refusal);
    expect(await store.begin(scope, "f")).toEqual({ state: "done", reply: refusal });
  });

  test("of many at once is new for exactly one", async () => {
    for (let round = 0; round < 5; round += 1) {
      const raced = { ...scope, key: `key-${round}` };
      const begun = await beginAtOnce(50, raced);
      expect(begun.map(({ state }) => state).toSorted()).toEqual([
        "new",
        ...Array.from({ length: 49 }, () => "running"),
      ]);
    }
  });

  test("is a mismatch for another payload, running or finished", async () => {
    const lease = await leaseOf(scope);
    expect(await store.begin(scope, "other")).toEqual({ state: "mismatch" });
    await store.finish(scope, lease, reply);
    expect(await store.begin(scope, "other")).toEqual({ state: "mismatch" });
  });

  test("is free again when it is abandoned, even for another payload", async () => {
    await store.abandon(scope, await leaseOf(scope));
    expect((await store.begin(scope, "other")).state).toBe("new");
  });

  test.each<[string, Partial<IdempotencyScope>]>([
    ["tenant", { tenantId: newId("tenant") }],
    ["subject", { subject: "agent-2" }],
    ["route", { route: "POST /v1/credentials" }],
    ["key", { key: "key-2" }],
  ])("is another one for another %s", async (_, other) => {
    await store.finish(scope, await leaseOf(scope), reply);
    const theirs = { ...scope, ...other };
    await store.finish(theirs, await leaseOf(theirs, "g"), { ...reply, body: "theirs" });
    expect(await store.begin(scope, "f")).toEqual({ state: "done", reply });
    expect(await store.begin(theirs, "g")).toEqual({ state: "done", reply: { ...reply, body: "theirs" } });
  });
});

describe("a holder that died", () => {
  test("loses the key after a minute, to one successor", async () => {
    await leaseOf(scope);
    await age("locked_until", "59 seconds");
    expect((await store.begin(scope, "f")).state).toBe("running");
    await age("locked_until", "2 seconds");
    expect((await store.begin(scope, "other")).state).toBe("mismatch");
    const begun = await beginAtOnce(20, scope);
    expect(begun.filter(({ state }) => state === "new").length).toBe(1);
  });

  test("and comes back can neither finish nor free what is its successor's", async () => {
    const late = await leaseOf(scope);
    await age("locked_until", "61 seconds");
    const lease = await leaseOf(scope);
    await store.finish(scope, late, { ...reply, body: "late" });
    await store.abandon(scope, late);
    expect(await store.begin(scope, "f")).toEqual({ state: "running" });
    await store.finish(scope, lease, reply);
    expect(await store.begin(scope, "f")).toEqual({ state: "done", reply });
  });
});

test("a finished key is remembered for 24 hours and then new, for any payload", async () => {
  await store.finish(scope, await leaseOf(scope), reply);
  await age("created_at", "23 hours 59 minutes");
  expect((await store.begin(scope, "f")).state).toBe("done");
  await age("created_at", "2 minutes");
  expect((await store.begin(scope, "other")).state).toBe("new");
  expect((await store.begin(scope, "other")).state).toBe("running");
});

describe("what is kept of a body, which may hold a password,", () => {
  const body = JSON.stringify({ config: { password: "hunter2" } });
  const plain = createHash("sha256").update(body).digest("hex");
  const kept = async (within: IdempotencyStore, given: IdempotencyScope): Promise<string> => {
    await within.begin(given, plain);
    const { rows } = await superuser.query<{ fingerprint: string }>(
      "select fingerprint from mayfly.idempotency_keys where tenant_id = $1 and key = $2",
      [given.tenantId, given.key],
    );
    return rows[0]?.fingerprint ?? "";
  };

  test("differs by key, tenant and Idempotency-Key, and is no hash that could be tried without the key", async () => {
    const other = createIdempotencyStore(runInTenant, randomBytes(32));
    const seen = [
      plain,
      await kept(store, scope),
      await kept(store, { ...scope, key: "key-2" }),
      await kept(store, { ...scope, tenantId: newId("tenant") }),
      await kept(other, { ...scope, key: "key-3" }),
    ];
    expect(new Set(seen).size).toBe(seen.length);
    for (const fingerprint of seen) expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  test("is the same in every process with the key, and a mismatch in one with another", async () => {
    await kept(store, scope);
    expect(await createIdempotencyStore(runInTenant, macKey).begin(scope, plain)).toEqual({ state: "running" });
    const other = createIdempotencyStore(runInTenant, randomBytes(32));
    expect(await other.begin(scope, plain)).toEqual({ state: "mismatch" });
    expect(() => createIdempotencyStore(runInTenant, randomBytes(16))).toThrow("32 bytes");
  });
});

test("what cannot be text in SQL cannot break out of it", async () => {
  const odd = { ...scope, subject: "o'brien\"; drop table x;--", key: "'||pg_sleep(9)||'" };
  await store.finish(odd, await leaseOf(odd), reply);
  expect((await store.begin(odd, "f")).state).toBe("done");
});

test("over HTTP and two servers, of fifty requests at once under one key exactly one runs", async () => {
  let runs = 0;
  const endpoint = noteEndpoint(async ({ body }) => {
    runs += 1;
    return { status: 201, body: { note: body } };
  });
  await using one = await serving([endpoint], { idempotency: store });
  await using two = await serving([endpoint], { idempotency: createIdempotencyStore(runInTenant, macKey) });
  const headers = { "idempotency-key": '"key-1"' };
  const ask = async (at: typeof one) => {
    const answer = await at.ask({ body: { text: "a" }, headers });
    return answer.status !== 503 && answer;
  };
  const got = await Promise.all(
    Array.from({ length: 50 }, (_, index) => until("the database has time for it", () => ask(index % 2 ? one : two))),
  );
  expect(runs).toBe(1);
  expect(new Set(got.map(({ status }) => status))).toEqual(new Set([201, 409]));
  expect((await two.ask({ body: { text: "a" }, headers })).headers["idempotency-replayed"]).toBe("true");
  expect(runs).toBe(1);
});
