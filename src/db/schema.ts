import type { ColumnType, Generated } from "kysely";
import type { Reason } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

/** Set by the database or by `withTenant`; never by hand. */
type Json<Type> = ColumnType<Type, string, string>;
type Time = ColumnType<Date, Date | string, Date | string>;
type SetOnce<Type> = ColumnType<Type, Type, never>;

interface Versioned {
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

interface Tenants extends Versioned {
  id: SetOnce<Id<"tenant">>;
  name: SetOnce<string>;
  display_name: string;
  state: Generated<"active" | "suspended">;
}

interface Teams extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"team">>;
  name: string;
}

interface Owners extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"owner">>;
  kind: SetOnce<"human" | "team">;
  name: string;
  email: string | null;
  subject: string | null;
  team_id: Id<"team"> | null;
  status: Generated<"active" | "departed">;
  departed_at: Time | null;
}

interface Agents extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"agent">>;
  kind: SetOnce<"agent" | "model" | "connector" | "service_account" | "secret_issuer">;
  name: string;
  description: Generated<string>;
  owner_id: Id<"owner">;
  environment: string;
  state: Generated<AgentState>;
  bearer_ttl_seconds: number | null;
}
export type AgentState = "proposed" | "active" | "suspended" | "quarantined" | "retired";

interface TrustSources extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"trustSource">>;
  name: string;
  kind: SetOnce<string>;
  issuer: SetOnce<string>;
  settings: Json<Record<string, unknown>>;
  state: Generated<"active" | "disabled">;
}

interface Identities extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"identity">>;
  trust_source_id: SetOnce<Id<"trustSource">>;
  agent_id: SetOnce<Id<"agent">>;
  anchor_claim: string;
  anchor_value: string;
  conditions: Json<unknown[]>;
}

interface Resources extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"resource">>;
  name: string;
  kind: string;
  description: Generated<string>;
  owner_id: Id<"owner">;
  classification: string;
  environment: string;
  risk: string;
  groups: Generated<string[]>;
  operations: Json<Record<string, string>>;
}

interface Relationships extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"relationship">>;
  subject: string;
  relation: string;
  object: string;
}

interface Purposes extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"purpose">>;
  agent_id: SetOnce<Id<"agent">>;
  name: string;
  description: string;
  actions: string[];
  resource_ids: string[];
  data_classes: string[];
  environments: string[];
  max_ttl_seconds: number;
  state: Generated<"proposed" | "approved" | "retired">;
  reviewer_id: Id<"owner">;
  review_by: Time;
  expires_at: Time;
  proposed_by: string;
  approved_by: string | null;
  approved_at: Time | null;
}

interface Targets extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"target">>;
  name: string;
  issuer: SetOnce<string>;
  owner_id: Id<"owner">;
  /** Without its secrets; `config_sealed` has all of it. */
  config: Json<Record<string, unknown>>;
  config_sealed: Buffer;
  max_ttl_seconds: number;
  stuck_limit: Generated<number>;
  state: Generated<TargetState>;
  canary: Json<Record<string, unknown>>;
  canary_at: Time | null;
  canary_name: string | null;
  reconciled_at: Time | null;
}
export type TargetState = "active" | "suspended" | "quarantined" | "retired";

interface TargetResources {
  tenant_id: SetOnce<Id<"tenant">>;
  target_id: SetOnce<Id<"target">>;
  resource_id: SetOnce<Id<"resource">>;
  access: Json<Record<string, unknown>>;
}

interface PolicySets extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"policySet">>;
  policy_version: SetOnce<number>;
  text: SetOnce<string>;
  text_hash: SetOnce<string>;
  note: Generated<string>;
  active: boolean;
  published_by: SetOnce<string>;
}

interface SigningKeys extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  kid: SetOnce<string>;
  purpose: SetOnce<"access_token" | "admin_token" | "introspection" | "status_list">;
  algorithm: SetOnce<"ES256">;
  public_jwk: Json<Record<string, string>>;
  /** While the key may sign or is about to. */
  private_sealed: Buffer | null;
  state: "pending" | "active" | "retiring" | "gone" | "compromised";
  activated_at: Time | null;
  retired_at: Time | null;
  published_until: Time | null;
  ended_at: Time | null;
  reason: string | null;
}

interface Tasks extends Versioned {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"task">>;
  agent_id: SetOnce<Id<"agent">>;
  purpose_id: SetOnce<Id<"purpose">>;
  state: Generated<"open" | "paused" | "ended">;
  outcome: TaskOutcome | null;
  objective: SetOnce<string>;
  initiated_by: Json<{ kind: "human" | "system"; id: string }>;
  opened_by: SetOnce<string>;
  ended_by: string | null;
  ended_at: Time | null;
  deadline: Time;
  heartbeat_seconds: number | null;
  max_credentials: number | null;
  max_per_minute: number | null;
  max_live_seconds: number | null;
}
export type TaskOutcome = "completed" | "failed" | "cancelled" | "deadline" | "heartbeat_lost" | "deviation" | "killed";

