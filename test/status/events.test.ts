import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import { type Id, newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { parseCursor } from "../../src/status/cursor.ts";
import { bind } from "../oauth/harness.ts";
import { query } from "../queue/servers.ts";
import { type App, startApp } from "../support/app.ts";
import { anAgent, aTarget, type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { mint, openTask, replicaOf, revoke } from "./harness.ts";
import { hears, listen, staysAlive } from "./listen.ts";

let app: App;
let replica: App;
let s: Seeded;
let auditor: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  replica = await replicaOf(app);
  auditor = await app.token({ sub: "auditor" });
});
afterAll(async () => {
  await replica[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

const sql = async <Row = object>(text: string): Promise<Row[]> =>
  (await query(app.database.superuserUrl, text)) as Row[];

const as = (work: Parameters<App["broker"]["db"]["withTenant"]>[1]) =>
  app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, work);

/** A tool: an agent of its own, that serves these targets. */
async function aTool(sub: string, ...targets: Id<"target">[]): Promise<{ id: Id<"agent">; token: string }> {
  let id: Id<"agent"> | undefined;
  await as(async (tx) => {
    id = await anAgent(tx, { tenantId: s.tenantId, ownerId: s.ownerId });
    await bind(tx, { tenantId: s.tenantId, trustSourceId: s.trustSourceId, agentId: id, sub });
  });
  if (id === undefined) throw new Error("no agent");
  for (const target of targets) await serves(id, target);
  return { id, token: await app.token({ sub }) };
}

async function serves(agent: string, target: string): Promise<void> {
  const { status } = await app.call(await app.token({ sub: "admin" }), "POST", "/v1/relationships", {
    subject: agent,
    relation: "serves",
    object: target,
  });
  expect(status).toBe(201);
}

/** Takes a token back in a transaction that commits when it is told to. */
async function takingBack(id: string): Promise<{ commit(): Promise<void> }> {
  const client = new pg.Client({ connectionString: app.database.superuserUrl });
  await client.connect();
  await client.query("begin");
  await client.query(
    `update mayfly.credentials set state = 'revoked', state_by = 'test', state_reason = 'revoked', due_at = null,
       revoking_at = clock_timestamp(), ended_at = clock_timestamp(), receipt = '{}' where id = $1`,
    [id],
  );
  return {
    async commit() {
      await client.query("commit");
      await client.end();
    },
  };
}

describe("a reader of events", () => {
  test("hears first of all that is revoked and not expired, then of each token at once, at every replica", async () => {
    const taskId = await openTask(app, s);
    const [early, late, living] = [await mint(app, s, taskId), await mint(app, s, taskId), await mint(app, s, taskId)];
    await revoke(app, early.id);
    await using one = await listen(app, auditor);
    await using two = await listen(replica, auditor);
    expect([
      one.headers.get("content-type"),
      one.headers.get("cache-control"),
      one.headers.get("x-accel-buffering"),
    ]).toEqual(["text/event-stream", "no-store", "no"]);
    for (const reader of [one, two]) {
      await hears(reader, [early.id]);
      expect(reader.heard[0]).toMatchObject({
        event: "status",
        data: { complete: true, more: false, audiences: null },
      });
    }
    await revoke(app, late.id);
    for (const reader of [one, two]) {
      await hears(reader, [late.id]);
      const told = reader.heard.find(({ data }) => data.statuses?.some(({ jti }) => jti === late.id));
      const exp = JSON.parse(Buffer.from(late.token.split(".")[1] ?? "", "base64url").toString()).exp;
      expect(told?.data).toEqual({ statuses: [{ jti: late.id, status: 1, exp }], complete: false, more: false });
      await staysAlive(reader);
      expect(reader.told()).not.toContain(living.id);
      expect(reader.told().filter((id) => id === late.id)).toHaveLength(1);
    }
  });

  test("has been told, by the time it hears `alive`, of everything that was committed before its at_ms", async () => {
    await using reader = await listen(replica, auditor);
    const taskId = await openTask(app, s);
    for (let round = 0; round < 5; round += 1) {
      const { id } = await mint(app, s, taskId);
      await revoke(app, id);
      const [row] = await sql<{ ms: string }>("select mayfly.ms(clock_timestamp()) as ms");
      await until("a later sign of life", () => reader.heard.some(({ data }) => (data.at_ms ?? 0) > Number(row?.ms)));
      const index = reader.heard.findIndex(({ data }) => (data.at_ms ?? 0) > Number(row?.ms));
      const before = reader.heard.slice(0, index).flatMap(({ data }) => data.statuses ?? []);
      expect(before.map(({ jti }) => jti)).toContain(id);
    }
  });

  test("misses nothing and hears nothing twice, in whatever order transactions commit", async () => {
    const taskId = await openTask(app, s);
    const minted = await Promise.all(Array.from({ length: 12 }, () => mint(app, s, taskId)));
    await using reader = await listen(replica, auditor);
    await until("the beginning", () => reader.heard.length > 0);
    const [slow, ...others] = minted;
    const held = await takingBack(slow?.id ?? "");
    const open = [];
    // Each begins before the one before it has ended, and half of them end in the opposite order.
    for (const { id } of others.slice(0, 6)) open.push(await takingBack(id));
    for (const one of open.toReversed()) {
      await one.commit();
      await staysAlive(reader);
    }
    for (const { id } of others.slice(6)) await (await takingBack(id)).commit();
    await hears(
      reader,
      others.map(({ id }) => id),
    );
    expect(reader.told()).not.toContain(slow?.id);
    await held.commit();
    await hears(reader, [slow?.id ?? ""]);
    await staysAlive(reader);
    const told = reader.told();
    for (const { id } of minted) expect(told.filter((one) => one === id)).toHaveLength(1);
  });

  test("goes on at another replica from its last event, with what came meanwhile and nothing else", async () => {
    const taskId = await openTask(app, s);
    const [before, between, held] = [
      await mint(app, s, taskId),
      await mint(app, s, taskId),
      await mint(app, s, taskId),
    ];
    await revoke(app, before.id);
    const slow = await takingBack(held.id);
    let id: string | undefined;
    {
      await using reader = await listen(app, auditor);
      await hears(reader, [before.id]);
      id = reader.lastId();
    }
    await revoke(app, between.id);
    // It began before the event, and so its number is smaller than those that were heard of.
    await slow.commit();
    await using reader = await listen(replica, auditor, id);
    await hears(reader, [between.id, held.id]);
    expect(reader.told().sort()).toEqual([between.id, held.id].sort());
    expect(reader.heard[0]?.data.complete).toBe(false);
  });

  test("gets everything anew where its last event says nothing: the database is older than it, or it is of other targets", async () => {
    await using reader = await listen(app, auditor);
    await until("an id", () => reader.lastId() !== undefined);
    const future = "9000000000000000000:9000000000000000000:.all";
    for (const id of [future, (reader.lastId() ?? "").replace(".all", `.${"0".repeat(16)}`)]) {
      await using other = await listen(app, auditor, id);
      await until("the beginning", () => other.heard.length > 0);
      expect(other.heard[0]?.data.complete).toBe(true);
    }
  });

  test.each([
    "1",
    "1:2",
    "2:1:.all",
    "1:2:.ALL",
    "1:9:5,3.all",
    "1:9:9.all",
    "0:1:.all",
    "1:2:.all;x",
    `1:${"9".repeat(19)}:.all`,
    `1:9:${"2,".repeat(3000)}2.all`,
  ])("that sends %# as its last event is told that it is none (400)", async (id) => {
    const { status, body } = await app.call(auditor, "GET", "/status/events", undefined, { "last-event-id": id });
    expect({ status, errors: body.errors }).toEqual({
      status: 400,
      errors: [expect.objectContaining({ pointer: "#/header/last-event-id" })],
    });
  });

  test("gets many in several events, of which only the last can be gone on from", async () => {
    await sql(`insert into mayfly.token_statuses (tenant_id, credential_id, target_id, status_list, status_index, expires_at)
      select '${s.tenantId}', 'crd_ffff' || lpad(to_hex(n), 28, '0'), '${s.targetId}', 'stl_${"0".repeat(32)}', n, now() + interval '1 hour'
        from generate_series(1, 2500) n`);
    try {
      await using reader = await listen(app, auditor);
      await until("the last of them", () => reader.heard.some(({ data }) => data.more === false));
      const parts = reader.heard.filter(({ event }) => event === "status");
      expect(parts.map(({ data, id }) => [data.complete, data.more, id !== undefined])).toEqual([
        [true, true, false],
        [false, true, false],
        [false, false, true],
      ]);
      expect(new Set(reader.told()).size).toBe(reader.told().length);
      expect(reader.told().filter((id) => id.startsWith("crd_ffff"))).toHaveLength(2500);
    } finally {
      await sql("delete from mayfly.token_statuses where credential_id like 'crd_ffff%'");
    }
  });

  test.each([
    ["orchestrator", 200],
    ["admin", 200],
    ["approver", 403],
  ])("as %s: %i", async (sub, status) => {
    await using reader = await listen(app, await app.token({ sub }));
    expect(reader.status).toBe(status);
  });

  test("must say who it is", async () => {
    expect((await app.call(null, "GET", "/status/events")).status).toBe(401);
  });
});

describe("invariant 10: a reader hears only of what concerns it", () => {
  test("an agent of the targets that it serves, and of a target from the moment that it serves it", async () => {
    await as((tx) =>
      aTarget(tx, app.broker, {
        tenantId: s.tenantId,
        ownerId: s.ownerId,
        name: "other-api",
        issuer: "jwt",
        config: { audience: "https://other.test/api" },
        resources: { [s.resourceId]: { read: {} } },
      }),
    );
    const [target] = await sql<{ id: string }>("select id from mayfly.targets where name = 'other-api'");
    const tool = await aTool("tool-1", s.targetId);
    const taskId = await openTask(app, s);
    const [served, alien] = [await mint(app, s, taskId), await mint(app, s, taskId, { target: "other-api" })];
    await using reader = await listen(replica, tool.token);
    await until("the beginning", () => reader.heard.length > 0);
    await revoke(app, alien.id);
    await revoke(app, served.id);
    await hears(reader, [served.id]);
    await staysAlive(reader);
    expect(reader.told()).not.toContain(alien.id);
    await serves(tool.id, target?.id ?? "");
    await hears(reader, [alien.id]);
    const again = reader.heard.findLast(({ event }) => event === "status");
    expect(again?.data).toMatchObject({
      complete: true,
      audiences: ["https://other.test/api", "https://tickets.test/api"],
    });
  });

  test("an agent is told of which APIs it is told everything: none of which another target has a part", async () => {
    const tool = await aTool("tool-of-a-part");
    await using reader = await listen(replica, tool.token);
    const audiences = () => reader.heard.findLast(({ data }) => data.audiences !== undefined)?.data.audiences;
    await until("the beginning", () => reader.heard.length > 0);
    expect(audiences()).toEqual([]);
    await serves(tool.id, s.targetId);
    await until("it serves the API", () => audiences()?.[0] === "https://tickets.test/api");
    // Tokens of this one have the same audience, and the tool is not told of them.
    let twin: Id<"target"> | undefined;
    await as(async (tx) => {
      twin = await aTarget(tx, app.broker, {
        tenantId: s.tenantId,
        ownerId: s.ownerId,
        name: "twin",
        issuer: "jwt",
        config: { audience: "https://tickets.test/api" },
        resources: { [s.resourceId]: { read: {} } },
      });
    });
    await until("it serves a part of it", () => audiences()?.length === 0);
    if (twin === undefined) throw new Error("no twin");
    await serves(tool.id, twin);
    await until("it serves all of it", () => audiences()?.[0] === "https://tickets.test/api");
  });

  test("nobody of another tenant", async () => {
    const other = newId("tenant");
    await app.broker.db.withTenant({ tenantId: SYSTEM_TENANT, actor: "test" }, (tx) =>
      tx.insertInto("tenants").values({ id: other, name: "elsewhere", display_name: "Other" }).execute(),
    );
    await seed(app.broker, app.idp, { tenantId: other });
    await using stranger = await listen(app, await app.token({ sub: "auditor" }, "elsewhere"));
    await using reader = await listen(app, auditor);
    const { id } = await mint(app, s);
    await revoke(app, id);
    await hears(reader, [id]);
    await staysAlive(stranger);
    expect(stranger.heard.filter(({ event }) => event === "status").map(({ data }) => data.statuses)).toEqual([[]]);
    await revoke(app, (await mint(app, s)).id);
  });
});

describe("a stream ends", () => {
  const admin = async (method: string, path: string, body?: unknown, headers?: Record<string, string>) => {
    const answer = await app.call(await app.token({ sub: "admin" }), method, path, body, headers);
    expect([200, 204]).toContain(answer.status);
    return answer;
  };

  test("when its agent is suspended", async () => {
    const tool = await aTool("tool-2", s.targetId);
    await using reader = await listen(replica, tool.token);
    await staysAlive(reader);
    await admin("POST", `/v1/agents/${tool.id}/state`, { state: "suspended" });
    expect(await reader.ended).toBe("end");
    await using again = await listen(replica, tool.token);
    expect(await again.ended).toBe("end");
    expect(again.heard).toEqual([]);
  });

  test("when its identity is removed", async () => {
    const tool = await aTool("tool-3", s.targetId);
    await using reader = await listen(replica, tool.token);
    await staysAlive(reader);
    const [identity] = await sql<{ id: string }>(`select id from mayfly.identities where agent_id = '${tool.id}'`);
    const { headers } = await admin("GET", `/v1/identities/${identity?.id}`);
    await admin("DELETE", `/v1/identities/${identity?.id}`, undefined, { "if-match": headers.get("etag") ?? "" });
    expect(await reader.ended).toBe("end");
    await using again = await listen(replica, tool.token);
    expect(again.status).toBe(401);
  });

  test("with the token of its caller", async () => {
    const now = Math.floor(Date.now() / 1000);
    await using reader = await listen(app, await app.token({ sub: "auditor", exp: now + 4 }));
    expect(reader.status).toBe(200);
    expect(await reader.ended).toBe("end");
    expect(Date.now() / 1000).toBeGreaterThanOrEqual(now + 4);
  });

  test("at once when the server stops, which then has nothing in flight", async () => {
    const third = await replicaOf(app);
    try {
      await using reader = await listen(third, auditor);
      await staysAlive(reader);
      await third.api.stop();
      expect(await reader.ended).toBe("end");
      const line = third.logged.map((text) => JSON.parse(text)).find(({ route }) => route === "/status/events");
      expect(line).toMatchObject({ status: 200, method: "GET", msg: "request" });
    } finally {
      await third[Symbol.asyncDispose]();
    }
  });

  test("and leaves its seat to another one", async () => {
    const open = async () =>
      Number(/^mayfly_status_streams (\d+)$/m.exec((await replica.call(null, "GET", "/metrics")).text)?.[1]);
    await until("nobody listens", async () => (await open()) === 0);
    {
      await using _ = await listen(replica, auditor);
      expect(await open()).toBe(1);
    }
    await until("nobody listens again", async () => (await open()) === 0);
  });
});

test("nothing is alive while the database does not say what was revoked, and then everything is told anew", async () => {
  await using reader = await listen(replica, auditor);
  await staysAlive(reader);
  const { id } = await mint(app, s);
  // Every look fails, and is counted: a sequence keeps what is rolled back.
  await sql("create sequence mayfly.failed_looks");
  await sql("alter function mayfly.statuses_since(pg_snapshot, text[]) rename to gone");
  await sql(`create function mayfly.statuses_since(pg_snapshot, text[]) returns setof mayfly.generations security definer
    language plpgsql as $$ begin perform nextval('mayfly.failed_looks'); raise exception 'no'; end $$`);
  const looks = async () => Number((await sql<{ n: string }>("select last_value as n from mayfly.failed_looks"))[0]?.n);
  await until("it is noticed", () => replica.logged.some((line) => line.includes("does not say what was revoked")));
  const [signs, told] = [reader.alive(), reader.heard.length];
  await revoke(app, id);
  // One that begins to listen now hears nothing either.
  await using late = await listen(replica, auditor);
  expect(late.status).toBe(200);
  // As many as there are between three signs of life.
  await until("many looks have failed", async () => (await looks()) > 15);
  expect([reader.alive(), reader.heard.length, late.heard.length]).toEqual([signs, told, 0]);
  await sql("drop function mayfly.statuses_since(pg_snapshot, text[])");
  await sql("alter function mayfly.gone(pg_snapshot, text[]) rename to statuses_since");
  for (const one of [reader, late]) await hears(one, [id]);
  expect(reader.heard[told]?.data).toMatchObject({ complete: true });
  await staysAlive(reader);
});

test("a cursor is what Postgres can read, and nothing else", async () => {
  const good = ["1:1:", "10:20:10,12,19", "700:9223372036854775807:"];
  for (const snapshot of good) {
    expect(parseCursor(`${snapshot}.all`)).toEqual({ snapshot, serves: "all" });
    await sql(`select '${snapshot}'::pg_snapshot`);
  }
});
