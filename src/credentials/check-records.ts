import { mayMintFrom, widenings } from "../delegation/attenuate.ts";
import type { Parent, TaskBudget } from "../delegation/delegation.ts";
import type { Principal } from "../identity/principal.ts";
import type { Bounds } from "../issuers/issuer.ts";
import { selfContainedIssuer } from "../issuers/registry.ts";
import { constantOf } from "../lib/canonical-json.ts";
import { MayflyError, notFound, type Reason } from "../lib/errors.ts";
import type { PolicyAction } from "../policy/request.ts";
import { classifications } from "../policy/request.ts";
import type { MintFacts, MintRequest, ResourceFacts } from "./mint-facts.ts";

/** The bounds of this deployment, in seconds. */
export interface TtlLimits {
  readonly maxTtlSeconds: number;
  readonly defaultTtlSeconds: number;
  /** For credentials that cannot be taken back, whatever policy says. */
  readonly maxUnrevocableTtlSeconds: number;
}

/** The records with nothing missing: what remains once every check has passed. */
export interface CheckedMint {
  readonly agent: NonNullable<MintFacts["agent"]>;
  readonly task: NonNullable<MintFacts["task"]>;
  readonly purpose: NonNullable<MintFacts["purpose"]>;
  readonly target: NonNullable<MintFacts["target"]>;
  readonly policyVersion: number;
  readonly signingKid: string | null;
  readonly relationships: MintFacts["relationships"];
  /** One entry per (action, resource), each with what it means to the issuer. */
  readonly grants: readonly { readonly action: PolicyAction; readonly access: unknown }[];
  /** The resources of the grants, each once. */
  readonly resources: readonly PolicyAction["resource"][];
  /** What it is minted from, when it is. */
  readonly parent: Parent | undefined;
  /** How long it may live for being bound to no key; undefined when it is, or needs not be. */
  readonly bearerTtlSeconds: number | undefined;
  /** The most sensitive class among them: what history and the kill switch call the credential's data class. */
  readonly dataClass: string;
  readonly nowMs: number;
  readonly generation: number;
  /** Until when all this holds by the clock alone, if nobody changes a record. */
  readonly trueUntilMs: number;
}

/**
 * The record checks of invariant 1, before any policy is asked. Throws `denied` with every reason that applies, each
 * with a stable code; `not_found` for a task or a target that this agent cannot know (invariant 10).
 */
export function checkRecords(facts: MintFacts, request: MintRequest, holder: Principal): CheckedMint {
  const { agent, task, purpose, target } = facts;
  if (task === null || agent === null || purpose === null || task.agent_id !== agent.id) throw notFoundAt("/task_id");
  if (target === null) throw notFoundAt("/target");
  const parent = parentOf(facts, request, agent.id);

  const reasons: Reason[] = [];
  const refuse = (code: string, detail: string): void => {
    reasons.push({ code, detail });
  };

  if (facts.tenant_state !== "active") refuse("tenant_suspended", "the tenant is suspended");
  if (agent.state !== "active") refuse("agent_not_active", `the agent is ${agent.state}`);
  if (agent.owner_status !== "active") refuse("owner_inactive", "the agent's owner has departed; give it a new owner");
  checkTask(task, facts.now_ms, refuse);
  for (const budget of budgetsOf(task, parent)) checkBudget(budget, refuse);
  checkPurpose(purpose, facts.now_ms, refuse);
  if (target.state !== "active")
    refuse(`target_${target.state}`, `the target is ${target.state} and mints nothing now`);
  if (target.owner_status !== "active") refuse("target_owner_inactive", "the target's owner has departed");
  const grants = checkGrants(facts, request, purpose, refuse);
  const isToken = selfContainedIssuer(target.issuer) !== undefined;
  const isBearer = isToken && holder.confirmation === undefined;
  if (isBearer && agent.bearer_ttl_seconds === null)
    refuse(
      "binding_required",
      "tokens are bound to a key of their holder: send a DPoP proof (RFC 9449), or a client certificate",
    );
  if (!isToken && request.delegation !== undefined)
    refuse("delegation_not_possible", "only a token of Mayfly can be minted from, not what this target makes");
  if (parent !== undefined) {
    const { actions, delegation } = request;
    const { resources: asked } = facts;
    const { confirmation } = holder;
    const child = { agentId: agent.id, targetId: target.id, selfContained: isToken, actions, resources: asked };
    reasons.push(...widenings(parent, { ...child, confirmation, delegation }));
  }
  if (facts.policy_version === null) refuse("policy_missing", "the tenant has no published policy set");

  if (reasons.length > 0 || facts.policy_version === null) throw denied(reasons);
  const reached = grants.map(({ action }) => action.resource);
  const resources = reached.filter((resource, index) => reached.indexOf(resource) === index);
  return {
    agent,
    task,
    purpose,
    target,
    policyVersion: facts.policy_version,
    signingKid: facts.signing_kid,
    relationships: facts.relationships,
    grants,
    resources,
    parent,
    bearerTtlSeconds: isBearer ? (agent.bearer_ttl_seconds ?? undefined) : undefined,
    dataClass: highestDataClass(resources),
    nowMs: facts.now_ms,
    generation: facts.generation,
    trueUntilMs: Math.min(task.deadline_ms, purpose.expires_ms, purpose.review_by_ms),
  };
}