interface TaskMeters {
  tenant_id: SetOnce<Id<"tenant">>;
  task_id: SetOnce<Id<"task">>;
  heartbeat_at: Generated<Date>;
  heartbeat_due_at: Time | null;
  issued: Generated<number>;
  issued_live_seconds: Generated<string>;
  minute_starts_at: Generated<Date>;
  issued_in_minute: Generated<number>;
}

interface Decisions {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"decision">>;
  agent_id: Id<"agent"> | null;
  task_id: Id<"task"> | null;
  outcome: "allow" | "deny" | "allow_if";
  policy_version: number;
  determining: string[];
  reasons: Json<Reason[]>;
  input: Json<Record<string, unknown>>;
  input_hash: string;
  decided_at: Generated<Date>;
}

interface Credentials {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"credential">>;
  agent_id: SetOnce<Id<"agent">>;
  owner_id: SetOnce<Id<"owner">>;
  identity_id: SetOnce<Id<"identity"> | null>;
  task_id: SetOnce<Id<"task">>;
  purpose_id: SetOnce<Id<"purpose">>;
  target_id: SetOnce<Id<"target">>;
  decision_id: SetOnce<Id<"decision">>;
  issuer: SetOnce<string>;
  self_contained: SetOnce<boolean>;
  revocability: SetOnce<"immediate" | "expiry">;
  environment: SetOnce<string>;
  data_class: SetOnce<string>;
  binding: SetOnce<string>;
  confirmation: ColumnType<Record<string, string> | null, string | null, never>;
  parent_id: SetOnce<Id<"credential"> | null>;
  ancestors: SetOnce<Id<"credential">[] | null>;
  delegation: ColumnType<unknown, string | null, never>;
  signing_kid: SetOnce<string | null>;
  status_list: SetOnce<string | null>;
  status_index: SetOnce<number | null>;
  actions: SetOnce<string[]>;
  resource_ids: SetOnce<Id<"resource">[]>;
  access: ColumnType<unknown, string, never>;
  requested_ttl_seconds: SetOnce<number>;
  ttl_seconds: SetOnce<number>;
  ttl_bound: SetOnce<string>;
  downstream_name: SetOnce<string | null>;
  handle_sealed: Buffer | null;
  requested_by: SetOnce<string>;
  request_id: SetOnce<string | null>;
  created_at: Generated<Date>;
  create_by: Time;
  expires_at: Time;
  state: CredentialState;
  state_at: Generated<Date>;
  state_by: string;
  state_reason: string;
  due_at: Time | null;
  activated_at: Time | null;
  revoking_at: Time | null;
  ended_at: Time | null;
  stuck: Generated<boolean>;
  attempts: Generated<number>;
  last_error: string | null;
  receipt: Json<Record<string, unknown>> | null;
  revocation_id: Id<"revocation"> | null;
}
export type CredentialState = "pending" | "active" | "revoking" | "revoked" | "expired" | "failed";

interface Revocations {
  tenant_id: SetOnce<Id<"tenant">>;
  id: SetOnce<Id<"revocation">>;
  selector: Json<Record<string, unknown>>;
  reason: SetOnce<string>;
  ordered_by: SetOnce<string>;
  ordered_at: Generated<Date>;
  blocks_until: Time;
  matched: SetOnce<number>;
}

interface Uses {
  tenant_id: SetOnce<Id<"tenant">>;
  id: Generated<Id<"use">>;
  credential_id: SetOnce<Id<"credential">>;
  agent_id: SetOnce<Id<"agent">>;
  task_id: SetOnce<Id<"task">>;
  action: SetOnce<string>;
  resource: SetOnce<string>;
  outcome: SetOnce<"allowed" | "refused">;
  at: SetOnce<Date>;
  after_end: SetOnce<boolean>;
  reported_by: SetOnce<string>;
  request_id: SetOnce<string | null>;
  recorded_at: Generated<Date>;
}

interface AuditEvents {
  tenant_id: SetOnce<Id<"tenant">>;
  id: Generated<string>;
  type: string;
  actor: string;
  subject_id: string | null;
  agent_id: string | null;
  task_id: string | null;
  credential_id: string | null;
  data: Json<Record<string, unknown>>;
  request_id: string | null;
  recorded_at: Generated<Date>;
}

interface IdempotencyKeys {
  tenant_id: SetOnce<string>;
  subject: SetOnce<string>;
  route: SetOnce<string>;
  key: SetOnce<string>;
  fingerprint: string;
  state: "running" | "done";
  status: number | null;
  reply: Json<unknown> | null;
  credential_id: string | null;
  locked_until: Time | null;
  created_at: Generated<Date>;
}

/** Every table that the product reads or writes through Kysely; test/db/schema.test.ts holds it equal to the migrations. */
export interface Database {
  tenants: Tenants;
  teams: Teams;
  owners: Owners;
  agents: Agents;
  trust_sources: TrustSources;
  identities: Identities;
  resources: Resources;
  relationships: Relationships;
  purposes: Purposes;
  targets: Targets;
  target_resources: TargetResources;
  policy_sets: PolicySets;
  signing_keys: SigningKeys;
  tasks: Tasks;
  task_meters: TaskMeters;
  decisions: Decisions;
  credentials: Credentials;
  revocations: Revocations;
  uses: Uses;
  audit_events: AuditEvents;
  idempotency_keys: IdempotencyKeys;
}
