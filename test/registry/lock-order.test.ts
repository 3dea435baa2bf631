import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import type { Principal } from "../../src/identity/principal.ts";
import { type Id, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { publishPolicies } from "../../src/policy/publish-policies.ts";
import { changeTenantState } from "../../src/registry/manage-tenants.ts";
import { endTaskById } from "../../src/tasks/change-task.ts";
import { openTask } from "../../src/tasks/open-task.ts";
import { aCredential, bodies, fresh } from "./builders.ts";
import { DEFAULT_TENANT, type Registry, registry } from "./harness.ts";
import { aChain, type Chain, mintInFlight, someoneWaits } from "./mint-in-flight.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

/** What is locked to be changed or against change, first to last: the tenant's gate, then rows of these tables. */
const order = [
  "gate",
  "tenants",
  "owners",
  "trust_sources",
  "purposes",
  "tasks",
  "meters",
  "agents",
  "targets",
] as const;
type Locked = (typeof order)[number];

const admin: Principal = {
  tenantId: DEFAULT_TENANT,
  tenantName: "default",
  subject: "alice",
  roles: ["admin"],
  binding: "bearer",
  generation: 1,
};
const operator: Principal = { ...admin, tenantId: SYSTEM_TENANT, tenantName: "system", roles: ["operator"] };
const post = (path: string, body?: object) => r.ask("admin", "POST", path, body === undefined ? {} : { body });

/** The rows of a chain, as a `from` and a `where`. */
const rowsOf = (c: Chain): Readonly<Record<Exclude<Locked, "gate">, string>> => ({
  tenants: `tenants where id = '${c.tenantId}'`,
  owners: `owners where id = '${c.ownerId}'`,
  trust_sources: `trust_sources where id = '${c.trustSourceId}'`,
  purposes: `purposes where id = '${c.purposeId}'`,
  tasks: `tasks where id = '${c.taskId}'`,
  meters: `task_meters where task_id = '${c.taskId}'`,
  agents: `agents where id = '${c.agentId}'`,
  targets: `targets where id = '${c.targetId}'`,
});

/** A transaction that holds one lock and stays open. */
async function holding(chain: Chain, held: Locked) {
  const client = new pg.Client({ connectionString: r.runtimeUrl, options: "-c search_path=mayfly" });
  await client.connect();
  await client.query("begin");
  await client.query("select set_config('mayfly.tenant', $1, true)", [chain.tenantId]);
  const { rowCount } =
    held === "gate"
      ? await client.query("select pg_advisory_xact_lock(gate($1))", [chain.tenantId])
      : await client.query(`select from ${rowsOf(chain)[held]} for no key update`);
  expect(rowCount).toBe(1);
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

/** The target is quarantined for its one stuck credential, by the function that the sweep calls. */
async function quarantine(c: Chain) {
  await r.sql("update targets set stuck_limit = 1 where id = $1", [c.targetId]);
  const id = await aCredential(r, { targetId: c.targetId });
  await r.sql("update credentials set state = 'revoking', revoking_at = now() where id = $1", [id]);
  return r.db.batched("retry_revocations")(c.tenantId, { id, after_ms: 1000, error: "no", stuck: true });
}

describe("locks are taken in one order everywhere: whoever waits for one holds nothing that comes after it", () => {
  test.each<[string, readonly Locked[], (chain: Chain) => Promise<unknown>]>([
    [
      "a mint",
      ["gate", "meters"],
      async (c) => {
        await using _mint = await mintInFlight(r, c);
      },
    ],
    [
      "opening a task",
      ["purposes", "agents"],
      (c) =>
        openTask(
          r.db,
          admin,
          {
            agent_id: c.agentId as Id<"agent">,
            purpose_id: c.purposeId as Id<"purpose">,
            objective: "o",
            initiated_by: { kind: "system", id: "test" },
            deadline: new Date(Date.now() + 60_000).toISOString(),
          },
          "request",
        ),
    ],
    [
      "proposing a purpose",
      ["gate", "owners", "agents"],
      async (c) => post("/v1/purposes", { ...(await bodies.purpose(r)), agent_id: c.agentId, reviewer_id: c.ownerId }),
    ],
    ["the departure of an owner", ["gate", "owners", "agents"], (c) => post(`/v1/owners/${c.ownerId}/depart`)],
    [
      "activating an agent",
      ["gate", "owners", "agents"],
      (c) => post(`/v1/agents/${c.agentId}/state`, { state: "active" }),
    ],
    [
      "disabling a trust source",
      ["gate", "trust_sources", "agents"],
      (c) => post(`/v1/trust-sources/${c.trustSourceId}/state`, { state: "disabled" }),
    ],
    ["retiring a purpose", ["gate", "purposes", "tasks", "meters"], (c) => post(`/v1/purposes/${c.purposeId}/retire`)],
    [
      "letting a tenant in",
      ["gate", "tenants"],
      (c) => changeTenantState(r.db, operator, c.tenantId as Id<"tenant">, "active", "request"),
    ],
    [
      "suspending a target",
      ["gate", "targets"],
      (c) => post(`/v1/targets/${c.targetId}/state`, { state: "suspended" }),
    ],
    ["a quarantine", ["gate", "targets"], quarantine],
    [
      "publishing policies",
      ["gate", "targets"],
      (c) =>
        publishPolicies(
          r.db,
          { tenantId: c.tenantId, actor: "alice" },
          { text: '@id("open") permit (principal, action, resource);', note: "" },
        ),
    ],
    [
      "ending a task",
      ["tasks", "meters"],
      (c) => endTaskById(r.db, admin, c.taskId as Id<"task">, "completed", "request"),
    ],
    [
      "giving a target another owner",
      ["gate", "owners", "targets"],
      (c) => r.ask("admin", "PATCH", `/v1/targets/${c.targetId}`, { body: { owner_id: c.ownerId }, ifMatch: '"2"' }),
    ],
    [
      "giving an agent another owner",
      ["gate", "owners", "agents"],
      (c) =>
        r.ask("admin", "PATCH", `/v1/agents/${c.agentId}`, {
          body: { owner_id: c.ownerId, name: fresh("agent") },
          ifMatch: '"2"',
        }),
    ],
  ])("%s", async (_what, locks, work) => {
    for (const held of locks.slice(0, -1)) {
      const chain = await aChain(r);
      await using holder = await holding(chain, held);
      const working = work(chain);
      await someoneWaits(r);
      for (const [later, rows] of Object.entries(rowsOf(chain))) {
        if (order.indexOf(later as Locked) <= order.indexOf(held)) continue;
        const free = await r.sql(`select from ${rows} for update skip locked`);
        expect([held, later, free.length]).toEqual([held, later, 1]);
      }
      await holder.query("rollback");
      await working;
    }
  });
});
