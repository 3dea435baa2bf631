import { z } from "zod";
import type { Principal } from "../identity/principal.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { idSchema } from "../lib/wire.ts";
import type { Policies } from "../policy/policies.ts";
import type { TargetClients } from "../targets/target-clients.ts";
import { checkRecords, type TtlLimits } from "./check-records.ts";
import { decideMint } from "./decide-mint.ts";
import type { MintRequest } from "./mint-facts.ts";
import type { MintSql } from "./mint-sql.ts";

/** What would happen, and why. */
export const dryRunReply = z.strictObject({
  outcome: z.enum(["allow", "deny", "allow_if"]),
  reasons: z.array(
    z.strictObject({
      code: z.string(),
      detail: z.string(),
      policy: z.string().optional(),
      remedy: z.string().optional(),
    }),
  ),
  determining_policies: z
    .array(z.string())
    .describe("The policies that decided; empty when the records already refused."),
  policy_version: z.int().nullable(),
  ttl_seconds: z.int().nullable(),
  ttl_bound: z.string().nullable(),
  agent_id: idSchema("agent"),
});

interface DryRunDeps {
  readonly sql: MintSql;
  readonly policies: Policies;
  readonly targets: Pick<TargetClients, "config">;
  readonly limits: TtlLimits;
}

/**
 * Answers what a mint would answer at this moment, by the very same checks and decision, and mints nothing. An agent
 * asks for itself; others name the agent. A dry run is not evidence: it leaves no decision and no event behind.
 */
export async function dryRun(
  deps: DryRunDeps,
  principal: Principal,
  asked: MintRequest & { readonly agent_id?: Id<"agent"> | undefined },
): Promise<z.infer<typeof dryRunReply>> {
  if (principal.agentId !== undefined && asked.agent_id !== undefined && asked.agent_id !== principal.agentId)
    throw invalid("/agent_id", "an agent asks for itself alone");
  const agentId = principal.agentId ?? asked.agent_id;
  if (agentId === undefined) throw invalid("/agent_id", "is needed: a mint is always by an agent");
  const { agent_id: _, ...request } = asked;
  // An agent asks as it is. For the others: as the agent that proves a key, as it has to.
  const holder = principal.agentId === undefined ? { ...principal, confirmation: { jkt: "" } } : principal;
  const facts = await deps.sql.facts(principal.tenantId, agentId, request);
  try {
    const checked = checkRecords(facts, request, holder);
    const { decision, lifetime } = await decideMint(deps, holder, checked, request);
    return {
      outcome: decision.outcome,
      reasons: [...decision.reasons],
      determining_policies: [...decision.determining],
      policy_version: decision.policyVersion,
      ttl_seconds: lifetime.ttlSeconds,
      ttl_bound: lifetime.bound,
      agent_id: agentId,
    };
  } catch (error) {
    if (!(error instanceof MayflyError) || error.code !== "denied") throw error;
    return {
      outcome: "deny",
      reasons: [...error.reasons],
      determining_policies: [],
      policy_version: facts.policy_version,
      ttl_seconds: null,
      ttl_bound: null,
      agent_id: agentId,
    };
  }
}
