import { canonicalHash } from "../lib/canonical-json.ts";
import { assertNever, type Reason } from "../lib/errors.ts";
import type { CompiledPolicies } from "./compile.ts";
import { isJudgeable } from "./facts.ts";
import { judge } from "./judge.ts";
import { remedyText } from "./remedy.ts";
import type { PolicyAction, PolicyDecision, PolicyInput, Remedy } from "./request.ts";

/** More than any honest set of policies needs: each round must shorten the TTL or add something not given before. */
const MAX_ROUNDS = 16;

/**
 * Decides whether a credential may be minted: every (operation, resource) must be permitted and none forbidden. The
 * same input under the same policies gives the same decision; nothing else is looked at, not even the clock.
 *
 * A forbid that fired is final unless its remedy lifts it. TTLs are shortened and judged again. For what somebody
 * else must give, the request is judged as if it had been given: so `allow_if` is a promise, and nobody is asked to
 * approve what would be refused anyway. Any error denies.
 */
export function decide(compiled: CompiledPolicies, input: PolicyInput): PolicyDecision {
  const asked = new Map<string, Reason>();
  const shortened = new Set<string>();
  let facts = input;

  const conclude = (outcome: PolicyDecision["outcome"], reasons: readonly Reason[], policies: Iterable<string>) => {
    const judged = facts.ttlSeconds === input.ttlSeconds ? input : { ...input, ttlSeconds: facts.ttlSeconds };
    return {
      outcome,
      ttlSeconds: judged.ttlSeconds,
      reasons,
      determining: [...new Set([...policies, ...asked.keys(), ...shortened])].sort(),
      policyVersion: compiled.version,
      inputHash: canonicalHash(judged),
      input: judged,
    };
  };

  if (!isJudgeable(input)) return conclude("deny", [policyError()], []);
  if (input.actions.length === 0) return conclude("deny", [noPermit()], []);
  for (let round = 1; ; round++) {
    const verdict = judgeAll(compiled, facts);
    if (verdict.errors !== undefined) {
      const reasons = verdict.errors.length === 0 ? [policyError()] : verdict.errors.map((id) => policyError(id));
      return conclude("deny", reasons, verdict.errors);
    }

    const fired = verdict.forbids.map((id) => ({ id, ...liftable(compiled, id, facts) }));
    const final = round === MAX_ROUNDS ? fired : fired.filter(({ remedy }) => remedy === undefined);
    if (final.length > 0 || verdict.unpermitted.length > 0) {
      const reasons = [
        ...final.map(({ id, reason }) => forbidden(id, reason)),
        ...verdict.unpermitted.map((action) => noPermit(action)),
      ];
      return conclude("deny", reasons, verdict.forbids);
    }
    if (fired.length === 0) {
      const reasons = [...asked.values()].sort((a, b) => ((a.policy ?? "") < (b.policy ?? "") ? -1 : 1));
      if (reasons.length > 0) return conclude("allow_if", reasons, []);
      return conclude("allow", [], verdict.permits);
    }

    const ttls = fired.flatMap(({ id, remedy }) => (remedy?.kind === "ttl" ? [{ id, seconds: remedy.seconds }] : []));
    if (ttls.length > 0) {
      for (const { id } of ttls) shortened.add(id);
      facts = { ...facts, ttlSeconds: Math.min(...ttls.map(({ seconds }) => seconds)) };
      continue;
    }
    for (const { id, reason, remedy } of fired) {
      if (remedy === undefined) continue;
      asked.set(id, { code: askedCode(remedy), detail: reason, policy: id, remedy: remedyText(remedy) });
      if (remedy.kind === "approval" && !facts.approvals.includes(remedy.by))
        facts = { ...facts, approvals: [...facts.approvals, remedy.by] };
      if (remedy.kind === "dpop") facts = { ...facts, binding: "dpop" };
    }
  }
}

interface Verdict {
  /** Set when something could not be judged: the policies that errored, as far as they are known. */
  readonly errors: readonly string[] | undefined;
  readonly forbids: readonly string[];
  readonly permits: readonly string[];
  readonly unpermitted: readonly PolicyAction[];
}

function judgeAll(compiled: CompiledPolicies, facts: PolicyInput): Verdict {
  const errors = new Set<string>();
  const forbids = new Set<string>();
  const permits = new Set<string>();
  const unpermitted: PolicyAction[] = [];
  let failed = false;
  for (const action of facts.actions) {
    const slice = compiled.slices.get(action.actionClass);
    const { decision, policies } = slice === undefined ? unreadable : judge(slice, facts, action);
    if (decision === "deny" && policies.length === 0) unpermitted.push(action);
    if (decision === "error") failed = true;
    const where = decision === "allow" ? permits : decision === "deny" ? forbids : errors;
    for (const id of policies) where.add(id);
  }
  return {
    errors: failed ? [...errors].sort() : undefined,
    forbids: [...forbids].sort(),
    permits: [...permits],
    unpermitted,
  };
}

const unreadable = { decision: "error", policies: [] } as const;

/** What a forbid says, with its remedy only if that could change the facts. */
function liftable(compiled: CompiledPolicies, id: string, facts: PolicyInput): { reason: string; remedy?: Remedy } {
  const { reason, remedy } = compiled.notes.get(id) ?? { reason: `policy ${id} forbids this`, remedy: undefined };
  return remedy === undefined || isGiven(remedy, facts) ? { reason } : { reason, remedy };
}

function isGiven(remedy: Remedy, facts: PolicyInput): boolean {
  switch (remedy.kind) {
    case "ttl":
      return facts.ttlSeconds <= remedy.seconds;
    case "approval":
      return facts.approvals.includes(remedy.by);
    case "dpop":
      return facts.binding === "dpop";
    default:
      return assertNever(remedy);
  }
}

function askedCode(remedy: Remedy): string {
  return remedy.kind === "approval" ? "approval_required" : "binding_required";
}

function forbidden(policy: string, detail: string): Reason {
  return { code: "policy_forbidden", detail, policy };
}

function noPermit(action?: PolicyAction): Reason {
  const what = action === undefined ? "a request without an action" : `${action.operation} on ${action.resource.name}`;
  return { code: "policy_no_permit", detail: `no policy permits ${what}` };
}

function policyError(policy?: string): Reason {
  const what = policy === undefined ? "the policies" : `policy ${policy}`;
  const detail = `${what} could not be evaluated, so nothing is granted`;
  return policy === undefined ? { code: "policy_error", detail } : { code: "policy_error", detail, policy };
}
