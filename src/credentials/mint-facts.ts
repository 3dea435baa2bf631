import type { AgentState, TargetState } from "../db/schema.ts";
import type { Delegation, Parent, TaskBudget } from "../delegation/delegation.ts";
import type { Id } from "../lib/ids.ts";
import type { ActionClass, AgentKind, Classification, Environment, Risk } from "../policy/request.ts";

/** What `mayfly.mint_load` answers: everything that a mint is judged by, read in one statement. Times are database milliseconds. */
export interface MintFacts {
  /** Of the registry: as long as it is the same, so are all these facts but the task's. */
  readonly generation: number;
  readonly now_ms: number;
  readonly tenant_state: "active" | "suspended";
  readonly policy_version: number | null;
  /** The key that signs access tokens; null before the tenant's first one. */
  readonly signing_kid: string | null;
  readonly agent: {
    readonly id: Id<"agent">;
    readonly kind: AgentKind;
    readonly name: string;
    readonly environment: Environment;
    readonly state: AgentState;
    readonly owner_id: Id<"owner">;
    readonly owner_status: "active" | "departed";
    /** How long a token may live that is bound to no key; null when it must be bound. */
    readonly bearer_ttl_seconds: number | null;
  } | null;
  readonly task:
    | (TaskBudget & {
        readonly id: Id<"task">;
        readonly agent_id: Id<"agent">;
        readonly state: "open" | "paused" | "ended";
        readonly deadline_ms: number;
        readonly heartbeat_due_ms: number | null;
        readonly initiated_by: { readonly kind: "human" | "system"; readonly id: string };
      })
    | null;
  readonly purpose: {
    readonly id: Id<"purpose">;
    readonly name: string;
    readonly state: "proposed" | "approved" | "retired";
    readonly agent_id: Id<"agent">;
    readonly actions: readonly string[];
    readonly resource_ids: readonly string[];
    readonly data_classes: readonly string[];
    readonly environments: readonly string[];
    readonly max_ttl_seconds: number;
    readonly expires_ms: number;
    readonly review_by_ms: number;
  } | null;
  readonly target: {
    readonly id: Id<"target">;
    readonly name: string;
    readonly issuer: string;
    readonly state: TargetState;
    readonly owner_status: "active" | "departed";
    readonly max_ttl_seconds: number;
    readonly version: number;
  } | null;
  /** What the request mints from: null when there is no such credential. */
  readonly parent: Parent | null;
  /** Only what the target reaches; `asked` is the id or name as the caller spelled it. */
  readonly resources: readonly ResourceFacts[];
  readonly relationships: readonly { readonly subject: string; readonly relation: string; readonly object: string }[];
}

export interface ResourceFacts {
  readonly asked: string;
  readonly id: Id<"resource">;
  readonly name: string;
  readonly kind: string;
  readonly classification: Classification;
  readonly environment: Environment;
  readonly risk: Risk;
  readonly groups: readonly string[];
  /** Operation name → action class. */
  readonly operations: Readonly<Record<string, ActionClass>>;
  /** Action class → what it means to the target's issuer. */
  readonly access: Readonly<Record<string, unknown>>;
}

/** What an agent asks for. `target` and `resources` are ids or names. */
export interface MintRequest {
  readonly task_id: Id<"task">;
  readonly target: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  readonly ttl_seconds?: number | undefined;
  /** The credential to mint from: the new one is less than that one, and dies with it. */
  readonly parent_credential_id?: Id<"credential"> | undefined;
  /** What may be minted from the new one. Absent: nothing. */
  readonly delegation?: Delegation | undefined;
}
