import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import { reconcileTarget } from "../../src/credentials/reconcile.ts";
import type { Id } from "../../src/lib/ids.ts";
import { newId } from "../../src/lib/ids.ts";
import { type App, startApp } from "../support/app.ts";
import { type PostgresTarget, postgresTarget } from "../support/postgres-target.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

let app: App;
let s: Seeded;
let target: PostgresTarget;
let targetId: Id<"target">;
let agent: string;
let orchestrator: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  target = await postgresTarget();
  targetId = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, app.broker, {
      tenantId: s.tenantId,
      ownerId: s.ownerId,
      name: "tickets-db",
      issuer: "postgres",
      config: target.config,
      resources: { [s.resourceId]: { read: { roles: [target.readers] }, write: { roles: [target.writers] } } },
    }),
  );
  agent = await app.token({ sub: s.agentSub });
  orchestrator = await app.token({ sub: "orchestrator" });
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

async function mintForNewTask(ttl = 60) {
  const task = await app.call(orchestrator, "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "read ticket 7",
    initiated_by: { kind: "human", id: "alice" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  const minted = await app.call(agent, "POST", "/v1/credentials", {
    task_id: task.body.id,
    target: "tickets-db",
    actions: ["read"],
    resources: ["tickets"],
    ttl_seconds: ttl,
  });
  expect(minted.status).toBe(201);
  const { host, port, database, username, password } = minted.body.secret;
  return {
    taskId: task.body.id as string,
    id: minted.body.credential.id as string,
    username: username as string,
    login: { host, port, database, user: username, password },
  };
}

async function proven(id: string) {
  return until(`${id} is proven dead`, async () => {
    const shown = await app.call(orchestrator, "GET", `/v1/credentials/${id}`);
    return ["revoked", "expired", "failed"].includes(shown.body.state) && shown.body;
  });
}

describe("a Postgres credential", () => {
  test("lets a real client read what the task needs and nothing else, and dies with its open session at its TTL", async () => {
    const { id, login } = await mintForNewTask(3);
    const client = new pg.Client(login);
    const cut = new Promise<void>((resolve) => client.on("error", () => resolve()));
    await client.connect();
    expect((await client.query("select title from tickets where id = 7")).rows).toEqual([{ title: "printer on fire" }]);
    await expect(client.query("update tickets set title = 'x'")).rejects.toMatchObject({ code: "42501" });
    const dead = await proven(id);
    await cut;
    expect(dead).toMatchObject({ state: "revoked", state_reason: "ttl", receipt: { ended_by: "mayfly" } });
    await expect(new pg.Client(login).connect()).rejects.toMatchObject({ code: expect.stringMatching(/^28/) });
    expect(await target.roles()).toEqual([]);
  });

  test("invariant 6: is revoked with a receipt when its task ends", async () => {
    const { id, taskId, login } = await mintForNewTask();
    await app.call(orchestrator, "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
    expect(await proven(id)).toMatchObject({
      state: "revoked",
      state_reason: "task_ended",
      receipt: { probe: expect.any(String) },
    });
    await expect(new pg.Client(login).connect()).rejects.toMatchObject({ code: expect.stringMatching(/^28/) });
    expect((await app.call(orchestrator, "GET", `/v1/tasks/${taskId}`)).body.credentials).toMatchObject({
      live: 0,
      revoking: 0,
      dead: 1,
    });
  });

  test("can be given back by its agent before its end", async () => {
    const { id } = await mintForNewTask();
    expect((await app.call(agent, "POST", `/v1/credentials/${id}/release`)).status).toBe(200);
    expect(await proven(id)).toMatchObject({ state: "revoked", state_reason: "released" });
  });

  test("that has made something of its own dies with a residue, which goes as soon as it can, and is told of once", async () => {
    await target.asSuperuser(`grant create on schema public to ${target.readers}`);
    const { id, taskId, username, login } = await mintForNewTask();
    const client = new pg.Client(login);
    client.on("error", () => undefined);
    await client.connect();
    await client.query("create table mine (x int)");
    await app.call(orchestrator, "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
    expect(await proven(id)).toMatchObject({
      state: "revoked",
      receipt: { residue: expect.stringContaining(username) },
    });
    await expect(new pg.Client(login).connect()).rejects.toMatchObject({ code: expect.stringMatching(/^28/) });
    const told = async (): Promise<string[]> => {
      const auditor = await app.token({ sub: "auditor" });
      const types = ["orphan.found", "orphan.removed", "residue.removed"];
      const pages = await Promise.all(types.map((type) => app.call(auditor, "GET", `/v1/audit?type=${type}`)));
      const events: { type: string; data: { downstream_name: string } }[] = pages.flatMap(({ body }) => body.items);
      return events.filter(({ data }) => data.downstream_name === username).map(({ type }) => type);
    };
    for (let again = 0; again < 2; again += 1)
      expect(await reconcileTarget(app.broker, s.tenantId, targetId)).toMatchObject({ orphansRemoved: 0 });
    expect([await told(), await target.roles()]).toEqual([[], [username]]);
    await target.asSuperuser("drop table mine");
    for (let again = 0; again < 2; again += 1)
      expect(await reconcileTarget(app.broker, s.tenantId, targetId)).toMatchObject({ orphansRemoved: 0 });
    expect([await told(), await target.roles()]).toEqual([["residue.removed"], []]);
  });

  test("reconciliation removes what is ours by name but in no ledger, closes what is gone, and leaves strangers alone", async () => {
    const stranger = `mfx_${target.config.deployment}_${"0".repeat(32)}`;
    const orphan = `mfy_${target.config.deployment}_${newId("credential").slice(4)}`;
    await target.asSuperuser(
      `create role ${stranger}; create role ${orphan} login; grant ${orphan} to ${String(target.config["user"])} with admin option`,
    );
    const { id, username } = await mintForNewTask();
    await target.asSuperuser(`drop role ${username}`);
    const found = await reconcileTarget(app.broker, s.tenantId, targetId);
    expect(found).toMatchObject({ orphansRemoved: 1, missingClosed: 1 });
    expect(await proven(id)).toMatchObject({ state: "revoked", state_reason: "missing_downstream" });
    expect(await target.roles()).toEqual([]);
    const { rows } = await target.asSuperuser("select from pg_roles where rolname = $1", [stranger]);
    expect(rows).toHaveLength(1);
    await target.asSuperuser(`drop role ${stranger}`);
    const audit = await app.call(await app.token({ sub: "auditor" }), "GET", `/v1/audit?type=orphan.removed`);
    expect(audit.body.items[0].data).toMatchObject({ downstream_name: orphan, probe: "dead" });
  });
});
