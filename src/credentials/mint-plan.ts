import type { Binding, Principal } from "../identity/principal.ts";
import { selfContainedIssuer } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import type { Secret } from "../lib/secret.ts";
import type { PolicyDecision } from "../policy/request.ts";
import type { StatusPlace } from "../status/places.ts";
import { type CheckedMint, denied, type Lifetime, type TtlLimits } from "./check-records.ts";
import type { MintRequest } from "./mint-facts.ts";

/** An agent that mints for itself. */
export type AgentPrincipal = Principal & { readonly agentId: Id<"agent"> };

/** The bounds of this deployment that a mint keeps to, in seconds. */
export type MintLimits = TtlLimits & { readonly mintTimeoutSeconds: number };

/** Everything that the commit writes, decided but not yet true. */
export interface Plan {
  readonly id: Id<"credential">;
  readonly decisionId: Id<"decision">;
  readonly checked: CheckedMint;
  readonly decision: PolicyDecision;
  readonly lifetime: Lifetime;
}

/** What the caller is told about a credential that was just minted; `secret` is in this answer and nowhere else. */
export interface Minted {
  readonly id: Id<"credential">;
  readonly checked: CheckedMint;
  readonly decision: PolicyDecision;
  readonly decisionId: Id<"decision">;
  readonly lifetime: Lifetime;
  readonly issuer: string;
  readonly revocability: "immediate" | "expiry";
  /** Seconds after a revoke within which someone who does not ask us may still believe it. */
  readonly effectiveBoundSeconds: number;
  readonly secret: Readonly<Record<string, Secret | string | number>>;
  /** What a token of ours says, in the words of its issuer; undefined for what a far side made. */
  readonly claims: Readonly<Record<string, unknown>> | undefined;
}

/** How the credential comes to be. `downstreamName` and `handleSealed` are absent when no far side knows it. */
export interface IntentOf {
  readonly limits: MintLimits;
  readonly requestId: string;
  readonly revocability: Minted["revocability"];
  readonly downstreamName?: string;
  readonly handleSealed?: Buffer;
  /** The key that will sign it, when it is a token of ours. */
  readonly signingKid?: string;
  /** Where its status is published, when it is a token of ours. */
  readonly status?: StatusPlace;
}

/**
 * How a credential is bound to its holder. A token can name the key that its caller has proven to hold; anything else, a
 * password say, is held no better than the token that its caller came with.
 */
export function bindingOf({ binding, confirmation }: Principal, issuer: string): Binding {
  if (confirmation === undefined || selfContainedIssuer(issuer) === undefined) return binding;
  return "jkt" in confirmation ? "dpop" : "mtls";
}

/** What `mayfly.mint_commit` writes. Member by member: spreading objects of this size was 2 % of a mint. */
export function intentOf(plan: Plan, principal: Principal, request: MintRequest, made: IntentOf): object {
  const { checked, decision, lifetime: life } = plan;
  return {
    id: plan.id,
    agent_id: checked.agent.id,
    owner_id: checked.agent.owner_id,
    identity_id: principal.identityId ?? null,
    task_id: checked.task.id,
    purpose_id: checked.purpose.id,
    target_id: checked.target.id,
    generation: checked.generation,
    facts_until_ms: checked.trueUntilMs,
    policy_version: checked.policyVersion,
    issuer: checked.target.issuer,
    environment: checked.resources[0]?.environment,
    data_class: checked.dataClass,
    binding: bindingOf(principal, checked.target.issuer),
    confirmation: principal.confirmation,
    parent_id: checked.parent?.id,
    ancestors: checked.parent?.chain.map(({ id }) => id),
    charged_tasks: checked.parent?.chain.map(({ task_id }) => task_id),
    delegation: request.delegation,
    signing_kid: made.signingKid,
    status_list: made.status?.list,
    status_index: made.status?.index,
    actions: request.actions,
    resource_ids: checked.resources.map((resource) => resource.id),
    access: checked.grants.map((grant) => grant.access),
    requested_ttl_seconds: request.ttl_seconds ?? made.limits.defaultTtlSeconds,
    ttl_seconds: life.ttlSeconds,
    ttl_bound: life.bound,
    requested_by: principal.subject,
    request_id: made.requestId,
    create_within_ms: made.limits.mintTimeoutSeconds * 1000,
    expires_ms: life.expiresMs,
    decision_id: plan.decisionId,
    determining: decision.determining,
    reasons: decision.reasons,
    input: decision.input,
    input_hash: decision.inputHash,
    revocability: made.revocability,
    self_contained: made.downstreamName === undefined,
    downstream_name: made.downstreamName,
    handle_sealed: made.handleSealed?.toString("base64"),
  };
}

/** What the caller gets once the credential is active. */
export function mintedOf(
  plan: Plan,
  revocability: Minted["revocability"],
  effectiveBoundSeconds: number,
  secret: Minted["secret"],
  claims?: Minted["claims"],
): Minted {
  return {
    id: plan.id,
    checked: plan.checked,
    decision: plan.decision,
    decisionId: plan.decisionId,
    lifetime: plan.lifetime,
    issuer: plan.checked.target.issuer,
    revocability,
    effectiveBoundSeconds,
    secret,
    claims,
  };
}

/** The kill switch was told to let nothing of the kind through. */
export function blocked(): MayflyError {
  return denied([
    {
      code: "blocked_by_revocation",
      detail: "a revocation was ordered for this kind of credential and still blocks new ones",
    },
  ]);
}

/** Policy's refusal, with the decision as it is recorded, so that it can be replayed against other policies. */
export class PolicyRefusal extends MayflyError {
  readonly decision: Readonly<Record<string, unknown>> & { readonly id: Id<"decision"> };

  constructor(decision: PolicyDecision) {
    const { detail, reasons } = denied(decision.reasons);
    super("denied", detail, { reasons });
    this.decision = {
      id: newId("decision"),
      outcome: decision.outcome,
      policy_version: decision.policyVersion,
      determining: decision.determining,
      reasons: decision.reasons,
      input: decision.input,
      input_hash: decision.inputHash,
    };
  }
}
