import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import {
  aCredential,
  anActiveAgent,
  anApprovedPurpose,
  anOwner,
  aResource,
  aTask,
  bodies,
  inDays,
  stateOf,
} from "./builders.ts";
import { type Registry, registry } from "./harness.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const propose = async (changes: object = {}, who = "orchestrator/alice") =>
  r.ask(who, "POST", "/v1/purposes", { body: { ...(await bodies.purpose(r)), ...changes } });
const proposed = async (changes: object = {}, who?: string): Promise<string> => (await propose(changes, who)).json.id;
const approve = (id: string, who: string, ifMatch: string | undefined = '"1"') =>
  r.ask(who, "POST", `/v1/purposes/${id}/approve`, { ifMatch });

describe("approval takes a second person", () => {
  test("who approves is written down, with when, and nothing else of the purpose changes", async () => {
    const before = await propose();
    const got = await approve(before.json.id, "approver/bob");
    expect(got.status).toBe(200);
    expect(got.json).toEqual({
      ...before.json,
      state: "approved",
      approved_by: "bob",
      approved_at: expect.stringMatching(/Z$/),
      version: 2,
      updated_at: got.json.updated_at,
    });
  });

  test.each(["admin/alice", "approver/alice", "approver+admin/alice"])(
    "%s does not approve what alice proposed",
    async (who) => {
      const id = await proposed();
      const got = await approve(id, who);
      expect([got.status, got.json.code]).toEqual([403, "forbidden"]);
      expect(await stateOf(r, "purposes", id)).toBe("proposed");
    },
  );

  test("nor does SQL: the table itself refuses self-approval, and an approval by nobody", async () => {
    const id = await proposed();
    const set = (by: string) =>
      r.sql(`update purposes set state = 'approved', approved_by = ${by}, approved_at = now() where id = $1`, [id]);
    await expect(set("proposed_by")).rejects.toMatchObject({ code: "23514" });
    await expect(set("null")).rejects.toMatchObject({ code: "23514" });
    expect(await stateOf(r, "purposes", id)).toBe("proposed");
  });

  test("the owner of the agent does not approve what it is for", async () => {
    const owner_id = await anOwner(r, { subject: "olga" });
    const agent_id = await anActiveAgent(r, { owner_id });
    const id = await proposed({ agent_id });
    expect((await approve(id, "approver/olga")).status).toBe(403);
    expect((await approve(id, "approver/bob")).status).toBe(200);
  });

  test.each(["orchestrator/bob", "auditor/bob", "agent/bob"])("%s approves nothing", async (who) => {
    expect((await approve(await proposed(), who)).status).toBe(403);
  });

  test("what is approved is what was read: after a change the approval is 412, and without an ETag 428", async () => {
    const id = await proposed();
    const at = `/v1/purposes/${id}`;
    expect((await r.ask("approver/bob", "POST", `${at}/approve`)).status).toBe(428);
    const widened = { actions: ["read", "delete"] };
    expect((await r.ask("orchestrator/alice", "PATCH", at, { body: widened, ifMatch: '"1"' })).status).toBe(200);
    expect((await approve(id, "approver/bob", '"1"')).status).toBe(412);
    expect(await stateOf(r, "purposes", id)).toBe("proposed");
    expect((await approve(id, "approver/bob", '"2"')).status).toBe(200);
  });

  test("nobody changes another's proposal, so nobody approves their own words under another's name", async () => {
    const id = await proposed();
    const got = await r.ask("admin/bob", "PATCH", `/v1/purposes/${id}`, {
      body: { actions: ["admin"] },
      ifMatch: '"1"',
    });
    expect([got.status, got.json.code]).toEqual([403, "forbidden"]);
  });

  test("a change and an approval at the same moment: one of them is told", async () => {
    for (let round = 0; round < 10; round += 1) {
      const id = await proposed();
      const [changed, approved] = await Promise.all([
        r.ask("orchestrator/alice", "PATCH", `/v1/purposes/${id}`, { body: { actions: ["admin"] }, ifMatch: '"1"' }),
        approve(id, "approver/bob"),
      ]);
      const [row] = await r.sql<{ state: string; actions: string[] }>(
        "select state, actions from purposes where id = $1",
        [id],
      );
      expect([changed.status, approved.status].filter((status) => status === 200)).toHaveLength(1);
      expect(row).toEqual(
        approved.status === 200
          ? { state: "approved", actions: ["read", "close"] }
          : { state: "proposed", actions: ["admin"] },
      );
    }
  });

  test("an approved purpose never changes", async () => {
    const id = await anApprovedPurpose(r);
    const got = await r.ask("orchestrator/alice", "PATCH", `/v1/purposes/${id}`, {
      body: { max_ttl_seconds: 60 },
      ifMatch: '"2"',
    });
    expect([got.status, got.json.code]).toEqual([409, "conflict"]);
    expect((await approve(id, "approver/carol", '"2"')).status).toBe(409);
  });

  test("what waited too long for its approval is not approved any more", async () => {
    const id = await proposed();
    await r.sql("update purposes set review_by = now() - interval '1 second' where id = $1", [id]);
    expect((await approve(id, "approver/bob")).status).toBe(409);
  });
});