/** A refusal with its reasons, as the API answers it. */
export function denied(reasons: readonly Reason[]): MayflyError {
  const first = reasons[0]?.detail ?? "the request was refused";
  return new MayflyError("denied", reasons.length > 1 ? `${first} (and ${reasons.length - 1} more)` : first, {
    reasons,
  });
}

/** The same 404 as everywhere, with the field that named nothing. */
function notFoundAt(pointer: string): MayflyError {
  const { detail } = notFound();
  return new MayflyError("not_found", detail, { errors: [{ pointer, detail }] });
}

type Refuse = (code: string, detail: string) => void;

/** The budgets of every task that the credential is charged to: its own, and those of the chain above it. */
function budgetsOf(task: NonNullable<MintFacts["task"]>, parent: Parent | undefined): readonly TaskBudget[] {
  if (parent === undefined) return [task];
  return [task, ...parent.chain.filter(({ task_id }) => task_id !== task.id).map(({ budget }) => budget)];
}

/** To an agent that it was not delegated to, a credential is as unknown as one that does not exist. */
function parentOf({ parent }: MintFacts, request: MintRequest, agentId: string): Parent | undefined {
  if (request.parent_credential_id === undefined) return undefined;
  if (parent === null || !mayMintFrom(parent, agentId)) throw notFoundAt("/parent_credential_id");
  return parent;
}

function checkTask(task: NonNullable<MintFacts["task"]>, nowMs: number, refuse: Refuse): void {
  if (task.state !== "open") refuse("task_not_open", `the task is ${task.state}`);
  else if (task.deadline_ms <= nowMs) refuse("task_not_open", "the task is past its deadline");
  else if (task.heartbeat_due_ms !== null && task.heartbeat_due_ms <= nowMs)
    refuse("task_not_open", "the task's heartbeat was lost");
}

function checkBudget(task: TaskBudget, refuse: Refuse): void {
  if (task.max_credentials !== null && task.issued >= task.max_credentials)
    refuse("task_budget_exhausted", `the task may be given ${task.max_credentials} credentials and has been`);
  if (task.max_per_minute !== null && task.issued_in_minute >= task.max_per_minute)
    refuse("task_rate_exceeded", `the task may be given ${task.max_per_minute} credentials a minute; wait`);
  if (task.max_live_seconds !== null && task.issued_live_seconds >= task.max_live_seconds)
    refuse("task_live_time_exhausted", `the task's ${task.max_live_seconds} seconds of live credentials are used up`);
}

function checkPurpose(purpose: NonNullable<MintFacts["purpose"]>, nowMs: number, refuse: Refuse): void {
  if (purpose.state !== "approved") refuse("purpose_not_approved", `the purpose is ${purpose.state}`);
  if (purpose.expires_ms <= nowMs) refuse("purpose_expired", "the purpose has expired");
  if (purpose.review_by_ms <= nowMs) refuse("purpose_review_overdue", "the purpose was not reviewed in time");
}

