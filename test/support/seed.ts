import type { Broker } from "../../src/broker.ts";
import type { Tx } from "../../src/db/database.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { ensureDefaultPolicies } from "../../src/policy/publish-policies.ts";
import { targetSealContext } from "../../src/targets/target-clients.ts";
import type { Workload } from "./workload.ts";

const DEFAULT_TENANT = "ten_00000000000070008000000000000001" as Id<"tenant">;

/** The rows that a mint needs, real and sane: an owner, an agent with an identity, a purpose, resources and a JWT target. */
export interface Seeded {
  readonly tenantId: Id<"tenant">;
  readonly ownerId: Id<"owner">;
  readonly agentId: Id<"agent">;
  readonly trustSourceId: Id<"trustSource">;
  readonly identityId: Id<"identity">;
  readonly purposeId: Id<"purpose">;
  /** `tickets`: internal, staging, low risk, offers read and write. */
  readonly resourceId: Id<"resource">;
  readonly targetId: Id<"target">;
  /** The `sub` that the agent's tokens carry; `orchestrator`, `admin` … are the subs that roles are mapped to. */
  readonly agentSub: string;
}

/** The `sub`s that the trust source maps to the role of the same name. */
const staff = ["orchestrator", "admin", "auditor", "approver"] as const;

export interface SeedOptions {
  readonly tenantId?: Id<"tenant">;
  readonly agentSub?: string;
  readonly environment?: string;
}

/** Registers everything in one transaction, straight in SQL: tests of the registry's own endpoints are elsewhere. */
export async function seed(broker: Broker, idp: Workload, options: SeedOptions = {}): Promise<Seeded> {
  const tenantId = options.tenantId ?? DEFAULT_TENANT;
  const agentSub = options.agentSub ?? "agent-1";
  await ensureDefaultPolicies(broker.db, tenantId);
  return broker.db.withTenant({ tenantId, actor: "test" }, async (tx) => {
    const ownerId = newId("owner");
    await tx
      .insertInto("owners")
      .values({ tenant_id: tenantId, id: ownerId, kind: "human", name: `owner-${ownerId.slice(-8)}` })
      .execute();
    const trustSourceId = await aTrustSource(tx, tenantId, idp);
    const agentId = await anAgent(tx, { tenantId, ownerId, environment: options.environment ?? "staging" });
    const identityId = newId("identity");
    await tx
      .insertInto("identities")
      .values({
        tenant_id: tenantId,
        id: identityId,
        trust_source_id: trustSourceId,
        agent_id: agentId,
        anchor_claim: "sub",
        anchor_value: agentSub,
        conditions: "[]",
      })
      .execute();
    const resourceId = await aResource(tx, { tenantId, ownerId, name: "tickets" });
    const purposeId = await aPurpose(tx, { tenantId, agentId, ownerId, resourceIds: [resourceId] });
    const targetId = await aTarget(tx, broker, {
      tenantId,
      ownerId,
      name: "tickets-api",
      issuer: "jwt",
      config: { audience: "https://tickets.test/api" },
      resources: { [resourceId]: { read: {}, write: {} } },
    });
    return { tenantId, ownerId, agentId, trustSourceId, identityId, purposeId, resourceId, targetId, agentSub };
  });
}

async function aTrustSource(tx: Tx, tenantId: Id<"tenant">, idp: Workload): Promise<Id<"trustSource">> {
  const id = newId("trustSource");
  await tx
    .insertInto("trust_sources")
    .values({
      tenant_id: tenantId,
      id,
      name: `idp-${id.slice(-8)}`,
      kind: "key_set",
      issuer: idp.issuer,
      settings: JSON.stringify({
        jwks: idp.jwks,
        algorithms: ["ES256"],
        single_use: false,
        role_mappings: staff.map((role) => ({ when: [{ claim: "sub", equals: role }], roles: [role] })),
      }),
    })
    .execute();
  return id;
}

/** What an agent is made of. */
interface AgentSeed {
  readonly tenantId: Id<"tenant">;
  readonly ownerId: Id<"owner">;
  readonly environment?: string;
  readonly state?: "active" | "proposed";
  /** Null: its tokens must be bound, as everybody's are who has no exception. */
  readonly bearerTtlSeconds?: number | null;
}

