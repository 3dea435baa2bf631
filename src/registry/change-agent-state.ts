import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Tx } from "../db/database.ts";
import type { AgentState } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { lockOwner } from "./references.ts";

export const agentStates = ["proposed", "active", "suspended", "quarantined", "retired"] as const;

/** The states that somebody can put an agent in. */
export const reachableAgentStates = ["active", "suspended", "quarantined", "retired"] as const;

/**
 * Where an agent may go from where. Quarantine is left by way of `suspended`, so that bringing back an agent that was
 * thought to be compromised takes two decisions.
 */
const agentTransitions: Readonly<Record<AgentState, readonly AgentState[]>> = {
  proposed: ["active", "retired"],
  active: ["suspended", "quarantined", "retired"],
  suspended: ["active", "quarantined", "retired"],
  quarantined: ["suspended", "retired"],
  retired: [],
};

/**
 * Moves an agent along its life. Whatever state it is put in but `active`, nothing that it holds is left alive. Putting
 * it where it already is changes nothing; an illegal move is a 409, and so is activating what nobody answers for.
 */
export async function changeAgentState(
  tx: Tx,
  { tenantId, subject }: Principal,
  agentId: Id<"agent">,
  to: (typeof reachableAgentStates)[number],
): Promise<void> {
  const ownerId = to === "active" ? await requireOwnerOf(tx, tenantId, agentId) : undefined;
  const agent = await tx
    .selectFrom("agents")
    .select(["state", "owner_id"])
    .where("tenant_id", "=", tenantId)
    .where("id", "=", agentId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (agent === undefined) throw notFound();
  if (ownerId !== undefined && agent.owner_id !== ownerId)
    throw new MayflyError("conflict", "the agent was given another owner at this moment: try again");
  if (agent.state !== to) {
    if (!agentTransitions[agent.state].includes(to))
      throw new MayflyError("conflict", `an agent that is ${agent.state} cannot become ${to}`);
    await tx
      .updateTable("agents")
      .set((eb) => ({ state: to, version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", agentId)
      .execute();
  }
  if (to !== "active")
    await takeBack(tx, (query) => query.where("agent_id", "=", agentId), {
      tenantId,
      by: subject,
      reason: "agent_inactive",
    });
}

/** The owner's row is locked before the agent's, in the order of a departure (depart-owner.ts). */
async function requireOwnerOf(tx: Tx, tenantId: Id<"tenant">, agentId: Id<"agent">): Promise<Id<"owner">> {
  const agent = await tx
    .selectFrom("agents")
    .select("owner_id")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", agentId)
    .executeTakeFirst();
  if (agent === undefined) throw notFound();
  if ((await lockOwner(tx, tenantId, agent.owner_id)) !== "active")
    throw new MayflyError("conflict", "the agent's owner has departed: give it another owner first");
  return agent.owner_id;
}
