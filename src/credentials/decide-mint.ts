import type { Principal } from "../identity/principal.ts";
import { anyIssuer } from "../issuers/registry.ts";
import { constantOf } from "../lib/canonical-json.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Policies } from "../policy/policies.ts";
import type { PolicyDecision, PolicyInput } from "../policy/request.ts";
import type { TargetClients } from "../targets/target-clients.ts";
import { type CheckedMint, type Lifetime, lifetime, type TtlLimits } from "./check-records.ts";
import type { MintRequest } from "./mint-facts.ts";
import { bindingOf } from "./mint-plan.ts";

interface DecideDeps {
  readonly policies: Policies;
  readonly targets: Pick<TargetClients, "config">;
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
  const { id, version } = checked.target;
  const { config } = await deps.targets.config(principal.tenantId, id, version);
  const bounds = issuer.bounds(config);
  const before = lifetime(checked, request.ttl_seconds, undefined, deps.limits, bounds);
  const policies = await deps.policies.at(principal.tenantId, checked.policyVersion);
  const decision = policies.decide(policyInput(checked, principal, before.ttlSeconds, bounds.revocability));
  return {
    decision,
    lifetime:
      decision.outcome === "allow" && decision.ttlSeconds < before.ttlSeconds
        ? lifetime(checked, request.ttl_seconds, decision.ttlSeconds, deps.limits, bounds)
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
  // What the registry says is the same object from one mint to the next (read-facts.ts), and so is what is made of it.
  // In the order of canonical JSON.
  return {
    actions: checked.grants.map((grant) => grant.action),
    agent: constantOf(agent, ({ environment, id, kind, name, owner_id }) => ({
      environment,
      id,
      kind,
      name,
      ownerId: owner_id,
    })),
    approvals: [],
    binding: bindingOf(principal, target.issuer),
    delegationDepth: checked.parent?.chain.length ?? 0,
    purpose: constantOf(purpose, ({ id, max_ttl_seconds: maxTtlSeconds, name }) => ({ id, maxTtlSeconds, name })),
    relationships: constantOf(checked.relationships, (them) => [...them]),
    target: constantOf(target, ({ id, issuer }) => ({ id, issuer, revocability })),
    task: constantOf(task, ({ id, initiated_by: { kind: initiatedBy } }) => ({ id, initiatedBy })),
    ttlSeconds,
  };
}
