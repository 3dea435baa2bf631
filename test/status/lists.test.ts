import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { getListFromStatusListJWT } from "@sd-jwt/jwt-status-list";
import { newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { query } from "../queue/servers.ts";
import { type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { mint, openTask, placeOf, replicaOf, revoke, statusAt } from "./harness.ts";

let app: App;
let replica: App;
let s: Seeded;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  replica = await replicaOf(app);
});
afterAll(async () => {
  await replica[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

const sql = async <Row = object>(text: string): Promise<Row[]> =>
  (await query(app.database.superuserUrl, text)) as Row[];

describe("a status list", () => {
  test("is signed, named by the token byte for byte, short-lived, and says valid until somebody takes back", async () => {
    const { token } = await mint(app, s);
    const issuer = app.broker.issuerUrl("default");
    expect(placeOf(token).uri).toMatch(new RegExp(`^${issuer}/status/stl_[0-9a-f]{32}$`));
    const { status, list } = await statusAt(replica, token);
    expect(status).toBe(0);
    expect(list).toMatchObject({ iss: issuer, ttl: 15, status_list: { bits: 1, aggregation_uri: `${issuer}/status` } });
    expect((list.exp ?? 0) - (list.iat ?? 0)).toBeLessThanOrEqual(300);
    const answer = await app.call(null, "GET", new URL(placeOf(token).uri).pathname);
    expect(answer.headers.get("content-type")).toBe("application/statuslist+jwt");
    expect(answer.headers.get("cache-control")).toBe("public, max-age=5");
  });

  test("says invalid at every replica once a token is revoked, and of no other token", async () => {
    const taskId = await openTask(app, s);
    const minted = await Promise.all(Array.from({ length: 5 }, () => mint(app, s, taskId)));
    // Both have it in memory, so that the feed is what tells them.
    for (const { token } of minted)
      expect([(await statusAt(app, token)).status, (await statusAt(replica, token)).status]).toEqual([0, 0]);
    const [gone, ...others] = minted;
    await revoke(app, gone?.id ?? "");
    for (const one of [replica, app])
      await until("the list says so", async () => (await statusAt(one, gone?.token ?? "")).status === 1);
    for (const { token } of others) expect((await statusAt(replica, token)).status).toBe(0);
    // And so reads a library that is not ours.
    const { text } = await statusAt(replica, gone?.token ?? "");
    const theirs = getListFromStatusListJWT(text);
    expect(minted.map(({ token }) => theirs.getStatus(placeOf(token).idx))).toEqual([1, 0, 0, 0, 0]);
  });

  test.each([
    ["the end of its task", (taskId: string) => ["POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" }] as const],
    ["a pause of its task", (taskId: string) => ["POST", `/v1/tasks/${taskId}/pause`, undefined] as const],
    [
      "the kill switch",
      (taskId: string) => ["POST", "/v1/revocations", { selector: { task_id: taskId }, reason: "test" }] as const,
    ],
  ])("says invalid after %s", async (_, how) => {
    const { token, taskId } = await mint(app, s);
    expect((await statusAt(replica, token)).status).toBe(0);
    const [method, path, body] = how(taskId);
    expect((await app.call(await app.token({ sub: "orchestrator" }), method, path, body)).status).toBe(200);
    await until("the list says so", async () => (await statusAt(replica, token)).status === 1);
  });

  test("is signed again before its ttl has passed, and never served with less than half of it", async () => {
    const { token } = await mint(app, s);
    const { list } = await statusAt(replica, token);
    const age = Math.floor(Date.now() / 1000) - (list.iat ?? 0);
    expect(age).toBeLessThanOrEqual(8);
  });

  test("of the past is not served (501), and none is that does not exist, or is another tenant's (404)", async () => {
    const { token } = await mint(app, s);
    const path = new URL(placeOf(token).uri).pathname;
    const past = await app.call(null, "GET", `${path}?time=1700000000`);
    expect([past.status, past.body.code]).toEqual([501, "not_supported"]);
    await app.broker.db.withTenant({ tenantId: SYSTEM_TENANT, actor: "test" }, (tx) =>
      tx
        .insertInto("tenants")
        .values({ id: newId("tenant"), name: "other", display_name: "Other" })
        .execute(),
    );
    const strangers = [
      path.replace("/default/", "/other/"),
      path.replace("/default/", "/nobody/"),
      `/t/default/status/${newId("statusList")}`,
      "/t/default/status/stl_1",
      "/t/default/status/%00",
    ];
    for (const stranger of strangers) {
      const { status, body } = await app.call(null, "GET", stranger);
      expect({ stranger, status, code: body.code }).toEqual({ stranger, status: 404, code: "not_found" });
    }
  });

  test("is named by the aggregation that the metadata names", async () => {
    const { token } = await mint(app, s);
    const metadata = await app.call(null, "GET", "/.well-known/oauth-authorization-server/t/default");
    const aggregation = metadata.body.status_list_aggregation_endpoint;
    expect(aggregation).toBe(`${app.broker.issuerUrl("default")}/status`);
    const { body } = await replica.call(null, "GET", new URL(aggregation).pathname);
    expect(body.status_lists).toContain(placeOf(token).uri);
    expect((await app.call(null, "GET", "/t/other/status")).body.status_lists).toEqual([]);
  });
});

describe("a place", () => {
  test("is never given twice, by however many processes at once", async () => {
    // Three leases of each, so that every process leases while others do.
    const expiresMs = Date.now() + 300_000;
    const brokers = [app.broker, replica.broker];
    const places = await Promise.all(
      brokers.flatMap(({ statusPlaces }) =>
        Array.from({ length: 1_500 }, async () => statusPlaces.take(s.tenantId, expiresMs)),
      ),
    );
    expect(new Set(places.map(({ list, index }) => `${list} ${index}`)).size).toBe(3_000);
    expect(new Set(places.map(({ list }) => list)).size).toBe(1);
  });

  test("of tokens minted by two processes at once is their own, and is what the ledger has", async () => {
    const taskId = await openTask(app, s);
    const minted = await Promise.all(
      [app, replica].flatMap((via) => Array.from({ length: 40 }, () => mint(app, s, taskId, { via }))),
    );
    const places = minted.map(({ token }) => placeOf(token));
    expect(new Set(places.map(({ uri, idx }) => `${uri} ${idx}`)).size).toBe(80);
    const [first] = minted;
    const [row] = await sql<{ status_list: string; status_index: number }>(
      `select status_list, status_index from mayfly.credentials where id = '${first?.id}'`,
    );
    expect(places[0]).toEqual({ idx: row?.status_index, uri: expect.stringMatching(`/${row?.status_list}$`) });
  });

  test("in a list that is full is one in the next list, and lists are by expiry", async () => {
    const soon = Date.now() + 300_000;
    const before = await app.broker.statusPlaces.take(s.tenantId, soon);
    await sql("update mayfly.status_lists set next = 1048576");
    let found = before;
    // What this process has leased comes first.
    for (let taken = 0; found.list === before.list && taken < 2_000; taken += 1)
      found = await app.broker.statusPlaces.take(s.tenantId, soon);
    expect(found.list).not.toBe(before.list);
    const later = await app.broker.statusPlaces.take(s.tenantId, soon + 4 * 3_600_000);
    expect([before.list, found.list]).not.toContain(later.list);
    const [row] = await sql<{ ok: boolean }>(
      `select bool_and(next <= 1048576) and count(*) filter (where next < 1048576) = 2 as ok from mayfly.status_lists where tenant_id = '${s.tenantId}'`,
    );
    expect(row?.ok).toBe(true);
  });

  test("is what a token cannot be minted without", async () => {
    await expect(
      sql(
        `update mayfly.credentials set status_list = null, status_index = null where self_contained and state = 'active'`,
      ),
    ).rejects.toMatchObject({ code: "23514" });
  });
});

test("what is known about a token is forgotten some minutes after its end, and its list with the last of them", async () => {
  const { id, token } = await mint(app, s);
  await revoke(app, id);
  const { db } = app.broker;
  const kept = async () => (await sql(`select from mayfly.token_statuses where credential_id = '${id}'`)).length;
  await db.callAcrossTenants("forget_statuses", []);
  expect(await kept()).toBe(1);
  await sql(
    `update mayfly.token_statuses set expires_at = now() - interval '11 minutes' where credential_id = '${id}'`,
  );
  await sql("update mayfly.status_lists set expires_before = expires_before - interval '7 days'");
  await db.callAcrossTenants("forget_statuses", []);
  expect(await kept()).toBe(0);
  const aggregation = await app.call(null, "GET", "/t/default/status");
  expect(aggregation.body.status_lists).not.toContain(placeOf(token).uri);
});
