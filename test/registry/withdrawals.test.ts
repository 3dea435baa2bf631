import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { newId } from "../../src/lib/ids.ts";
import { aCredential, anActiveAgent, anOwner, aTarget, stateOf } from "./builders.ts";
import { type Got, type Registry, registry } from "./harness.ts";
import { aChain, type Chain, generationOf, mintInFlight, someoneWaits } from "./mint-in-flight.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const post = (path: string, body?: object): Promise<Got> =>
  r.ask("admin/eve", "POST", path, body === undefined ? {} : { body });

/** Every way to withdraw a reason that a credential has, and what the credential then says of it. */
const withdrawals: readonly [string, string, (chain: Chain) => Promise<Got>][] = [
  ["suspending its agent", "agent_inactive", (c) => post(`/v1/agents/${c.agentId}/state`, { state: "suspended" })],
  ["quarantining its agent", "agent_inactive", (c) => post(`/v1/agents/${c.agentId}/state`, { state: "quarantined" })],
  ["retiring its agent", "agent_inactive", (c) => post(`/v1/agents/${c.agentId}/state`, { state: "retired" })],
  ["the departure of its agent's owner", "owner_departed", (c) => post(`/v1/owners/${c.ownerId}/depart`)],
  ["the departure of its target's owner", "owner_departed", (c) => post(`/v1/owners/${c.targetOwnerId}/depart`)],
  ["suspending its target", "target_inactive", (c) => post(`/v1/targets/${c.targetId}/state`, { state: "suspended" })],
  ["retiring its target", "target_inactive", (c) => post(`/v1/targets/${c.targetId}/state`, { state: "retired" })],
  ["retiring its purpose", "task_ended", (c) => post(`/v1/purposes/${c.purposeId}/retire`)],
  [
    "disabling its trust source",
    "identity_removed",
    (c) => post(`/v1/trust-sources/${c.trustSourceId}/state`, { state: "disabled" }),
  ],
  [
    "removing its identity",
    "identity_removed",
    (c) => r.ask("admin/eve", "DELETE", `/v1/identities/${c.identityId}`, { ifMatch: '"1"' }),
  ],
  ["no longer granting its resource", "target_inactive", (c) => narrow(c)],
  ["suspending its tenant", "tenant_suspended", (c) => suspendTenant(c)],
];

async function narrow(chain: Chain): Promise<Got> {
  const at = `/v1/targets/${chain.targetId}`;
  const { etag } = await r.ask("admin", "GET", at);
  const body = { resources: [{ resource: chain.resourceId, access: { write: {} } }] };
  return r.ask("admin/eve", "PATCH", at, { body, ifMatch: etag });
}

const suspendTenant = (chain: Chain): Promise<Got> =>
  r.ask("operator@system/eve", "POST", `/v1/tenants/${chain.tenantId}/state`, { body: { state: "suspended" } });

const letTenantIn = async (): Promise<void> => {
  await r.sql("update tenants set state = 'active' where state <> 'active'");
};

/** How a mint on facts of this generation would go now; it is rolled back. */
async function tried(chain: Chain, generation: number): Promise<{ readonly outcome: string }> {
  await using mint = await mintInFlight(r, chain, generation);
  return { outcome: mint.outcome };
}

interface Ended {
  readonly state: string;
  readonly state_by: string;
  readonly state_reason: string;
}
const ended = async (id: string): Promise<Ended | undefined> =>
  (await r.sql<Ended>("select state, state_by, state_reason from credentials where id = $1", [id]))[0];

describe.each(withdrawals)("%s", (_what, reason, withdraw) => {
  test("takes back what lives of it, in one transaction, and nothing else", async () => {
    const chain = await aChain(r);
    const bystander = await aCredential(r, {});
    const reasons = { ...chain, resourceIds: [chain.resourceId] };
    const downstream = await aCredential(r, reasons);
    const ours = await aCredential(r, reasons, true);
    const wakes = r.wakes();
    const got = await withdraw(chain);
    expect([got.status, got.text].join(" ")).toMatch(/^20[04] /);
    expect(await ended(downstream)).toEqual({ state: "revoking", state_by: "eve", state_reason: reason });
    expect(await ended(ours)).toEqual({ state: "revoked", state_by: "eve", state_reason: reason });
    expect(await stateOf(r, "credentials", bystander)).toBe(reason === "tenant_suspended" ? "revoking" : "active");
    expect(r.wakes()).toBeGreaterThan(wakes);
    const events = await r.events(downstream);
    expect(events.at(-1)).toMatchObject({ type: "credential.revoking", actor: "eve" });
    await letTenantIn();
  });

  test("waits for a mint that is under way, and takes that back, too (invariant 1)", async () => {
    const chain = await aChain(r);
    await using mint = await mintInFlight(r, chain);
    expect(mint.outcome).toBe("committed");
    const withdrawing = withdraw(chain);
    await someoneWaits(r);
    await mint.commit();
    const got = await withdrawing;
    expect([got.status, got.text].join(" ")).toMatch(/^20[04] /);
    expect(await ended(mint.credentialId)).toEqual({ state: "revoking", state_by: "eve", state_reason: reason });
    await letTenantIn();
  });

  test("is noticed by a mint that was decided before it and commits after it (invariant 1)", async () => {
    const chain = await aChain(r);
    const before = await generationOf(r, chain);
    expect(await tried(chain, before)).toEqual({ outcome: "committed" });
    await withdraw(chain);
    const after = await tried(chain, before);
    await letTenantIn();
    expect(after).toEqual({ outcome: "changed" });
  });

  test("done twice does no harm", async () => {
    const chain = await aChain(r);
    await withdraw(chain);
    const second = await withdraw(chain);
    expect([200, 204, 404]).toContain(second.status);
    await letTenantIn();
  });
});

