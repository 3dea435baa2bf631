import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import type { Principal } from "../../src/identity/principal.ts";
import type { Id } from "../../src/lib/ids.ts";
import { openTask } from "../../src/tasks/open-task.ts";
import { bodies, fresh } from "./builders.ts";
import { DEFAULT_TENANT, type Registry, registry } from "./harness.ts";
import { aChain, type Chain, someoneWaits } from "./mint-in-flight.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

/** The tables whose rows are locked to be changed or against change, first to last. */
const order = ["tenants", "owners", "trust_sources", "purposes", "tasks", "agents", "targets"] as const;
type Locked = (typeof order)[number];

const admin: Principal = {
  tenantId: DEFAULT_TENANT,
  tenantName: "default",
  subject: "alice",
  roles: ["admin"],
  binding: "bearer",
  generation: 1,
};
const post = (path: string, body?: object) => r.ask("admin", "POST", path, body === undefined ? {} : { body });

const rowsOf = (c: Chain): Readonly<Partial<Record<Locked, string>>> => ({
  tenants: c.tenantId,
  owners: c.ownerId,
  trust_sources: c.trustSourceId,
  purposes: c.purposeId,
  tasks: c.taskId,
  agents: c.agentId,
  targets: c.targetId,
});

/** A transaction that has run one statement and stays open. */
async function holding(chain: Chain, statement: string, id: string | undefined) {
  const client = new pg.Client({ connectionString: r.runtimeUrl, options: "-c search_path=mayfly" });
  await client.connect();
  await client.query("begin");
  await client.query("select set_config('mayfly.tenant', $1, true)", [chain.tenantId]);
  expect((await client.query(statement, [id])).rowCount).toBe(1);
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

describe("locks are taken in one order everywhere: whoever waits for a row holds nothing that comes after it", () => {
  test.each<[string, readonly Locked[], (chain: Chain) => Promise<unknown>]>([
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
      ["owners", "agents"],
      async (c) => post("/v1/purposes", { ...(await bodies.purpose(r)), agent_id: c.agentId, reviewer_id: c.ownerId }),
    ],
    ["the departure of an owner", ["owners", "agents"], (c) => post(`/v1/owners/${c.ownerId}/depart`)],
    ["activating an agent", ["owners", "agents"], (c) => post(`/v1/agents/${c.agentId}/state`, { state: "active" })],
    [
      "disabling a trust source",
      ["trust_sources", "agents"],
      (c) => post(`/v1/trust-sources/${c.trustSourceId}/state`, { state: "disabled" }),
    ],
    ["retiring a purpose", ["purposes", "tasks"], (c) => post(`/v1/purposes/${c.purposeId}/retire`)],
    [
      "giving a target another owner",
      ["owners", "targets"],
      (c) => r.ask("admin", "PATCH", `/v1/targets/${c.targetId}`, { body: { owner_id: c.ownerId }, ifMatch: '"2"' }),
    ],
    [
      "giving an agent another owner",
      ["owners", "agents"],
      (c) =>
        r.ask("admin", "PATCH", `/v1/agents/${c.agentId}`, {
          body: { owner_id: c.ownerId, name: fresh("agent") },
          ifMatch: '"2"',
        }),
    ],
  ])("%s", async (_what, locks, work) => {
    const chain = await aChain(r);
    const rows = rowsOf(chain);
    for (const held of locks.slice(0, -1)) {
      await using holder = await holding(chain, `select from ${held} where id = $1 for no key update`, rows[held]);
      const working = work(chain);
      await someoneWaits(r);
      for (const later of order.slice(order.indexOf(held) + 1)) {
        if (rows[later] === undefined) continue;
        const free = await r.sql(`select from ${later} where id = $1 for update skip locked`, [rows[later]]);
        expect([held, later, free.length]).toEqual([held, later, 1]);
      }
      await holder.query("rollback");
      await working;
    }
  });
});
