import { afterAll, beforeAll, describe, expect, jest, test } from "@jest/globals";
import { sql } from "kysely";
import { newId } from "../../src/lib/ids.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { type Seeded, seed } from "../support/seed.ts";

let database: TestDatabase;
let app: App;
let other: App;
let s: Seeded;
let agent: string;
let tool: string;
let taskId: string;

// What one process changes, another one has remembered.
beforeAll(async () => {
  database = await testDatabase();
  app = await startApp({ database, worker: false, env: { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" } });
  other = await startApp({ database, worker: false, env: app.env });
  s = await seed(app.broker, app.idp);
  agent = await app.token({ sub: s.agentSub });
  tool = await app.token({ sub: "orchestrator" });
  const opened = await app.call(tool, "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "look at ticket 7",
    initiated_by: { kind: "human", id: "alice" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  taskId = opened.body.id;
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const mint = (at: App): Promise<Answer> =>
  at.call(agent, "POST", "/v1/credentials", {
    task_id: taskId,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
  });

const introspect = (at: App, token: string): Promise<Answer> =>
  at.call(tool, "POST", "/oauth/introspect", new URLSearchParams({ token }).toString(), {
    "content-type": "application/x-www-form-urlencoded",
  });

/** Straight in SQL, as the runtime role: what is promised holds for whoever changes a row. */
const change = async (statement: string): Promise<void> => {
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) => sql.raw(statement).execute(tx));
};

describe("invariant 1: what a process remembers of the registry is used by no request after it has changed", () => {
  test.each<[string, () => [change: string, back: string], number, string]>([
    [
      "the agent is suspended",
      () => [
        `update agents set state = 'suspended' where id = '${s.agentId}'`,
        `update agents set state = 'active' where id = '${s.agentId}'`,
      ],
      403,
      "agent_not_active",
    ],
    [
      "an owner departs",
      () => [
        `update owners set status = 'departed', departed_at = now() where id = '${s.ownerId}'`,
        `update owners set status = 'active', departed_at = null where id = '${s.ownerId}'`,
      ],
      403,
      "owner_inactive",
    ],
    [
      "the purpose narrows",
      () => [
        `update purposes set actions = '{write}' where id = '${s.purposeId}'`,
        `update purposes set actions = '{read,write}' where id = '${s.purposeId}'`,
      ],
      403,
      "action_outside_purpose",
    ],
    [
      "the target is suspended",
      () => [
        `update targets set state = 'suspended' where id = '${s.targetId}'`,
        `update targets set state = 'active' where id = '${s.targetId}'`,
      ],
      403,
      "target_suspended",
    ],
    [
      "the target no longer reaches the resource",
      () => [
        `delete from target_resources where resource_id = '${s.resourceId}'`,
        `insert into target_resources (tenant_id, target_id, resource_id, access)
           values ('${s.tenantId}', '${s.targetId}', '${s.resourceId}', '{"read": {}, "write": {}}')`,
      ],
      403,
      "resource_outside_target",
    ],
    [
      "the resource is reclassified",
      () => [
        `update resources set environment = 'production' where id = '${s.resourceId}'`,
        `update resources set environment = 'staging' where id = '${s.resourceId}'`,
      ],
      403,
      "policy_forbidden",
    ],
    [
      "other policies are published",
      () => [`update policy_sets set active = false`, `update policy_sets set active = true where policy_version = 1`],
      403,
      "policy_missing",
    ],
    [
      "the identity is bound to other claims",
      () => [
        `update identities set anchor_value = 'somebody-else' where id = '${s.identityId}'`,
        `update identities set anchor_value = '${s.agentSub}' where id = '${s.identityId}'`,
      ],
      401,
      "identity_unknown",
    ],
    [
      "a second identity fits the same token",
      () => [
        `insert into identities (tenant_id, id, trust_source_id, agent_id, anchor_claim, anchor_value)
           values ('${s.tenantId}', '${newId("identity")}', '${s.trustSourceId}', '${s.agentId}', 'iss', '${app.idp.issuer}')`,
        `delete from identities where anchor_claim = 'iss'`,
      ],
      401,
      "identity_ambiguous",
    ],
    [
      "the trust source is disabled",
      () => [
        `update trust_sources set state = 'disabled', version = version + 1 where id = '${s.trustSourceId}'`,
        `update trust_sources set state = 'active', version = version + 1 where id = '${s.trustSourceId}'`,
      ],
      401,
      "token_issuer_unknown",
    ],
    [
      "the tenant is suspended",
      () => [`update tenants set state = 'suspended'`, `update tenants set state = 'active'`],
      401,
      "tenant_suspended",
    ],
  ])("%s", async (_what, statements, status, code) => {
    const [forth, back] = statements();
    for (const at of [app, other]) expect((await mint(at)).status).toBe(201);
    await change(forth);
    for (const at of [other, app]) {
      const refused = await mint(at);
      expect([refused.status, refused.body.reasons?.map((reason: { code: string }) => reason.code)]).toEqual([
        status,
        expect.arrayContaining([code]),
      ]);
    }
    await change(back);
    for (const at of [app, other]) expect((await mint(at)).status).toBe(201);
  });

  test("a tool whose trust source is disabled learns nothing more by introspection", async () => {
    const { body } = await mint(app);
    const token: string = body.secret.access_token;
    for (const at of [app, other]) expect((await introspect(at, token)).body).toMatchObject({ active: true });
    await change(`update trust_sources set state = 'disabled', version = version + 1`);
    for (const at of [app, other]) expect((await introspect(at, token)).status).toBe(401);
    await change(`update trust_sources set state = 'active', version = version + 1`);
    for (const at of [app, other]) expect((await introspect(at, token)).body).toMatchObject({ active: true });
  });
});

test("mints get through while the registry changes all the time, and none is older than a change before it", async () => {
  let storm = true;
  let changes = 0;
  const changing = async (): Promise<void> => {
    while (storm) {
      await change(`update owners set name = name where id = '${s.ownerId}'`);
      changes += 1;
    }
  };
  const changers = [changing(), changing(), changing()];
  try {
    for (let round = 0; round < 20; round += 1) {
      const answers = await Promise.all([mint(app), mint(other), mint(app), mint(other)]);
      expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201]);
    }
  } finally {
    storm = false;
    await Promise.all(changers);
  }
  expect(changes).toBeGreaterThan(20);
});

describe("what changes without a new generation is looked at where the intent commits", () => {
  const aTask = async (budget: object): Promise<string> => {
    const opened = await app.call(tool, "POST", "/v1/tasks", {
      agent_id: s.agentId,
      purpose_id: s.purposeId,
      objective: "look at ticket 8",
      initiated_by: { kind: "human", id: "alice" },
      deadline: new Date(Date.now() + 3_600_000).toISOString(),
      budget,
    });
    expect(opened.status).toBe(201);
    return opened.body.id;
  };
  const mintFor = (at: App, task_id: string): Promise<Answer> =>
    at.call(agent, "POST", "/v1/credentials", {
      task_id,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
    });
  const reasons = ({ body }: Answer): string[] => body.reasons.map((reason: { code: string }) => reason.code);

  test("a task that is paused, resumed, ended", async () => {
    const task = await aTask({});
    for (const [action, body, status] of [
      ["pause", {}, 403],
      ["resume", {}, 201],
      ["end", { outcome: "completed" }, 403],
    ] as const) {
      await app.call(tool, "POST", `/v1/tasks/${task}/${action}`, body);
      for (const at of [other, app, other])
        expect([action, (await mintFor(at, task)).status]).toEqual([action, status]);
    }
  });

  test("a task that ends while the mint, overtaken until then, has the registry stand still: refused, with the reason", async () => {
    const task = await aTask({});
    const { sql: statements } = app.broker;
    const { standingStill } = statements;
    using _overtaken = jest.spyOn(statements, "commit").mockResolvedValue({ outcome: "changed" });
    using _still = jest.spyOn(statements, "standingStill").mockImplementation((tenantId, work) =>
      standingStill(tenantId, (still) =>
        work({
          ...still,
          async commit(...intent) {
            await other.call(tool, "POST", `/v1/tasks/${task}/end`, { outcome: "completed" });
            return still.commit(...intent);
          },
        }),
      ),
    );
    const refused = await mintFor(app, task);
    expect([refused.status, reasons(refused)]).toEqual([403, ["task_not_open"]]);
  });

  test("a budget of five credentials is five, whoever asks and however many at once", async () => {
    const task = await aTask({ max_credentials: 5 });
    const answers = await Promise.all(
      Array.from({ length: 24 }, (_, index) => mintFor(index % 2 === 0 ? app : other, task)),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(5);
    for (const refused of answers.filter(({ status }) => status !== 201))
      expect(reasons(refused)).toEqual(["task_budget_exhausted"]);
  });
});

describe("what a process remembers refuses nobody", () => {
  test("a token whose identity is another agent's now acts as that agent at once", async () => {
    const other_ = newId("agent");
    await change(`insert into agents (tenant_id, id, kind, name, owner_id, environment, state)
      values ('${s.tenantId}', '${other_}', 'agent', 'another', '${s.ownerId}', 'staging', 'active')`);
    for (const at of [app, other]) expect((await mint(at)).status).toBe(201);
    await change(`update identities set agent_id = '${other_}' where id = '${s.identityId}'`);
    // The task is the first agent's: to any other it is unknown.
    for (const at of [app, other]) expect((await mint(at)).status).toBe(404);
    await change(`update identities set agent_id = '${s.agentId}' where id = '${s.identityId}'`);
    for (const at of [app, other]) expect((await mint(at)).status).toBe(201);
  });

  test("a token that was an orchestrator's and is an agent's now may mint at once", async () => {
    const { body } = await mint(app);
    const both = await app.token({ sub: "auditor" });
    const bothMint = (at: App) =>
      at.call(both, "POST", "/v1/credentials", {
        task_id: taskId,
        target: "tickets-api",
        actions: ["read"],
        resources: ["tickets"],
      });
    for (const at of [app, other]) {
      const asked = await at.call(
        both,
        "POST",
        "/oauth/introspect",
        new URLSearchParams({ token: body.secret.access_token }).toString(),
        { "content-type": "application/x-www-form-urlencoded" },
      );
      expect(asked.body).toMatchObject({ active: true });
      expect((await bothMint(at)).status).toBe(403);
    }
    await change(`update trust_sources set version = version + 1, settings = settings || '{"role_mappings": []}'`);
    await change(`update identities set anchor_value = 'auditor' where id = '${s.identityId}'`);
    for (const at of [app, other]) expect((await bothMint(at)).status).toBe(201);
  });
});
