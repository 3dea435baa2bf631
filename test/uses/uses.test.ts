import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Id, newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { bind } from "../oauth/harness.ts";
import { query } from "../queue/servers.ts";
import { mint, revoke } from "../status/harness.ts";
import { type App, startApp } from "../support/app.ts";
import { anAgent, type Seeded, seed } from "../support/seed.ts";

let app: App;
let s: Seeded;
/** Serves the seeded target. */
let tool: string;
let toolId: Id<"agent">;
let auditor: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  const made = await aTool(s, "tool");
  toolId = made.id;
  tool = made.token;
  await serves(toolId, s.targetId);
  auditor = await app.token({ sub: "auditor" });
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

async function aTool(seeded: Seeded, sub: string, tenant?: string): Promise<{ id: Id<"agent">; token: string }> {
  const { tenantId, ownerId, trustSourceId } = seeded;
  const id = await app.broker.db.withTenant({ tenantId, actor: "test" }, async (tx) => {
    const agentId = await anAgent(tx, { tenantId, ownerId });
    await bind(tx, { tenantId, trustSourceId, agentId, sub });
    return agentId;
  });
  return { id, token: await app.token({ sub }, tenant) };
}

async function serves(agent: string, target: string): Promise<void> {
  const relationship = { subject: agent, relation: "serves", object: target };
  const { status } = await app.call(await app.token({ sub: "admin" }), "POST", "/v1/relationships", relationship);
  expect(status).toBe(201);
}

const use = (credential_id: string, changes: object = {}) => ({
  credential_id,
  action: "read",
  resource: "tickets",
  outcome: "allowed",
  at: new Date().toISOString(),
  ...changes,
});

const report = (uses: unknown, token = tool, headers: Record<string, string> = {}) =>
  app.call(token, "POST", "/v1/uses", { uses }, headers);

const usesOf = async (id: string, token = auditor, search = "") =>
  app.call(token, "GET", `/v1/credentials/${id}/uses${search}`);

const events = async (search: string) => (await app.call(auditor, "GET", `/v1/audit?${search}`)).body.items;