describe("what fits together", () => {
  test.each([
    ["a review after the expiry", { review_by: inDays(91) }, "/review_by"],
    ["a review in the past", { review_by: inDays(-1) }, "/review_by"],
    ["more than a year", { expires_at: inDays(400) }, "/expires_at"],
    ["no real day", { expires_at: "2027-02-30T00:00:00Z" }, "/expires_at"],
    ["for ever", { expires_at: "infinity" }, "/expires_at"],
    ["a second over a day", { max_ttl_seconds: 86_401 }, "/max_ttl_seconds"],
    ["no time", { max_ttl_seconds: 0 }, "/max_ttl_seconds"],
    ["half a second", { max_ttl_seconds: 0.5 }, "/max_ttl_seconds"],
    ["an operation that no resource has", { actions: ["read", "purge"] }, "/actions/1"],
    ["no action", { actions: [] }, "/actions"],
    ["an action twice", { actions: ["read", "read"] }, "/actions"],
    ["no resource", { resource_ids: [] }, "/resource_ids"],
    ["an unknown data class", { data_classes: ["secret"] }, "/data_classes/0"],
    ["an unknown environment", { environments: ["moon"] }, "/environments/0"],
    ["no description", { description: "" }, "/description"],
  ])("%s is refused, in a proposal and in a change of one", async (_what, changes, pointer) => {
    const got = await propose(changes);
    expect([got.status, got.json.errors?.[0].pointer]).toEqual([400, pointer]);
    const id = await proposed();
    const patched = await r.ask("orchestrator/alice", "PATCH", `/v1/purposes/${id}`, { body: changes, ifMatch: '"1"' });
    expect([patched.status, patched.json.errors?.[0].pointer]).toEqual([400, pointer]);
  });

  test("a change is judged together with what stays", async () => {
    const id = await proposed();
    const got = await r.ask("orchestrator/alice", "PATCH", `/v1/purposes/${id}`, {
      body: { resource_ids: [await aResource(r, { operations: { list: "read" } })] },
      ifMatch: '"1"',
    });
    // `close` was an operation of the resource that is left out now.
    expect([got.status, got.json.errors?.[0].pointer]).toEqual([400, "/actions/1"]);
  });

  test("a retired agent gets no purpose", async () => {
    const agent_id = await anActiveAgent(r);
    await r.ask("admin", "POST", `/v1/agents/${agent_id}/state`, { body: { state: "retired" } });
    expect((await propose({ agent_id })).json.errors[0].pointer).toBe("/agent_id");
  });

  test("a resource that a purpose names stays", async () => {
    const resource = await aResource(r);
    const id = await proposed({ resource_ids: [resource] });
    const got = await r.ask("admin", "DELETE", `/v1/resources/${resource}`, { ifMatch: '"1"' });
    expect([got.status, got.json.detail]).toEqual([409, `purposes still refer to this resource: ${id}`]);
  });
});

