import { newId } from "../../src/lib/ids.ts";
import { DEFAULT_TENANT, type Registry } from "./harness.ts";

let counter = 0;

/** A name that nothing else in the file has. */
export function fresh(word: string): string {
  counter += 1;
  return `${word}-${counter}`;
}

/** Bodies that are accepted as they are, with what they refer to made first. */
export const bodies = {
  team: async (_r?: Registry, _who = "admin") => ({ name: fresh("team") }),
  owner: async (_r?: Registry, _who = "admin") => ({ kind: "human", name: fresh("owner"), email: "o@example.com" }),
  agent: async (r: Registry, who = "admin") => ({
    kind: "agent",
    name: fresh("agent"),
    description: "Answers tickets",
    owner_id: await anOwner(r, {}, who),
    environment: "staging",
  }),
  trustSource: async (_r?: Registry, _who = "admin") => ({
    name: fresh("idp"),
    kind: "oidc",
    issuer: `https://${fresh("idp")}.example.com`,
    role_mappings: [{ when: [{ claim: "role", equals: "boss" }], roles: ["admin"] }],
  }),
  identity: async (r: Registry, who = "admin") => ({
    trust_source_id: await r.make("/v1/trust-sources", await bodies.trustSource(), who),
    agent_id: await anAgent(r, {}, who),
    anchor_claim: "sub",
    anchor_value: fresh("workload"),
  }),
  resource: async (r: Registry, who = "admin") => ({
    name: fresh("tickets"),
    kind: "dataset",
    owner_id: await anOwner(r, {}, who),
    classification: "internal",
    environment: "staging",
    risk: "low",
    groups: ["support"],
    operations: { list: "read", close: "write" },
  }),
  relationship: async (r: Registry, who = "admin") => ({
    subject: await anAgent(r, {}, who),
    relation: "works_on",
    object: `ticket:${fresh("JIRA")}`,
  }),
  purpose: async (r: Registry, who = "admin") => ({
    agent_id: await anAgent(r, {}, who),
    name: fresh("triage"),
    description: "Triage of tickets",
    actions: ["read", "close"],
    resource_ids: [await aResource(r, {}, who)],
    data_classes: ["internal"],
    environments: ["staging"],
    max_ttl_seconds: 600,
    reviewer_id: await anOwner(r, {}, who),
    review_by: inDays(30),
    expires_at: inDays(90),
  }),
  target: async (r: Registry, who = "admin") => ({
    name: fresh("api"),
    issuer: "jwt",
    owner_id: await anOwner(r, {}, who),
    config: { audience: `https://${fresh("api")}.example.com` },
    max_ttl_seconds: 900,
    resources: [{ resource: await aResource(r, {}, who), access: { read: {}, write: { scope: ["tickets:write"] } } }],
  }),
} as const;

/** A moment so many days from now, as the wire has it. */
export function inDays(days: number): string {
  return new Date(Date.now() + days * 86_400_000).toISOString();
}

export async function anOwner(r: Registry, changes: object = {}, who = "admin"): Promise<string> {
  return r.make("/v1/owners", { ...(await bodies.owner()), ...changes }, who);
}

export async function anAgent(r: Registry, changes: object = {}, who = "admin"): Promise<string> {
  return r.make("/v1/agents", { ...(await bodies.agent(r, who)), ...changes }, who);
}

export async function anActiveAgent(r: Registry, changes: object = {}): Promise<string> {
  const id = await anAgent(r, changes);
  const got = await r.ask("admin", "POST", `/v1/agents/${id}/state`, { body: { state: "active" } });
  if (got.status !== 200) throw new Error(got.text);
  return id;
}

export async function aResource(r: Registry, changes: object = {}, who = "admin"): Promise<string> {
  return r.make("/v1/resources", { ...(await bodies.resource(r, who)), ...changes }, who);
}

export async function aTarget(r: Registry, changes: object = {}, who = "admin"): Promise<string> {
  return r.make("/v1/targets", { ...(await bodies.target(r, who)), ...changes }, who);
}

/** An approved purpose: proposed by alice, approved by bob. */
export async function anApprovedPurpose(r: Registry, changes: object = {}): Promise<string> {
  const id = await r.make("/v1/purposes", { ...(await bodies.purpose(r)), ...changes }, "orchestrator/alice");
  const got = await r.ask("approver/bob", "POST", `/v1/purposes/${id}/approve`, { ifMatch: '"1"' });
  if (got.status !== 200) throw new Error(got.text);
  return id;
}

/** What a live credential hangs on; what is left out is made. */
export interface Reasons {
  readonly agentId?: string;
  readonly purposeId?: string;
  readonly targetId?: string;
  readonly taskId?: string;
  readonly identityId?: string | null;
  readonly ownerId?: string;
  readonly resourceIds?: readonly string[];
  readonly tenantId?: string;
}

/** An open task, straight in SQL. */
export async function aTask(r: Registry, agentId: string, purposeId: string, tenantId: string = DEFAULT_TENANT) {
  const id = newId("task");
  await r.sql(
    `insert into tasks (tenant_id, id, agent_id, purpose_id, objective, initiated_by, opened_by, deadline)
     values ($1, $2, $3, $4, 'o', '{"kind":"system","id":"t"}', 'test', now() + interval '1 hour')`,
    [tenantId, id, agentId, purposeId],
  );
  await r.sql("insert into task_meters (tenant_id, task_id) values ($1, $2)", [tenantId, id]);
  return id;
}

/** A live credential, straight in SQL: downstream (`active`) unless said otherwise. */
export async function aCredential(r: Registry, reasons: Reasons, selfContained = false): Promise<string> {
  const id = newId("credential");
  const any = (kind: "agent" | "owner" | "task" | "purpose" | "target") => newId(kind);
  await r.sql(
    `insert into credentials (tenant_id, id, agent_id, owner_id, identity_id, task_id, purpose_id, target_id, decision_id,
       issuer, self_contained, revocability, environment, data_class, binding, actions, resource_ids, access,
       requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, create_by, expires_at,
       state, state_by, state_reason, due_at, activated_at, status_list, status_index)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'postgres', $10, 'immediate', 'staging', 'internal', 'bearer', '{read}', $11,
       '[]', 300, 300, 'request', 'mfy', 'x', 'test', now(), now() + interval '5 minutes', 'active', 'test', 'minted',
       now() + interval '5 minutes', now(), $12, $13)`,
    [
      reasons.tenantId ?? DEFAULT_TENANT,
      id,
      reasons.agentId ?? any("agent"),
      reasons.ownerId ?? any("owner"),
      reasons.identityId ?? null,
      reasons.taskId ?? any("task"),
      reasons.purposeId ?? any("purpose"),
      reasons.targetId ?? any("target"),
      newId("decision"),
      selfContained,
      reasons.resourceIds ?? [],
      selfContained ? `stl_${"0".repeat(32)}` : null,
      selfContained ? 0 : null,
    ],
  );
  return id;
}

export async function stateOf(r: Registry, table: string, id: string): Promise<string> {
  const column = table === "owners" ? "status" : "state";
  const [row] = await r.sql<{ state: string }>(`select ${column} as state from ${table} where id = $1`, [id]);
  return row?.state ?? "absent";
}
