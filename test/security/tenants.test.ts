import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import { newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";

let app: App;
let ours: Seeded;
/** Ids of things that exist, in the other tenant, by the name of the path parameter. */
let theirs: Record<string, string>;
let everyone: Record<"admin" | "orchestrator" | "auditor" | "approver" | "agent", string>;

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly parameters: readonly string[];
}

beforeAll(async () => {
  app = await startApp({ worker: false });
  ours = await seed(app.broker, app.idp);
  const other = newId("tenant");
  await app.broker.db.withTenant({ tenantId: SYSTEM_TENANT, actor: "test" }, (tx) =>
    tx.insertInto("tenants").values({ id: other, name: "other", display_name: "Other" }).execute(),
  );
  const seeded = await seed(app.broker, app.idp, { tenantId: other });
  const [orchestrator, agent] = [
    await app.token({ sub: "orchestrator" }, "other"),
    await app.token({ sub: seeded.agentSub }, "other"),
  ];
  const task = await app.call(orchestrator, "POST", "/v1/tasks", {
    agent_id: seeded.agentId,
    purpose_id: seeded.purposeId,
    objective: "theirs",
    initiated_by: { kind: "system", id: "x" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  const minted = await app.call(agent, "POST", "/v1/credentials", {
    task_id: task.body.id,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
  });
  expect(minted.status).toBe(201);
  const revocation = await app.call(orchestrator, "POST", "/v1/revocations", {
    selector: { agent_id: newId("agent") },
    reason: "none",
  });
  const admin = await app.token({ sub: "admin" }, "other");
  const team = await app.call(admin, "POST", "/v1/teams", { name: "blue" });
  const relationship = await app.call(admin, "POST", "/v1/relationships", {
    subject: seeded.agentId,
    relation: "works_on",
    object: "ticket:7",
  });
  expect([team.status, relationship.status]).toEqual([201, 201]);
  theirs = {
    task_id: task.body.id,
    credential_id: minted.body.credential.id,
    revocation_id: revocation.body.id,
    agent_id: seeded.agentId,
    owner_id: seeded.ownerId,
    purpose_id: seeded.purposeId,
    resource_id: seeded.resourceId,
    target_id: seeded.targetId,
    identity_id: seeded.identityId,
    trust_source_id: seeded.trustSourceId,
    team_id: team.body.id,
    relationship_id: relationship.body.id,
    tenant_id: other,
  };
  everyone = {
    admin: await app.token({ sub: "admin" }),
    orchestrator: await app.token({ sub: "orchestrator" }),
    auditor: await app.token({ sub: "auditor" }),
    approver: await app.token({ sub: "approver" }),
    agent: await app.token({ sub: ours.agentSub }),
  };
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

async function operations(): Promise<Operation[]> {
  const document = (await app.call(null, "GET", "/openapi.json")).body;
  return Object.entries(document.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods)
      .filter((method) => ["get", "post", "put", "patch", "delete"].includes(method))
      .map((method) => ({
        method: method.toUpperCase(),
        path,
        parameters: [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? ""),
      })),
  );
}

/** What tells two answers apart, apart from the id of the request. */
const told = (answer: Answer, id: string): object => ({
  status: answer.status,
  type: answer.headers.get("content-type"),
  etag: answer.headers.get("etag"),
  body: answer.text.replace(/urn:mayfly:request:[0-9a-f-]+/, "request").replaceAll(id, "the id"),
});

const unknownLike = (id: string): string => `${id.slice(0, 4)}${randomUUID().replaceAll("-", "")}`;

/** A body with which the operation would work on a thing of our own, so that only the id can be what is refused. */
const bodies: Readonly<Record<string, unknown>> = {
  "POST /v1/tasks/{task_id}/end": { outcome: "killed" },
  "POST /v1/agents/{agent_id}/state": { state: "suspended" },
  "POST /v1/targets/{target_id}/state": { state: "suspended" },
  "POST /v1/purposes/{purpose_id}/review": { review_by: new Date(Date.now() + 86_400_000).toISOString() },
  "PATCH /v1/agents/{agent_id}": { description: "x" },
  "PATCH /v1/owners/{owner_id}": { name: "x" },
  "PATCH /v1/teams/{team_id}": { name: "x" },
  "PATCH /v1/resources/{resource_id}": { description: "x" },
  "PATCH /v1/targets/{target_id}": { stuck_limit: 9 },
  "PATCH /v1/purposes/{purpose_id}": { description: "x" },
  "PATCH /v1/trust-sources/{trust_source_id}": { name: "x" },
};

describe("invariant 10: another tenant's id answers byte for byte as an unknown one", () => {
  test("at every endpoint of the OpenAPI document that takes an id in its path, for every role", async () => {
    const taking = (await operations()).filter(({ parameters }) => parameters.some((name) => name.endsWith("_id")));
    expect(taking.length).toBeGreaterThan(30);
    let compared = 0;
    for (const { method, path, parameters } of taking) {
      const [name = ""] = parameters;
      const theirId = theirs[name];
      // A parameter that this test does not know must not pass unseen.
      expect({ path, name, known: theirId !== undefined }).toEqual({ path, name, known: true });
      for (const token of Object.values(everyone)) {
        const answers = [];
        for (const id of [theirId ?? "", unknownLike(theirId ?? "")]) {
          const body = bodies[`${method} ${path}`] ?? (method === "POST" || method === "PATCH" ? {} : undefined);
          const answer = await app.call(
            token,
            method,
            path.replace(`{${name}}`, id),
            method === "GET" || method === "DELETE" ? undefined : body,
            { "if-match": '"1"' },
          );
          answers.push(told(answer, id));
          expect(answer.status).toBeGreaterThanOrEqual(400);
          expect(answer.status).toBeLessThan(500);
        }
        expect({ method, path, told: answers[0] }).toEqual({ method, path, told: answers[1] });
        compared += 1;
      }
    }
    expect(compared).toBeGreaterThan(150);
  }, 300_000);

  // Before the next test: what it is refused becomes evidence of ours, under the ids that it named.
  test("in every filter of every list", async () => {
    const lists: [string, (keyof typeof theirs)[]][] = [
      ["/v1/credentials", ["agent_id", "task_id", "owner_id", "purpose_id", "target_id"]],
      ["/v1/audit", ["agent_id", "task_id", "credential_id"]],
    ];
    for (const [path, kinds] of lists)
      for (const kind of kinds)
        for (const one of [theirs[kind] ?? "", unknownLike(theirs[kind] ?? "")]) {
          const listed = await app.call(everyone.admin, "GET", `${path}?${kind.replace("_id", "")}=${one}`);
          expect({ path, kind, status: listed.status, body: listed.body }).toEqual({
            path,
            kind,
            status: 200,
            body: { items: [], next_page_token: "" },
          });
        }
  });

  test("wherever a body names one", async () => {
    const id = (kind: keyof typeof theirs) => [theirs[kind] ?? "", unknownLike(theirs[kind] ?? "")];
    const task = {
      objective: "x",
      initiated_by: { kind: "system", id: "x" },
      deadline: new Date(Date.now() + 3_600_000).toISOString(),
    };
    const requests: [keyof typeof theirs, string, "admin" | "orchestrator" | "agent", (id: string) => object][] = [
      ["agent_id", "/v1/tasks", "orchestrator", (agent_id) => ({ ...task, agent_id, purpose_id: ours.purposeId })],
      ["purpose_id", "/v1/tasks", "orchestrator", (purpose_id) => ({ ...task, agent_id: ours.agentId, purpose_id })],
      [
        "task_id",
        "/v1/credentials",
        "agent",
        (task_id) => ({ task_id, target: "tickets-api", actions: ["read"], resources: ["tickets"] }),
      ],
      [
        "task_id",
        "/v1/credentials/dry-run",
        "agent",
        (task_id) => ({ task_id, target: "tickets-api", actions: ["read"], resources: ["tickets"] }),
      ],
      [
        "owner_id",
        "/v1/agents",
        "admin",
        (owner_id) => ({ kind: "agent", name: "x1", owner_id, environment: "staging" }),
      ],
      [
        "owner_id",
        "/v1/resources",
        "admin",
        (owner_id) => ({
          name: "x2",
          kind: "api",
          owner_id,
          classification: "public",
          environment: "staging",
          risk: "low",
          operations: { read: "read" },
        }),
      ],
      [
        "agent_id",
        "/v1/identities",
        "admin",
        (agent_id) => ({ trust_source_id: ours.trustSourceId, agent_id, anchor_claim: "sub", anchor_value: "x3" }),
      ],
      [
        "trust_source_id",
        "/v1/identities",
        "admin",
        (trust_source_id) => ({ trust_source_id, agent_id: ours.agentId, anchor_claim: "sub", anchor_value: "x4" }),
      ],
      ["agent_id", "/v1/relationships", "admin", (subject) => ({ subject, relation: "works_on", object: "ticket:8" })],
      [
        "owner_id",
        "/v1/targets",
        "admin",
        (owner_id) => ({
          name: "x5",
          issuer: "jwt",
          owner_id,
          max_ttl_seconds: 60,
          config: { audience: "https://x.test" },
          resources: [{ resource: ours.resourceId, access: { read: {} } }],
        }),
      ],
      [
        "resource_id",
        "/v1/targets",
        "admin",
        (resource) => ({
          name: "x6",
          issuer: "jwt",
          owner_id: ours.ownerId,
          max_ttl_seconds: 60,
          config: { audience: "https://x.test" },
          resources: [{ resource, access: { read: {} } }],
        }),
      ],
    ];
    for (const [kind, path, who, body] of requests) {
      const answers = [];
      for (const one of id(kind)) answers.push(told(await app.call(everyone[who], "POST", path, body(one)), one));
      expect({ path, kind, told: answers[0] }).toEqual({ path, kind, told: answers[1] });
      expect((answers[0] as { status: number }).status).toBeGreaterThanOrEqual(400);
    }
  });

  test("a token of one tenant is nothing at the other's audience, and introspection knows only its own tokens", async () => {
    const agent = await app.token({ sub: ours.agentSub });
    const task = await app.call(everyone.orchestrator, "POST", "/v1/tasks", {
      agent_id: ours.agentId,
      purpose_id: ours.purposeId,
      objective: "x",
      initiated_by: { kind: "system", id: "x" },
      deadline: new Date(Date.now() + 3_600_000).toISOString(),
    });
    const minted = await app.call(agent, "POST", "/v1/credentials", {
      task_id: task.body.id,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
    });
    const form = new URLSearchParams({ token: minted.body.secret.access_token }).toString();
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    expect((await app.call(everyone.admin, "POST", "/oauth/introspect", form, headers)).body.active).toBe(true);
    const stranger = await app.token({ sub: "admin" }, "other");
    expect((await app.call(stranger, "POST", "/oauth/introspect", form, headers)).body).toEqual({ active: false });
  });
});

describe("invariant 10: the second wall", () => {
  test("the runtime role sees no row of any table without a tenant, and only that tenant's with one", async () => {
    const superuser = new pg.Client({ connectionString: app.database.superuserUrl });
    const runtime = new pg.Client({ connectionString: app.database.runtimeUrl });
    await superuser.connect();
    await runtime.connect();
    try {
      const { rows: tables } = await superuser.query(
        "select c.relname as name, c.relrowsecurity and c.relforcerowsecurity as walled from pg_class c where c.relnamespace = 'mayfly'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition",
      );
      expect(tables.length).toBeGreaterThan(18);
      for (const { name, walled } of tables) {
        expect({ name, walled }).toEqual({ name, walled: true });
        expect((await runtime.query(`select from mayfly.${name}`)).rowCount).toBe(0);
      }
      await runtime.query("begin");
      await runtime.query("select set_config('mayfly.tenant', $1, true)", [ours.tenantId]);
      for (const { name } of tables) {
        const column = name === "tenants" ? "id" : "tenant_id";
        const { rows } = await runtime.query(`select distinct ${column} as tenant from mayfly.${name}`);
        for (const { tenant } of rows) expect({ name, tenant }).toEqual({ name, tenant: ours.tenantId });
      }
      await runtime.query("rollback");
      const { rows: partitions } = await superuser.query(
        "select relname as name from pg_class where relnamespace = 'mayfly'::regnamespace and relispartition and relkind = 'r'",
      );
      for (const { name } of partitions)
        await expect(runtime.query(`select from mayfly.${name}`)).rejects.toMatchObject({ code: "42501" });
    } finally {
      await superuser.end();
      await runtime.end();
    }
  });

  test("nothing can be changed or removed that is evidence", async () => {
    const runtime = new pg.Client({ connectionString: app.database.runtimeUrl });
    await runtime.connect();
    try {
      await runtime.query("select set_config('mayfly.tenant', $1, false)", [ours.tenantId]);
      for (const statement of [
        "delete from mayfly.audit_events",
        "update mayfly.audit_events set actor = 'nobody'",
        "delete from mayfly.credentials",
        "delete from mayfly.decisions",
        "update mayfly.decisions set outcome = 'allow'",
        "delete from mayfly.tasks",
        "delete from mayfly.uses",
        "update mayfly.uses set after_end = false",
        "delete from mayfly.token_statuses",
        "update mayfly.token_statuses set expires_at = now()",
        "update mayfly.status_lists set seed = ''",
      ])
        await expect(runtime.query(statement)).rejects.toMatchObject({ code: "42501" });
      await expect(
        runtime.query(
          "update mayfly.credentials set expires_at = expires_at + interval '1 hour' where state = 'active'",
        ),
      ).rejects.toMatchObject({ code: "MF002" });
      await expect(
        runtime.query("update mayfly.credentials set state = 'pending', due_at = now() where state = 'active'"),
      ).rejects.toMatchObject({ code: "MF001" });
    } finally {
      await runtime.end();
    }
  });
});
