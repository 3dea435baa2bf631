import type { PolicyAction, PolicyInput } from "../../src/policy/request.ts";
import type { RandomPolicy } from "./random-policies.ts";

type Named = readonly (readonly [id: string, RandomPolicy])[];

/** What one action on one resource gets, said by the policies one by one. */
function judgedNaively(policies: Named, input: PolicyInput, action: PolicyAction) {
  const applies = ({ actions, principal, resource, when, unless }: RandomPolicy): boolean =>
    (actions?.includes(action.actionClass) ?? true) &&
    (principal?.holds(input, action) ?? true) &&
    (resource?.holds(input, action) ?? true) &&
    (when?.holds(input, action) ?? true) &&
    !(unless?.holds(input, action) ?? false);
  const matched = { permit: [] as string[], forbid: [] as string[], error: [] as string[] };
  for (const [id, policy] of policies) {
    try {
      if (applies(policy)) matched[policy.effect].push(id);
    } catch {
      matched.error.push(id);
    }
  }
  return matched;
}

/** What a decision must be, as slowly and plainly as it can be said. */
export function decidedNaively(
  policies: Named,
  input: PolicyInput,
): { outcome: string; ttlSeconds: number; codes: string[] } {
  const remedies = new Map(policies.map(([id, { remedy }]) => [id, remedy]));
  const given = { ttlSeconds: input.ttlSeconds, approvals: [...input.approvals], binding: input.binding };
  const asked: string[] = [];
  for (;;) {
    const judged = input.actions.map((action) => judgedNaively(policies, { ...input, ...given }, action));
    const answer = (outcome: string, codes: string[]) => ({
      outcome,
      ttlSeconds: given.ttlSeconds,
      codes: codes.sort(),
    });

    const errors = new Set(judged.flatMap(({ error }) => error));
    if (errors.size > 0)
      return answer(
        "deny",
        [...errors].map((id) => `policy_error ${id}`),
      );

    const fired = [...new Set(judged.flatMap(({ forbid }) => forbid))];
    const helps = (id: string): boolean => {
      const [kind, value] = (remedies.get(id) ?? "").split(":");
      if (kind === "ttl") return given.ttlSeconds > Number(value);
      if (kind === "approval") return !given.approvals.includes(value ?? "");
      return kind === "dpop" && given.binding !== "dpop";
    };
    const hopeless = fired.filter((id) => !helps(id)).map((id) => `policy_forbidden ${id}`);
    const missing = judged
      .filter(({ permit, forbid }) => permit.length + forbid.length === 0)
      .map(() => "policy_no_permit");
    if (hopeless.length + missing.length > 0) return answer("deny", [...hopeless, ...missing]);
    if (fired.length === 0) return answer(asked.length === 0 ? "allow" : "allow_if", asked);

    const ttls = fired.map((id) => /^ttl:(.*)/.exec(remedies.get(id) ?? "")?.[1]).filter((ttl) => ttl !== undefined);
    if (ttls.length > 0) given.ttlSeconds = Math.min(...ttls.map(Number));
    else {
      for (const id of fired) {
        const remedy = remedies.get(id) ?? "";
        asked.push(`${remedy === "dpop" ? "binding_required" : "approval_required"} ${id} ${remedy}`);
        if (remedy === "dpop") given.binding = "dpop";
        else given.approvals.push(remedy.slice("approval:".length));
      }
    }
  }
}