describe("a mint that is decided on what its process remembers", () => {
  test.each<[string, object]>([
    ["thinks that it is later than it is", { expires_ms: Date.now() + 3_600_000 }],
    ["thinks that it is earlier, and would be born dead", { expires_ms: Date.now() - 1_000 }],
    ["thinks that its purpose has not expired", { facts_until_ms: Date.now() - 1_000 }],
    ["takes the task for another agent's", { agent_id: newId("agent") }],
    ["takes the task for another purpose's", { purpose_id: newId("purpose") }],
  ])("is not committed when it %s (invariants 1, 2)", async (_what, changes) => {
    const chain = await aChain(r);
    await using mint = await mintInFlight(r, chain, undefined, changes);
    expect(mint.outcome).toBe("changed");
  });

  test.each([
    [
      "relationships",
      (c: Chain) => `insert into relationships (tenant_id, id, subject, relation, object)
      values ('${c.tenantId}', '${newId("relationship")}', '${c.agentId}', 'member', 'team-${c.agentId}')`,
    ],
    ["policy_sets", () => "update policy_sets set note = note || '.'"],
    ["identities", (c: Chain) => `update identities set conditions = conditions where id = '${c.identityId}'`],
    ["tasks", (c: Chain) => `update tasks set state = 'paused' where id = '${c.taskId}'`],
    ["task_meters", (c: Chain) => `update task_meters set heartbeat_due_at = now() where task_id = '${c.taskId}'`],
  ])("is not committed after a change of %s (invariant 1)", async (_table, statement) => {
    const chain = await aChain(r);
    const before = await generationOf(r, chain);
    await r.sql(statement(chain));
    expect(await tried(chain, before)).toEqual({ outcome: "changed" });
  });
});

