import type { Principal } from "../identity/principal.ts";
import { anyIssuer } from "../issuers/registry.ts";
import { constantOf } from "../lib/canonical-json.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Policies } from "../policy/policies.ts";
import type { PolicyDecision, PolicyInput } from "../policy/request.ts";
import { type CheckedMint, type Lifetime, lifetime, type TtlLimits } from "./check-records.ts";
import type { MintRequest } from "./mint-facts.ts";

interface DecideDeps {
  readonly policies: Policies;
  readonly limits: TtlLimits;
}

/**
 * Asks policy about a request whose records are in order. Used by the mint and by the dry run alike, so that what the
 * dry run says is what would happen. The lifetime is the minimum of all bounds, the policy's included.
 */
export async function decideMint(
  deps: DecideDeps,
  principal: Principal,
  checked: CheckedMint,
  request: MintRequest,
): Promise<{ readonly decision: PolicyDecision; readonly lifetime: Lifetime }> {
  const issuer = anyIssuer(checked.target.issuer);
  if (issuer === undefined)
    throw new MayflyError("target_unavailable", "this version of Mayfly does not know the target's kind of credential");
  const before = lifetime(checked, request.ttl_seconds, undefined, deps.limits, issuer);
  const policies = await deps.policies.at(principal.tenantId, checked.policyVersion);
  const decision = policies.decide(policyInput(checked, principal, before.ttlSeconds, issuer.revocability));
  return {
    decision,
    lifetime:
      decision.outcome === "allow" && decision.ttlSeconds < before.ttlSeconds
        ? lifetime(checked, request.ttl_seconds, decision.ttlSeconds, deps.limits, issuer)
        : before,
  };
}

function policyInput(
  checked: CheckedMint,
  principal: Principal,
  ttlSeconds: number,
  revocability: "immediate" | "expiry",
): PolicyInput {
  const { agent, purpose, target, task } = checked;
  return {
    // What the registry says is the same object from one mint to the next (read-facts.ts), and so is what is made of it.
    agent: constantOf(agent, ({ id, kind, name, environment, owner_id: ownerId }) => ({
      id,
      kind,
      name,
      environment,
      ownerId,
    })),
    relationships: constantOf(checked.relationships, (them) => [...them]),
    purpose: constantOf(purpose, ({ id, name, max_ttl_seconds: maxTtlSeconds }) => ({ id, name, maxTtlSeconds })),
    task: constantOf(task, ({ id, initiated_by: { kind: initiatedBy } }) => ({ id, initiatedBy })),
    target: constantOf(target, ({ id, issuer }) => ({ id, issuer, revocability })),
    actions: checked.grants.map((grant) => grant.action),
    ttlSeconds,
    binding: principal.binding,
    delegationDepth: 0,
    approvals: [],
  };
}
