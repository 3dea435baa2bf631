import type { Binding } from "../identity/principal.ts";
import type { Reason } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

/** The action classes that policies speak of. A resource's own operation names map to one of them. */
export const actionClasses = ["read", "write", "delete", "execute", "deploy", "pay", "grant_access", "admin"] as const;
export type ActionClass = (typeof actionClasses)[number];

export const classifications = ["public", "internal", "confidential", "restricted"] as const;
export type Classification = (typeof classifications)[number];

export const environments = ["production", "staging", "development"] as const;
export type Environment = (typeof environments)[number];

export const risks = ["low", "medium", "high"] as const;
export type Risk = (typeof risks)[number];

export const agentKinds = ["agent", "model", "connector", "service_account", "secret_issuer"] as const;
export type AgentKind = (typeof agentKinds)[number];

/** One (action, resource) pair to be judged. */
export interface PolicyAction {
  readonly operation: string;
  readonly actionClass: ActionClass;
  readonly resource: {
    readonly id: Id<"resource">;
    readonly name: string;
    readonly kind: string;
    readonly classification: Classification;
    readonly environment: Environment;
    readonly risk: Risk;
    readonly groups: readonly string[];
  };
}

/** Everything that a decision may depend on. It is stored with the decision as it is, so that it can be replayed. */
export interface PolicyInput {
  readonly agent: {
    readonly id: Id<"agent">;
    readonly kind: AgentKind;
    readonly name: string;
    readonly environment: Environment;
    readonly ownerId: Id<"owner">;
  };
  /** Relationship tuples whose subject is the agent or one of its teams: entity parents (`Group`) of the agent. */
  readonly relationships: readonly { readonly subject: string; readonly relation: string; readonly object: string }[];
  readonly purpose: { readonly id: Id<"purpose">; readonly name: string; readonly maxTtlSeconds: number };
  readonly task: { readonly id: Id<"task">; readonly initiatedBy: "human" | "system" };
  readonly target: {
    readonly id: Id<"target">;
    readonly issuer: string;
    readonly revocability: "immediate" | "expiry";
  };
  readonly actions: readonly PolicyAction[];
  readonly ttlSeconds: number;
  readonly binding: Binding;
  readonly delegationDepth: number;
  /** Approver groups that have approved exactly this request. Empty until approvals exist. */
  readonly approvals: readonly string[];
}

/** What a forbid says would lift it. */
export type Remedy =
  | { readonly kind: "ttl"; readonly seconds: number }
  | { readonly kind: "approval"; readonly by: string }
  | { readonly kind: "dpop" };

/** The answer of the policy engine, after the remedies that need nobody (`ttl`) were applied and judged again. */
export interface PolicyDecision {
  readonly outcome: "allow" | "deny" | "allow_if";
  /** The TTL that was finally judged: what was asked, or less. */
  readonly ttlSeconds: number;
  /** Why it is not `allow`. Each reason of `allow_if` names its remedy. */
  readonly reasons: readonly Reason[];
  /** Ids of the policies that decided, sorted. */
  readonly determining: readonly string[];
  readonly policyVersion: number;
  /** Hex SHA-256 of the canonical JSON (RFC 8785) of the input as finally judged. */
  readonly inputHash: string;
  readonly input: PolicyInput;
}

/** A published set of Cedar policies of one tenant. Immutable. */
export interface PolicySet {
  readonly tenantId: Id<"tenant">;
  readonly version: number;
  readonly text: string;
}