function checkGrants(
  facts: MintFacts,
  request: MintRequest,
  purpose: NonNullable<MintFacts["purpose"]>,
  refuse: Refuse,
): CheckedMint["grants"] {
  const grants: { action: PolicyAction; access: unknown }[] = [];
  for (const asked of request.resources) {
    const resource = facts.resources.find((found) => found.asked === asked);
    if (resource === undefined) {
      // Unknown, another tenant's and another target's resource answer alike.
      refuse("resource_outside_target", "a resource is not one that this target reaches");
      continue;
    }
    if (!purpose.resource_ids.includes(resource.id))
      refuse("resource_outside_purpose", `the purpose does not cover resource ${resource.name}`);
    if (!purpose.data_classes.includes(resource.classification))
      refuse("data_class_outside_purpose", `the purpose does not cover ${resource.classification} data`);
    if (!purpose.environments.includes(resource.environment))
      refuse("environment_outside_purpose", `the purpose does not cover ${resource.environment}`);
    for (const operation of request.actions) {
      const grant = checkAction(resource, operation, purpose, refuse);
      if (grant !== undefined) grants.push(grant);
    }
  }
  return grants;
}

function checkAction(
  resource: ResourceFacts,
  operation: string,
  purpose: NonNullable<MintFacts["purpose"]>,
  refuse: Refuse,
): { action: PolicyAction; access: unknown } | undefined {
  const actionClass = Object.hasOwn(resource.operations, operation) ? resource.operations[operation] : undefined;
  const access = actionClass === undefined ? undefined : resource.access[actionClass];
  if (actionClass === undefined || access === undefined) {
    refuse("action_not_offered", `resource ${resource.name} does not offer one of the actions at this target`);
    return undefined;
  }
  if (!purpose.actions.includes(operation) && !purpose.actions.includes(actionClass)) {
    refuse("action_outside_purpose", `the purpose does not cover ${actionClass}`);
    return undefined;
  }
  const shown = constantOf(resource, ({ id, name, kind, classification, environment, risk, groups }) => ({
    id,
    name,
    kind,
    classification,
    environment,
    risk,
    groups,
  }));
  return { action: { actionClass, operation, resource: shown }, access };
}

function highestDataClass(resources: CheckedMint["resources"]): string {
  return resources
    .map((resource) => resource.classification)
    .reduce((a, b) => (classifications.indexOf(a) >= classifications.indexOf(b) ? a : b), classifications[0]);
}

/** When it ends, and which bound decided that. */
export interface Lifetime {
  readonly ttlSeconds: number;
  readonly expiresMs: number;
  readonly bound: string;
}

/**
 * The minimum of every bound (invariant 2), cut to a whole second so that the JWT's `exp`, the row and the wake-up of
 * the worker are the same moment. `bound` names the one that decided.
 */
export function lifetime(
  checked: CheckedMint,
  asked: number | undefined,
  policyTtlSeconds: number | undefined,
  limits: TtlLimits,
  { ttlSeconds: { min, max }, revocability }: Pick<Bounds, "ttlSeconds" | "revocability">,
): Lifetime {
  const fromNow = (ms: number): number => (ms - checked.nowMs) / 1000;
  const bounds: [string, number][] = [
    asked === undefined ? ["default", Math.max(limits.defaultTtlSeconds, min)] : ["request", asked],
    ["deployment", limits.maxTtlSeconds],
    ["purpose", checked.purpose.max_ttl_seconds],
    ["target", checked.target.max_ttl_seconds],
    ["issuer", max],
    ["task_deadline", fromNow(checked.task.deadline_ms)],
    ["purpose_expiry", fromNow(checked.purpose.expires_ms)],
  ];
  if (revocability === "expiry") bounds.push(["revocability", limits.maxUnrevocableTtlSeconds]);
  if (checked.parent !== undefined) bounds.push(["parent", fromNow(checked.parent.expires_ms)]);
  if (checked.bearerTtlSeconds !== undefined) bounds.push(["bearer", checked.bearerTtlSeconds]);
  if (policyTtlSeconds !== undefined) bounds.push(["policy", policyTtlSeconds]);
  for (const { max_live_seconds: most, issued_live_seconds: used } of budgetsOf(checked.task, checked.parent))
    if (most !== null) bounds.push(["task_budget", most - used]);
  const [bound, seconds] = bounds.reduce((least, next) => (next[1] < least[1] ? next : least));
  const expiresMs = Math.floor((checked.nowMs + seconds * 1000) / 1000) * 1000;
  const ttlSeconds = Math.ceil((expiresMs - checked.nowMs) / 1000);
  if (expiresMs <= checked.nowMs || ttlSeconds < min)
    throw denied([
      {
        code: "ttl_too_short",
        detail: `only ${Math.max(0, Math.floor(seconds))} s would be left (bound: ${bound}); this issuer needs at least ${min} s`,
      },
    ]);
  return { ttlSeconds, expiresMs, bound };
}