describe("an owner who departs", () => {
  test("leaves their agents and targets suspended, each in one event, and those of others alone", async () => {
    const owner = await anOwner(r);
    const other = await anOwner(r);
    const [mine, alsoMine, theirs] = [
      await anActiveAgent(r, { owner_id: owner }),
      await anActiveAgent(r, { owner_id: owner }),
      await anActiveAgent(r, { owner_id: other }),
    ];
    const target = await aTarget(r, { owner_id: owner });
    const theirTarget = await aTarget(r, { owner_id: other });
    const quarantined = await aTarget(r, { owner_id: owner });
    await r.sql("update targets set state = 'quarantined' where id = $1", [quarantined]);

    const got = await r.ask("admin/eve", "POST", `/v1/owners/${owner}/depart`);
    expect(got.json).toMatchObject({ status: "departed", departed_at: expect.stringMatching(/Z$/), version: 2 });
    expect(await Promise.all([mine, alsoMine, theirs].map((id) => stateOf(r, "agents", id)))).toEqual([
      "suspended",
      "suspended",
      "active",
    ]);
    expect(await Promise.all([target, quarantined, theirTarget].map((id) => stateOf(r, "targets", id)))).toEqual([
      "suspended",
      "suspended",
      "active",
    ]);
    for (const id of [mine, alsoMine, target]) {
      const last = (await r.events(id)).at(-1);
      expect(last).toMatchObject({ actor: "eve", data: { state: { from: "active", to: "suspended" } } });
    }
    expect((await r.events(owner)).map(({ type }) => type)).toEqual(["owner.created", "owner.updated"]);
  });

  test("is given nothing any more, and nothing of theirs is activated", async () => {
    const owner = await anOwner(r);
    const agent = await anActiveAgent(r, { owner_id: owner });
    const target = await aTarget(r, { owner_id: owner });
    await r.ask("admin", "POST", `/v1/owners/${owner}/depart`);
    const again = await r.ask("admin", "POST", `/v1/agents/${agent}/state`, { body: { state: "active" } });
    expect([again.status, again.json.code]).toEqual([409, "conflict"]);
    const targetAgain = await r.ask("admin", "POST", `/v1/targets/${target}/state`, { body: { state: "active" } });
    expect([targetAgain.status, targetAgain.json.code]).toEqual([409, "conflict"]);
    expect(await stateOf(r, "targets", target)).toBe("suspended");
    const other = await anActiveAgent(r);
    const given = await r.ask("admin", "PATCH", `/v1/agents/${other}`, { body: { owner_id: owner }, ifMatch: '"2"' });
    expect([given.status, given.json.errors[0]]).toEqual([
      400,
      { pointer: "/owner_id", detail: "this owner has departed" },
    ]);
  });

  test("who is being given an agent at this very moment has it suspended", async () => {
    const [from, to] = [await anOwner(r), await anOwner(r)];
    const agent = await anActiveAgent(r, { owner_id: from });
    // The gift is held up after it has taken its locks: by the agent's own row.
    const holding = r.db.withTenant({ tenantId: "ten_00000000000070008000000000000001", actor: "test" }, async (tx) => {
      await tx
        .selectFrom("agents")
        .select("id")
        .where("id", "=", agent as never)
        .forUpdate()
        .execute();
      const giving = r.ask("admin", "PATCH", `/v1/agents/${agent}`, { body: { owner_id: to }, ifMatch: '"2"' });
      await someoneWaits(r);
      const departing = r.ask("admin", "POST", `/v1/owners/${to}/depart`);
      await atLeastWaiting(2);
      return { giving, departing };
    });
    const { giving, departing } = await holding;
    expect((await giving).status).toBe(200);
    expect((await departing).status).toBe(200);
    expect(await stateOf(r, "agents", agent)).toBe("suspended");
  });

  test("can come back, and what was suspended waits for a decision of its own", async () => {
    const owner = await anOwner(r);
    const agent = await anActiveAgent(r, { owner_id: owner });
    await r.ask("admin", "POST", `/v1/owners/${owner}/depart`);
    const back = await r.ask("admin", "POST", `/v1/owners/${owner}/reinstate`);
    expect(back.json).toMatchObject({ status: "active", departed_at: null });
    expect(await stateOf(r, "agents", agent)).toBe("suspended");
    const active = await r.ask("admin", "POST", `/v1/agents/${agent}/state`, { body: { state: "active" } });
    expect(active.status).toBe(200);
  });

  test("departs whole or not at all: when a credential cannot be taken back, nobody is suspended", async () => {
    const owner = await anOwner(r);
    const agent = await anActiveAgent(r, { owner_id: owner });
    await aCredential(r, { agentId: agent });
    await r.sql(`create function fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$`);
    await r.sql(
      `create trigger fail before update on credentials for each row when (old.agent_id = '${agent}') execute function fail()`,
    );
    const got = await r.ask("admin", "POST", `/v1/owners/${owner}/depart`);
    await r.sql("drop trigger fail on credentials");
    expect(got.status).toBe(500);
    expect(got.text).not.toContain("credentials");
    expect(await stateOf(r, "owners", owner)).toBe("active");
    expect(await stateOf(r, "agents", agent)).toBe("active");
  });
});

async function atLeastWaiting(number: number): Promise<void> {
  for (;;) {
    const rows = await r.sql(
      "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    if (rows.length >= number) return;
  }
}

describe("the life of an agent", () => {
  const legal: Readonly<Record<string, readonly string[]>> = {
    proposed: ["active", "retired"],
    active: ["active", "suspended", "quarantined", "retired"],
    suspended: ["active", "suspended", "quarantined", "retired"],
    quarantined: ["suspended", "quarantined", "retired"],
    retired: ["retired"],
  };
  test.each(Object.keys(legal))("from %s it goes where it may, and nowhere else", async (from) => {
    for (const to of ["active", "suspended", "quarantined", "retired"]) {
      const agent = await anActiveAgent(r);
      await r.sql("update agents set state = $2 where id = $1", [agent, from]);
      const got = await r.ask("admin", "POST", `/v1/agents/${agent}/state`, { body: { state: to } });
      const may = legal[from]?.includes(to) === true;
      expect([from, to, got.status]).toEqual([from, to, may ? 200 : 409]);
      expect(await stateOf(r, "agents", agent)).toBe(may ? to : from);
    }
  });
  test("nobody proposes it again, and a retired one never changes", async () => {
    const agent = await anActiveAgent(r);
    expect((await r.ask("admin", "POST", `/v1/agents/${agent}/state`, { body: { state: "proposed" } })).status).toBe(
      400,
    );
    await r.ask("admin", "POST", `/v1/agents/${agent}/state`, { body: { state: "retired" } });
    const patched = await r.ask("admin", "PATCH", `/v1/agents/${agent}`, {
      body: { description: "x" },
      ifMatch: '"3"',
    });
    expect([patched.status, patched.json.code]).toEqual([409, "conflict"]);
  });
});
