import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { sql } from "kysely";
import { defaultPolicies } from "../../src/policy/default-policies.ts";
import { type App, startApp } from "../support/app.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { type PostgresTarget, postgresTarget } from "../support/postgres-target.ts";
import { aRacer, type Racer } from "../support/racer.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

const ROUNDS = 1_000;
const LANES = 8;
const DEPTH = 5;
const FAN_OUT = 100;

let database: TestDatabase;
let app: App;
let other: App;
let s: Seeded;
let downstream: PostgresTarget;

// Two brokers on one database: two pools, two batchers, two caches, as two API processes have.
beforeAll(async () => {
  database = await testDatabase();
  const env = { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" };
  app = await startApp({ database, env });
  other = await startApp({ database, worker: false, env: { ...app.env, ...env } });
  s = await seed(app.broker, app.idp);
  downstream = await postgresTarget();
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, app.broker, {
      tenantId: s.tenantId,
      ownerId: s.ownerId,
      name: "tickets-db",
      issuer: "postgres",
      config: downstream.config,
      resources: { [s.resourceId]: { read: { roles: [downstream.readers] } } },
    }),
  );
  // The default policies end a chain after three links.
  const text = defaultPolicies.replace("context.delegation_depth > 3", `context.delegation_depth > ${DEPTH}`);
  const published = await app.call(await app.token({ sub: "admin" }), "POST", "/v1/policies", { text });
  expect(published.status).toBe(201);
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
  await downstream[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const mint = (at: App, by: Racer, body: object) =>
  at.call(by.token, "POST", "/v1/credentials", {
    task_id: by.taskId,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
    ...body,
  });

async function minted(at: App, by: Racer, body: object): Promise<string> {
  const answer = await mint(at, by, body);
  if (answer.status !== 201) throw new Error(`${answer.status} ${answer.text}`);
  return answer.body.credential.id;
}

/** The states of a credential and of everything that was minted from it. */
async function statesBelow(id: string): Promise<Record<string, number>> {
  const { rows } = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    sql<{ state: string; n: number }>`
      select state, count(*)::int as n from credentials where id = ${id} or ancestors && array[${id}]::text[] group by state`.execute(
      tx,
    ),
  );
  return Object.fromEntries(rows.map(({ state, n }) => [state, n]));
}

const children = (to: Racer, depth: number) => ({ max_depth: depth, allowed: [{ sub: to.agentId }] });

describe("invariant 7: revoking any node kills its whole subtree", () => {
  test(`${ROUNDS} rounds of a revoke that races exchanges at two levels: nothing of the subtree is alive afterwards`, async () => {
    let granted = 0;
    let refused = 0;
    let left = ROUNDS;
    const lane = async (): Promise<void> => {
      const holder = await aRacer(app, s);
      const delegate = await aRacer(app, s);
      while (left > 0) {
        left -= 1;
        const root = await minted(app, holder, { delegation: children(delegate, 3) });
        const middle = await minted(other, delegate, { parent_credential_id: root, delegation: children(delegate, 2) });
        const passOn = (at: App, parent: string) => () =>
          mint(at, delegate, { parent_credential_id: parent, delegation: children(delegate, 1) });
        const revoke = async () => {
          const by = await app.token({ sub: "orchestrator" });
          const answer = await (left % 2 === 0 ? app : other).call(by, "POST", `/v1/credentials/${root}/revoke`);
          // One that is refused proves nothing.
          expect(answer.status).toBe(200);
          return answer;
        };
        const contenders = [passOn(app, root), revoke, passOn(other, middle), passOn(app, middle)];
        // Each order in turn, so that no side is always first on the wire.
        const turned = [...contenders.slice(left % 4), ...contenders.slice(0, left % 4)];
        for (const { status } of await Promise.all(turned.map((start) => start()))) {
          if (status === 201) granted += 1;
          else if (status === 403 || status === 503) refused += 1;
          else expect(status).toBe(200);
        }
        const states = await statesBelow(root);
        expect(Object.keys(states)).toEqual(["revoked"]);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    expect(granted).toBeGreaterThan(0);
    expect(refused).toBeGreaterThan(0);
  }, 900_000);

  test(`a tree of depth ${DEPTH} and fan-out ${FAN_OUT} dies in one statement, from any node down`, async () => {
    const holder = await aRacer(app, s);
    const root = await minted(app, holder, { delegation: children(holder, DEPTH) });
    let parent = root;
    const levels: string[] = [root];
    for (let depth = 1; depth <= DEPTH; depth += 1) {
      const delegation = depth === DEPTH ? {} : { delegation: children(holder, DEPTH - depth) };
      const made = await Promise.all(
        Array.from({ length: FAN_OUT }, (_, index) =>
          minted(index % 2 === 0 ? app : other, holder, { parent_credential_id: parent, ...delegation }),
        ),
      );
      parent = made[0] as string;
      levels.push(parent);
    }
    expect(await statesBelow(root)).toEqual({ active: 1 + DEPTH * FAN_OUT });
    const by = await app.token({ sub: "orchestrator" });
    const preview = await app.call(by, "POST", "/v1/revocations", {
      selector: { task_id: holder.taskId, issued_before: new Date(0).toISOString() },
      reason: "nothing was issued so early",
      preview: true,
    });
    expect(preview.body.matched).toBe(0);
    // From the middle: what is beside and above it lives on.
    expect((await app.call(by, "POST", `/v1/credentials/${levels[3]}/revoke`)).status).toBe(200);
    expect(await statesBelow(root)).toEqual({ revoked: 1 + 2 * FAN_OUT, active: 3 * FAN_OUT });
    expect((await app.call(by, "POST", `/v1/credentials/${root}/revoke`)).status).toBe(200);
    expect(await statesBelow(root)).toEqual({ revoked: 1 + DEPTH * FAN_OUT });
    // Each order was one statement (rows know the command that wrote them), and every credential has its own event.
    const { rows } = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
      sql<{ statements: number; events: number }>`
        select count(distinct (c.xmin::text, c.cmin::text))::int as statements, count(e.id)::int as events from credentials c
          join audit_events e on e.credential_id = c.id and e.type = 'credential.revoked'
         where c.id = ${root} or c.ancestors && array[${root}]::text[]`.execute(tx),
    );
    expect(rows).toEqual([{ statements: 2, events: 1 + DEPTH * FAN_OUT }]);
  });

  test("the kill switch counts what was minted from what it means, and takes it too", async () => {
    const holder = await aRacer(app, s);
    const delegate = await aRacer(app, s);
    const root = await minted(app, holder, { delegation: children(delegate, 1) });
    await minted(other, delegate, { parent_credential_id: root });
    const by = await app.token({ sub: "orchestrator" });
    const order = { selector: { agent_id: holder.agentId }, reason: "the agent went astray", block_seconds: 1 };
    const preview = await app.call(by, "POST", "/v1/revocations", { ...order, preview: true });
    expect(preview.body).toMatchObject({ matched: 2, by_agent: { [holder.agentId]: 1, [delegate.agentId]: 1 } });
    expect((await app.call(by, "POST", "/v1/revocations", order)).body.matched).toBe(2);
    expect(await statesBelow(root)).toEqual({ revoked: 2 });
  });

  test("a database login that was minted from a token dies with it, proven at the database", async () => {
    const holder = await aRacer(app, s);
    const delegate = await aRacer(app, s);
    const root = await minted(app, holder, { delegation: children(delegate, 1) });
    const login = await minted(other, delegate, { target: "tickets-db", parent_credential_id: root });
    expect(await downstream.roles()).toHaveLength(1);
    await app.call(holder.token, "POST", `/v1/credentials/${root}/release`);
    const dead = await until("the login is proven dead", async () => {
      const { body } = await app.call(await app.token({ sub: "auditor" }), "GET", `/v1/credentials/${login}`);
      return body.state === "revoked" && body;
    });
    expect(dead).toMatchObject({ parent_id: root, receipt: { ended_by: "mayfly" } });
    expect(await downstream.roles()).toEqual([]);
  });
});