/** The row of an agent, for those who insert many at a time. */
export function agentRow(values: AgentSeed) {
  const id = newId("agent");
  return {
    tenant_id: values.tenantId,
    id,
    kind: "agent" as const,
    name: `agent-${id.slice(-12)}`,
    owner_id: values.ownerId,
    environment: values.environment ?? "staging",
    state: values.state ?? ("active" as const),
    bearer_ttl_seconds: values.bearerTtlSeconds === undefined ? 3600 : values.bearerTtlSeconds,
  };
}

export async function anAgent(tx: Tx, values: AgentSeed): Promise<Id<"agent">> {
  const row = agentRow(values);
  await tx.insertInto("agents").values(row).execute();
  return row.id;
}

export async function aResource(
  tx: Tx,
  values: {
    tenantId: Id<"tenant">;
    ownerId: Id<"owner">;
    name: string;
    classification?: string;
    environment?: string;
    risk?: string;
    operations?: object;
  },
): Promise<Id<"resource">> {
  const id = newId("resource");
  await tx
    .insertInto("resources")
    .values({
      tenant_id: values.tenantId,
      id,
      name: values.name,
      kind: "dataset",
      owner_id: values.ownerId,
      classification: values.classification ?? "internal",
      environment: values.environment ?? "staging",
      risk: values.risk ?? "low",
      operations: JSON.stringify(values.operations ?? { read: "read", write: "write" }),
    })
    .execute();
  return id;
}

/** What a purpose is made of. */
interface PurposeSeed {
  readonly tenantId: Id<"tenant">;
  readonly agentId: Id<"agent">;
  readonly ownerId: Id<"owner">;
  readonly resourceIds: Id<"resource">[];
  readonly maxTtlSeconds?: number;
}

/** The row of a purpose, for those who insert many at a time. */
export function purposeRow(values: PurposeSeed) {
  const id = newId("purpose");
  const inAYear = new Date(Date.now() + 300 * 86_400_000);
  return {
    tenant_id: values.tenantId,
    id,
    agent_id: values.agentId,
    name: `purpose-${id.slice(-12)}`,
    description: "Triage tickets",
    actions: ["read", "write"],
    resource_ids: values.resourceIds,
    data_classes: ["public", "internal", "confidential", "restricted"],
    environments: ["staging", "development", "production"],
    max_ttl_seconds: values.maxTtlSeconds ?? 3600,
    state: "approved" as const,
    reviewer_id: values.ownerId,
    review_by: inAYear,
    expires_at: inAYear,
    proposed_by: "alice",
    approved_by: "bob",
    approved_at: new Date(),
  };
}

async function aPurpose(tx: Tx, values: PurposeSeed): Promise<Id<"purpose">> {
  const row = purposeRow(values);
  await tx.insertInto("purposes").values(row).execute();
  return row.id;
}

export async function aTarget(
  tx: Tx,
  broker: Broker,
  values: {
    tenantId: Id<"tenant">;
    ownerId: Id<"owner">;
    name: string;
    issuer: string;
    config: object;
    resources: Readonly<Record<string, object>>;
  },
): Promise<Id<"target">> {
  const id = newId("target");
  await tx
    .insertInto("targets")
    .values({
      tenant_id: values.tenantId,
      id,
      name: values.name,
      issuer: values.issuer,
      owner_id: values.ownerId,
      // As registering does: without what is secret, and nothing of a JWT target is.
      config: values.issuer === "jwt" ? JSON.stringify(values.config) : "{}",
      config_sealed: broker.targetConfigs.seal(JSON.stringify(values.config), targetSealContext(values.tenantId, id)),
      max_ttl_seconds: 3600,
      canary: JSON.stringify({ state: "passed" }),
    })
    .execute();
  for (const [resourceId, access] of Object.entries(values.resources))
    await tx
      .insertInto("target_resources")
      .values({
        tenant_id: values.tenantId,
        target_id: id,
        resource_id: resourceId as Id<"resource">,
        access: JSON.stringify(access),
      })
      .execute();
  return id;
}
