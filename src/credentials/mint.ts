import type { Principal } from "../identity/principal.ts";
import { selfContainedIssuer } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import { newId } from "../lib/ids.ts";
import { checkRecords } from "./check-records.ts";
import { decideMint } from "./decide-mint.ts";
import type { Finish, MintContext, MintDeps } from "./mint-deps.ts";
import { mintDownstream } from "./mint-downstream.ts";
import type { MintFacts, MintRequest } from "./mint-facts.ts";
import { type AgentPrincipal, type Minted, type Plan, PolicyRefusal } from "./mint-plan.ts";
import type { IntentSql } from "./mint-sql.ts";
import { mintToken } from "./mint-token.ts";

/** Registry facts that changed between the read and the commit are read again, so often; then they are held still. */
const HOPEFUL_ROUNDS = 4;

/**
 * Mints one credential for one task, or throws: `denied` with every reason, `not_found`, `target_*` when the far side
 * would not. The order is the product (design §4): read, check the records, decide, commit the intent, touch the far
 * side outside any transaction, activate, answer once. Whatever fails after the intent leaves a row that the worker
 * finishes; a secret leaves only with an active row behind it (invariants 1, 3, 8).
 */
export async function mint(
  deps: MintDeps,
  remembered: AgentPrincipal,
  request: MintRequest,
  context: MintContext,
): Promise<Minted> {
  let caller = remembered;
  const again = async (): Promise<AgentPrincipal> => (caller = asAgent(await context.authenticateAgain()));
  let finish = await intendOnKept(deps, caller, request, context);
  for (let round = 1; finish === undefined && round <= HOPEFUL_ROUNDS; round += 1)
    finish = await intend(deps, deps.sql, { caller, again }, request, context);
  finish ??= await deps.sql.standingStill(caller.tenantId, async (sql) => {
    const attempt = () => intend(deps, sql, { caller, again }, request, context);
    // A task is no part of the registry and may end before the first commit. That one holds its meter: not before the next.
    return (await attempt()) ?? (await attempt());
  });
  if (finish === undefined)
    throw new MayflyError("unavailable", "the task changed again and again while the credential was being minted", {
      retryAfterSeconds: 1,
    });
  const minted = await finish();
  deps.wakeUps.at(new Date(minted.lifetime.expiresMs));
  return minted;
}

/** One round trip, when nothing has changed since the last mint for this task. Whatever it does not grant is asked anew. */
async function intendOnKept(
  deps: MintDeps,
  caller: AgentPrincipal,
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const { kept } = deps.sql;
  const facts = kept.find(caller.tenantId, caller.agentId, request);
  if (facts === undefined || facts.generation !== caller.generation) return undefined;
  try {
    const finish = await decideAndCommit(deps, deps.sql, caller, facts, request, context);
    if (finish !== undefined) return finish;
  } catch (error) {
    if (!(error instanceof MayflyError && (error.code === "denied" || error.code === "not_found"))) throw error;
  }
  kept.forget(caller.tenantId, caller.agentId, request);
  return undefined;
}

/** Reads the facts, decides on them and commits the intent. Undefined when one was another by then: nothing has happened. */
async function intend(
  deps: MintDeps,
  sql: IntentSql,
  { caller, again }: { readonly caller: AgentPrincipal; readonly again: () => Promise<AgentPrincipal> },
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const facts = await sql.facts(caller.tenantId, caller.agentId, request);
  // The caller and the facts must be of one generation: it is what the commit compares.
  const principal = facts.generation === caller.generation ? caller : await again();
  if (facts.generation !== principal.generation || principal.agentId !== caller.agentId) return undefined;
  return decideAndCommit(deps, sql, principal, facts, request, context);
}

async function decideAndCommit(
  deps: MintDeps,
  sql: IntentSql,
  principal: AgentPrincipal,
  facts: MintFacts,
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const checked = checkRecords(facts, request, principal);
  const judged = await decideMint(deps, principal, checked, request);
  if (judged.decision.outcome !== "allow") throw new PolicyRefusal(judged.decision);
  const plan: Plan = {
    id: context.credentialId ?? newId("credential"),
    decisionId: newId("decision"),
    checked,
    decision: judged.decision,
    lifetime: judged.lifetime,
  };
  return selfContainedIssuer(checked.target.issuer)
    ? mintToken(deps, sql, principal, request, plan, context)
    : mintDownstream(deps, sql, principal, request, plan, context);
}

/** Throws `forbidden` for a caller that is no agent. */
export function asAgent(principal: Principal): AgentPrincipal {
  if (isAgent(principal)) return principal;
  throw new MayflyError("forbidden", "only an agent mints, and only for itself");
}

function isAgent(principal: Principal): principal is AgentPrincipal {
  return principal.agentId !== undefined;
}