describe("a report of uses", () => {
  test("is kept with who reported it, and shown with its credential, newest first and page by page", async () => {
    const { id } = await mint(app, s);
    const uses = Array.from({ length: 5 }, (_, index) => use(id, { outcome: index === 3 ? "refused" : "allowed" }));
    expect((await report(uses)).body).toEqual({ accepted: 5, unknown: 0 });
    const first = await usesOf(id, auditor, "?page_size=3");
    const second = await usesOf(id, auditor, `?page_size=3&page_token=${first.body.next_page_token}`);
    const items = [...first.body.items, ...second.body.items];
    expect([first.body.items.length, second.body.items.length, second.body.next_page_token]).toEqual([3, 2, ""]);
    expect(new Set(items.map(({ id: each }) => each)).size).toBe(5);
    for (const item of items)
      expect(item).toMatchObject({ credential_id: id, action: "read", reported_by: toolId, after_end: false });
    expect(items.filter(({ outcome }) => outcome === "refused")).toHaveLength(1);
  });

  test("after the end of its credential is kept too, is marked, and is an event that is found by the credential", async () => {
    const { id } = await mint(app, s);
    const early = new Date().toISOString();
    await revoke(app, id);
    const answer = await report([
      use(id, { at: early }),
      use(id, { at: new Date(Date.now() + 5_000).toISOString() }),
      use(id, { at: new Date(Date.now() + 6_000).toISOString(), outcome: "refused" }),
    ]);
    expect(answer.body).toEqual({ accepted: 3, unknown: 0 });
    const { body } = await usesOf(id);
    expect(
      body.items.map((item: { outcome: string; after_end: boolean }) => [item.outcome, item.after_end]).sort(),
    ).toEqual([
      ["allowed", false],
      ["allowed", true],
      ["refused", true],
    ]);
    const [event] = await events(`type=credential.used_after_end&credential=${id}`);
    expect(event).toMatchObject({ actor: toolId, agent_id: s.agentId, subject_id: id, data: { uses: 1 } });
  });

  test("past the expiry of a credential that nobody took back is after its end as well", async () => {
    const { id } = await mint(app, s);
    await query(
      app.database.superuserUrl,
      `update mayfly.credentials set expires_at = now() - interval '1 minute' where id = '${id}' and state = 'active'`,
    );
    await report([use(id)]);
    expect((await usesOf(id)).body.items[0].after_end).toBe(true);
  });

  test("is one event for all of it, with a hash of the rows, in the transaction that keeps them", async () => {
    const { id } = await mint(app, s);
    const { headers } = await report([use(id), use(id, { action: "write" })]);
    const requestId = headers.get("x-request-id");
    const rows = (await query(
      app.database.superuserUrl,
      `select e.data, e.data ->> 'sha256' = encode(sha256(convert_to(string_agg(concat_ws(' ', u.id, u.credential_id, u.action,
           u.resource, u.outcome, mayfly.ms(u.at), u.after_end), e'\n' order by u.id), 'UTF8')), 'hex') as same
         from mayfly.audit_events e join mayfly.uses u on u.request_id = e.request_id
        where e.type = 'uses.reported' and e.request_id = '${requestId}' group by e.id, e.data`,
    )) as { data: object; same: boolean }[];
    expect(rows).toEqual([{ data: expect.objectContaining({ uses: 2, after_end: 0 }), same: true }]);
  });

  test("of credentials that do not exist, are of a target that it does not serve, or another tenant's: all one number", async () => {
    const other = newId("tenant");
    await app.broker.db.withTenant({ tenantId: SYSTEM_TENANT, actor: "test" }, (tx) =>
      tx.insertInto("tenants").values({ id: other, name: "elsewhere", display_name: "Other" }).execute(),
    );
    const theirs = await seed(app.broker, app.idp, { tenantId: other });
    const stranger = await aTool(theirs, "their-tool", "elsewhere");
    const idle = await aTool(s, "idle-tool");
    const { id } = await mint(app, s);
    expect((await report([use(id), use(newId("credential"))])).body).toEqual({ accepted: 1, unknown: 1 });
    for (const token of [idle.token, stranger.token])
      expect((await report([use(id), use(newId("credential"))], token)).body).toEqual({ accepted: 0, unknown: 2 });
    expect((await usesOf(id)).body.items).toHaveLength(1);
    expect((await usesOf(id, await app.token({ sub: "auditor" }, "elsewhere"))).status).toBe(404);
  });

  test("sent again under its Idempotency-Key is kept once", async () => {
    const { id } = await mint(app, s);
    const key = { "idempotency-key": `"${randomUUID()}"` };
    const uses = [use(id)];
    const [first, second] = [await report(uses, tool, key), await report(uses, tool, key)];
    expect([first.status, second.status, second.body]).toEqual([200, 200, first.body]);
    expect((await usesOf(id)).body.items).toHaveLength(1);
    expect((await report([use(id, { action: "write" })], tool, key)).status).toBe(422);
  });

  test("of 500 is taken whole, and of more refused whole", async () => {
    const { id } = await mint(app, s);
    const many = Array.from({ length: 500 }, () => use(id, { action: "a".repeat(63), resource: "b".repeat(63) }));
    expect((await report(many)).body).toEqual({ accepted: 500, unknown: 0 });
    expect((await report([...many, use(id)])).status).toBe(400);
  });

  test.each<[string, object, string]>([
    ["of tomorrow", { at: new Date(Date.now() + 86_400_000).toISOString() }, "/uses/0/at"],
    ["without a time", { at: undefined }, "/uses/0/at"],
    ["at no time", { at: "2026-02-30T00:00:00Z" }, "/uses/0/at"],
    ["of something that is no id", { credential_id: "crd_1" }, "/uses/0/credential_id"],
    ["with another outcome", { outcome: "perhaps" }, "/uses/0/outcome"],
    ["with text for an action", { action: "Read it\n" }, "/uses/0/action"],
    ["with a token where a resource belongs", { resource: "eyJhbGciOiJFUzI1NiJ9.e30.x" }, "/uses/0/resource"],
    ["with a member more", { reported_by: "somebody" }, "/uses/0/reported_by"],
  ])("%s is refused, and nothing of it is kept", async (_, changes, pointer) => {
    const { id } = await mint(app, s);
    const { status, body } = await report([{ ...use(id), ...changes }, use(id)]);
    expect(status).toBe(400);
    expect(body.errors.map((error: { pointer: string }) => error.pointer)).toEqual([pointer]);
    expect((await usesOf(id)).body.items).toEqual([]);
  });

  test("is taken from an active agent alone", async () => {
    const { id } = await mint(app, s);
    for (const sub of ["admin", "auditor", "orchestrator"])
      expect((await report([use(id)], await app.token({ sub }))).status).toBe(403);
    const dismissed = await aTool(s, "dismissed-tool");
    await serves(dismissed.id, s.targetId);
    expect((await report([use(id)], dismissed.token)).body.accepted).toBe(1);
    const admin = await app.token({ sub: "admin" });
    expect((await app.call(admin, "POST", `/v1/agents/${dismissed.id}/state`, { state: "suspended" })).status).toBe(
      200,
    );
    expect((await report([use(id)], dismissed.token)).status).toBe(403);
    expect((await usesOf(id)).body.items).toHaveLength(1);
  });
});

test("its holder sees what was reported about a credential, auditors and admins too, and nobody else", async () => {
  const { id } = await mint(app, s);
  await report([use(id)]);
  const seen = async (token: string) => (await usesOf(id, token)).status;
  expect([
    await seen(await app.token({ sub: s.agentSub })),
    await seen(auditor),
    await seen(await app.token({ sub: "admin" })),
    await seen(tool),
    await seen(await app.token({ sub: "orchestrator" })),
  ]).toEqual([200, 200, 200, 404, 403]);
});

test("uses have partitions of their own, made ahead", async () => {
  const rows = await query(
    app.database.superuserUrl,
    "select relname from pg_class where relnamespace = 'mayfly'::regnamespace and relname ~ '^uses_\\d{4}_\\d\\d$'",
  );
  expect(rows.length).toBeGreaterThanOrEqual(2);
});