describe("review", () => {
  const review = (id: string, who: string, review_by: string) =>
    r.ask(who, "POST", `/v1/purposes/${id}/review`, { body: { review_by } });

  test("by its reviewer or an approver, never by its proposer nor the agent's owner", async () => {
    const reviewer_id = await anOwner(r, { subject: "rita" });
    const agent_id = await anActiveAgent(r, { owner_id: await anOwner(r, { subject: "olga" }) });
    const id = await anApprovedPurpose(r, { reviewer_id, agent_id });
    for (const who of ["orchestrator/alice", "approver/alice", "auditor/eve", "approver/olga", "agent/rita"])
      expect([who, (await review(id, who, inDays(31))).status]).toEqual([who, 403]);
    expect((await review(id, "auditor/rita", inDays(40))).status).toBe(200);
    expect((await review(id, "approver/carol", inDays(50))).status).toBe(200);
  });

  test("moves review_by forward, at most to the expiry, and nothing else", async () => {
    const id = await anApprovedPurpose(r);
    const before = (await r.ask("auditor", "GET", `/v1/purposes/${id}`)).json;
    for (const wrong of [inDays(20), inDays(91), before.review_by])
      expect((await review(id, "approver/carol", wrong)).json.errors[0].pointer).toBe("/review_by");
    const got = await review(id, "approver/carol", before.expires_at);
    expect(got.json).toEqual({
      ...before,
      review_by: before.expires_at,
      version: before.version + 1,
      updated_at: got.json.updated_at,
    });
  });

  test("revives a purpose whose review is overdue, and none that has expired or is not approved", async () => {
    const overdue = await anApprovedPurpose(r);
    await r.sql("update purposes set review_by = now() - interval '1 day' where id = $1", [overdue]);
    expect((await review(overdue, "approver/carol", inDays(1))).status).toBe(200);
    const expired = await anApprovedPurpose(r);
    await r.sql(
      "update purposes set review_by = now() - interval '2 days', expires_at = now() - interval '1 day' where id = $1",
      [expired],
    );
    expect((await review(expired, "approver/carol", inDays(1))).status).toBe(409);
    expect((await review(await proposed(), "approver/carol", inDays(31))).status).toBe(409);
  });
});

describe("the end of a purpose", () => {
  test("retiring ends its open and paused tasks, takes back what they hold, and leaves other purposes' alone", async () => {
    const agent_id = await anActiveAgent(r);
    const [mine, other] = [await anApprovedPurpose(r, { agent_id }), await anApprovedPurpose(r, { agent_id })];
    const [open, paused, theirs] = [
      await aTask(r, agent_id, mine),
      await aTask(r, agent_id, mine),
      await aTask(r, agent_id, other),
    ];
    await r.sql("update tasks set state = 'paused' where id = $1", [paused]);
    const held = await aCredential(r, { agentId: agent_id, taskId: open, purposeId: mine });
    const kept = await aCredential(r, { agentId: agent_id, taskId: theirs, purposeId: other });
    const got = await r.ask("approver/bob", "POST", `/v1/purposes/${mine}/retire`);
    expect([got.status, got.json.state]).toEqual([200, "retired"]);
    const tasks = await r.sql("select id, state, outcome, ended_by from tasks where purpose_id = any($1) order by id", [
      [mine, other],
    ]);
    expect(tasks).toEqual([
      { id: open, state: "ended", outcome: "cancelled", ended_by: "bob" },
      { id: paused, state: "ended", outcome: "cancelled", ended_by: "bob" },
      { id: theirs, state: "open", outcome: null, ended_by: null },
    ]);
    expect(await stateOf(r, "credentials", held)).toBe("revoking");
    expect(await stateOf(r, "credentials", kept)).toBe("active");
    expect((await approve(mine, "approver/carol", '"3"')).status).toBe(409);
  });

  test("an orchestrator withdraws only what it proposed itself", async () => {
    const id = await proposed();
    expect((await r.ask("orchestrator/mallory", "POST", `/v1/purposes/${id}/retire`)).status).toBe(403);
    expect((await r.ask("orchestrator/mallory", "DELETE", `/v1/purposes/${id}`, { ifMatch: '"1"' })).status).toBe(403);
    expect((await r.ask("orchestrator/alice", "POST", `/v1/purposes/${id}/retire`)).status).toBe(200);
    expect((await r.ask("orchestrator/alice", "DELETE", `/v1/purposes/${id}`, { ifMatch: '"2"' })).status).toBe(204);
  });

  test("one that was used is never removed", async () => {
    const agent_id = await anActiveAgent(r);
    const [tasked, minted] = [await anApprovedPurpose(r, { agent_id }), await anApprovedPurpose(r, { agent_id })];
    await aTask(r, agent_id, tasked);
    await aCredential(r, { purposeId: minted });
    for (const id of [tasked, minted])
      expect((await r.ask("admin", "DELETE", `/v1/purposes/${id}`, { ifMatch: '"2"' })).status).toBe(409);
  });
});
