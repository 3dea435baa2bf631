import pg from "pg";
import { newId } from "../../src/lib/ids.ts";
import { until } from "../support/until.ts";
import { anActiveAgent, anApprovedPurpose, aTarget, aTask, bodies, fresh } from "./builders.ts";
import { DEFAULT_TENANT, type Registry } from "./harness.ts";

/** Everything that one mint hangs on, made by the API, but for the task. */
export interface Chain {
  readonly tenantId: string;
  readonly ownerId: string;
  readonly targetOwnerId: string;
  readonly agentId: string;
  readonly trustSourceId: string;
  readonly identityId: string;
  readonly purposeId: string;
  readonly resourceId: string;
  readonly targetId: string;
  readonly taskId: string;
}

export async function aChain(r: Registry): Promise<Chain> {
  const ownerId = await r.make("/v1/owners", await bodies.owner());
  const targetOwnerId = await r.make("/v1/owners", await bodies.owner());
  const agentId = await anActiveAgent(r, { owner_id: ownerId });
  const trustSourceId = await r.make("/v1/trust-sources", await bodies.trustSource());
  const identityId = await r.make("/v1/identities", {
    trust_source_id: trustSourceId,
    agent_id: agentId,
    anchor_claim: "sub",
    anchor_value: fresh("workload"),
  });
  const resourceId = await r.make("/v1/resources", await bodies.resource(r));
  const purposeId = await anApprovedPurpose(r, { agent_id: agentId, resource_ids: [resourceId] });
  const targetId = await aTarget(r, {
    owner_id: targetOwnerId,
    resources: [{ resource: resourceId, access: { read: {}, write: {} } }],
  });
  await r.sql(
    `insert into policy_sets (tenant_id, id, policy_version, text, text_hash, active, published_by)
     values ($1, $2, 1, '', '', true, 'test') on conflict do nothing`,
    [DEFAULT_TENANT, newId("policySet")],
  );
  const taskId = await aTask(r, agentId, purposeId);
  return {
    tenantId: DEFAULT_TENANT,
    ownerId,
    targetOwnerId,
    agentId,
    trustSourceId,
    identityId,
    purposeId,
    resourceId,
    targetId,
    taskId,
  };
}

/** A mint whose intent is written and not yet committed: what every withdrawal must wait for and then take back. */
export interface MintInFlight extends AsyncDisposable {
  readonly credentialId: string;
  readonly outcome: string;
  commit(): Promise<void>;
}

/** What the registry is at now: a mint that reads its facts does so under this. */
export async function generationOf(r: Registry, { tenantId }: Chain): Promise<number> {
  const [now] = await r.sql<{ generation: string }>("select generation from generations where tenant_id = $1", [
    tenantId,
  ]);
  return Number(now?.generation);
}

/** Runs the very function that mints run, in a transaction that stays open, on facts of this generation or of now. */
export async function mintInFlight(
  r: Registry,
  chain: Chain,
  generation?: number,
  changes: object = {},
): Promise<MintInFlight> {
  const client = new pg.Client({ connectionString: r.runtimeUrl, options: "-c search_path=mayfly" });
  client.on("error", () => undefined);
  await client.connect();
  await client.query("begin");
  const id = newId("credential");
  const item = {
    id,
    agent_id: chain.agentId,
    owner_id: chain.ownerId,
    identity_id: chain.identityId,
    task_id: chain.taskId,
    purpose_id: chain.purposeId,
    target_id: chain.targetId,
    generation: generation ?? (await generationOf(r, chain)),
    facts_until_ms: Date.now() + 3_600_000,
    policy_version: 1,
    issuer: "postgres",
    self_contained: false,
    revocability: "immediate",
    environment: "staging",
    data_class: "internal",
    binding: "bearer",
    actions: ["read"],
    resource_ids: [chain.resourceId],
    access: [{}],
    requested_ttl_seconds: 300,
    ttl_seconds: 300,
    ttl_bound: "request",
    downstream_name: `mfy_${id}`,
    handle_sealed: "AAAA",
    requested_by: chain.agentId,
    request_id: "race",
    create_within_ms: 60_000,
    expires_ms: Date.now() + 300_000,
    decision_id: newId("decision"),
    determining: [],
    reasons: [],
    input: {},
    input_hash: "",
    ...changes,
  };
  const { rows } = await client.query("select outcome from mint_commit($1, $2)", [
    chain.tenantId,
    JSON.stringify([item]),
  ]);
  return {
    credentialId: id,
    outcome: rows[0].outcome,
    commit: async () => {
      await client.query("commit");
    },
    [Symbol.asyncDispose]: () => client.end(),
  };
}

/** Waits until something in this database waits for a lock. */
export async function someoneWaits(r: Registry): Promise<void> {
  await until("a statement that waits for a lock", async () => {
    const rows = await r.sql(
      "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    return rows.length > 0;
  });
}
