import type { Reason } from "../lib/errors.ts";
import { classifications } from "../policy/request.ts";
import type { Child, Parent } from "./delegation.ts";

/**
 * Whether an agent may mint from a credential at all: the holder, and who its allow-list names, if it was minted to be
 * delegated. To everyone else it does not exist.
 */
export function mayMintFrom(parent: Parent, agentId: string): boolean {
  if (parent.delegation === null) return false;
  return parent.agent_id === agentId || parent.delegation.allowed.some(({ sub }) => sub === agentId);
}

/**
 * Every way in which a child would be more than its parent (invariant 7); none when it only narrows. Time is not here:
 * the parent's end is one of the bounds of the child's lifetime, and the task budgets of the whole chain are counted at
 * the commit.
 */
export function widenings(parent: Parent, child: Child): readonly Reason[] {
  const reasons: Reason[] = [];
  const refuse = (code: string, detail: string): void => {
    reasons.push({ code, detail });
  };
  if (!parent.active) refuse("parent_not_active", "the credential to mint from is not active any more");
  if (!child.actions.every((action) => parent.actions.includes(action)))
    refuse("action_outside_parent", "the credential to mint from does not allow one of the actions");
  if (!child.resources.every(({ id }) => parent.resource_ids.includes(id)))
    refuse("resource_outside_parent", "the credential to mint from does not reach one of the resources");
  const highest = classifications.indexOf(parent.data_class);
  if (!child.resources.every(({ classification }) => classifications.indexOf(classification) <= highest))
    refuse("data_class_outside_parent", `the credential to mint from covers ${parent.data_class} data at most`);
  if (!child.resources.every(({ environment }) => environment === parent.environment))
    refuse("environment_outside_parent", `the credential to mint from is for ${parent.environment}`);
  checkDelegation(parent, child, refuse);
  if (child.selfContained) checkToken(parent, child, refuse);
  return reasons;
}

type Refuse = (code: string, detail: string) => void;

function checkDelegation({ delegation }: Parent, child: Child, refuse: Refuse): void {
  if (child.delegation === undefined) return;
  if (child.delegation.max_depth > (delegation?.max_depth ?? 0) - 1)
    refuse(
      "delegation_too_deep",
      `at most ${Math.max(0, (delegation?.max_depth ?? 0) - 1)} more links may be minted from this one`,
    );
  const allowed = new Set(delegation?.allowed.map(({ sub }) => sub));
  if (!child.delegation.allowed.every(({ sub }) => allowed.has(sub)))
    refuse("delegate_outside_parent", "the credential to mint from does not let one of these agents have it");
}

// A key proves one holder: what is passed on is bound to whom it is passed on to, and no weaker than before.
function checkToken(parent: Parent, child: Child, refuse: Refuse): void {
  if (child.targetId !== parent.target_id)
    refuse("audience_outside_parent", "a token minted from another one is for the same API");
  if (child.confirmation === undefined && parent.confirmation !== null)
    refuse("binding_weaker_than_parent", "the token to mint from is bound to a key, so this one must be: send a proof");
  const same = JSON.stringify(child.confirmation ?? null) === JSON.stringify(parent.confirmation);
  if (same && child.confirmation !== undefined && child.agentId !== parent.agent_id)
    refuse("key_not_rebound", "two agents cannot hold the same key: each must prove one of its own");
}
