import { generateKeyPairSync, randomBytes } from "node:crypto";
import pg from "pg";
import { type Broker, openBroker } from "../../src/broker.ts";
import { loadConfig } from "../../src/config.ts";
import type { Tx } from "../../src/db/database.ts";
import { adminSetupSql } from "../../src/issuers/postgres-admin.ts";
import { scramVerifier } from "../../src/issuers/scram.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { Secret } from "../../src/lib/secret.ts";
import { targetSealContext } from "../../src/targets/target-clients.ts";
import type { ClientKeys } from "./clients.ts";
import type { SigningParty } from "./requests.ts";
import type { Server } from "./server.ts";

const TENANT = "ten_00000000000070008000000000000001" as Id<"tenant">;
const API_AUDIENCE = "https://tickets.bench/api";
const AGENTS = 16;
/** Rows beside the ones that are used: a registry of sixteen agents would fit into one page and flatter every plan. */
const BYSTANDERS = 500;
const IN_A_YEAR = new Date(Date.now() + 300 * 86_400_000);

/** The rows that the benchmarks need, as an admin would have made them. */
export interface Seeded {
  /** `iss` of the callers' tokens, and who signs them. */
  readonly issuer: string;
  readonly workload: SigningParty;
  /** What they must say in `aud`. */
  readonly audience: string;
  /** Agents with an open task each, under budgets that are counted and never reached. */
  readonly callers: readonly {
    readonly sub: string;
    readonly taskId: Id<"task">;
    readonly agentId: Id<"agent">;
    readonly purposeId: Id<"purpose">;
  }[];
  /** `sub` of a tool that serves the JWT target, and of an orchestrator. */
  readonly toolSub: string;
  readonly orchestratorSub: string;
  readonly resource: string;
  /** The audience of the JWT target. */
  readonly apiAudience: string;
  readonly targets: { readonly jwt: Id<"target">; readonly postgres: Id<"target"> };
  /** As many as were asked for, the one above first: the same database under a prefix each. */
  readonly postgresTargets: readonly Id<"target">[];
  /** The role as which Mayfly works at the Postgres target. */
  readonly downstream: { readonly admin: string };
  /** The superuser of the server's PostgreSQL, which sees what row-level security would hide, and which plays the far side too. */
  readonly superuserUrl: string;
  readonly ledgerUrl: string;
}

export interface SeedOptions {
  /** When the purposes of all callers but the first expire, so that their credentials end in the same moment. Default: in a year. */
  readonly endsAt?: Date;
  /** Callers' tokens are accepted once. */
  readonly singleUse?: boolean;
  readonly postgresTargets?: number;
  /** OAuth clients: the first is the first caller's, and so on. */
  readonly clients?: readonly ClientKeys[];
}

/** Fills a new deployment through the product's own code. */
export async function seed(
  server: Server,
  { endsAt = IN_A_YEAR, singleUse = false, postgresTargets = 1, clients = [] }: SeedOptions = {},
): Promise<Seeded> {
  await using broker = await openBroker(loadConfig({ ...server.env }), createLog("error"));
  const { superuserUrl } = broker.stack;
  if (superuserUrl === undefined) throw new Error("the benchmarks run on the embedded PostgreSQL");
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const workload = { jwk: privateKey.export({ format: "jwk" }), kid: "workload-1" };
  const jwk = { ...publicKey.export({ format: "jwk" }), kid: workload.kid, alg: "ES256", use: "sig" };
  const downstream = await makeDownstream(superuserUrl);
  const issuer = "https://workloads.bench";
  const rows = await broker.db.withTenant({ tenantId: TENANT, actor: "bench" }, async (tx) => {
    const owner = await anOwner(tx, "owner");
    const trustSource = await aTrustSource(tx, { issuer, jwk, singleUse });
    const resource = await aResource(tx, owner, "tickets");
    const jwt = await aTarget(tx, broker, {
      name: "tickets-jwt",
      owner,
      resource,
      issuer: "jwt",
      config: { audience: API_AUDIENCE },
      access: { read: {} },
    });
    const inPostgres: Id<"target">[] = [];
    for (let index = 0; index < postgresTargets; index += 1)
      inPostgres.push(
        await aTarget(tx, broker, {
          name: `tickets-postgres-${index}`,
          owner,
          resource,
          issuer: "postgres",
          config: { ...downstream.config, deployment: index === 0 ? "bench" : `bench${index}` },
          access: { read: { roles: [downstream.group] } },
        }),
      );
    const [postgres] = inPostgres;
    if (postgres === undefined) throw new Error("one target of PostgreSQL at least");
    const callers = [];
    for (let index = 0; index < AGENTS; index += 1) {
      const sub = `agent-${index}`;
      const agent = await anAgent(tx, owner, sub, trustSource);
      const client = clients[index];
      if (client !== undefined) await aClient(tx, agent, client);
      const purposeId = await aPurpose(tx, { agent, owner, resource, endsAt: index === 0 ? IN_A_YEAR : endsAt });
      callers.push({ sub, agentId: agent, purposeId, taskId: await aTask(tx, agent, purposeId) });
    }
    const tool = await anAgent(tx, owner, "tickets-tool", trustSource);
    await tx
      .insertInto("relationships")
      .values({ tenant_id: TENANT, id: newId("relationship"), subject: tool, relation: "serves", object: jwt })
      .execute();
    for (let index = 0; index < BYSTANDERS; index += 1) {
      const other = await anOwner(tx, `bystander-owner-${index}`);
      const agent = await anAgent(tx, other, `bystander-${index}`, trustSource);
      const purpose = await aPurpose(tx, {
        agent,
        owner: other,
        resource: await aResource(tx, other, `bystander-${index}`),
        endsAt: IN_A_YEAR,
      });
      await aTask(tx, agent, purpose);
    }
    return { callers, targets: { jwt, postgres }, postgresTargets: inPostgres };
  });
  const ledger = new URL(superuserUrl);
  ledger.pathname = new URL(broker.stack.runtimeUrl).pathname;
  return {
    ...rows,
    issuer,
    workload,
    audience: `${server.url}/t/default`,
    toolSub: "tickets-tool",
    orchestratorSub: "orchestrator",
    resource: "tickets",
    apiAudience: API_AUDIENCE,
    downstream: { admin: downstream.config.user },
    superuserUrl,
    ledgerUrl: ledger.href,
  };
}

/** A database to mint for, in the same server: an admin role as the documentation makes it, and a group to hand out. */
async function makeDownstream(
  superuserUrl: string,
): Promise<{ config: { readonly user: string } & Readonly<Record<string, unknown>>; group: string }> {
  const [database, admin, group, password] = [
    "tickets",
    "mayfly_admin",
    "ticket_readers",
    new Secret(randomBytes(16).toString("hex")),
  ];
  const run = async (name: string, text: string): Promise<void> => {
    const url = new URL(superuserUrl);
    url.pathname = `/${name}`;
    const client = new pg.Client({ connectionString: url.href });
    await client.connect();
    try {
      await client.query(text);
    } finally {
      await client.end();
    }
  };
  await run("postgres", `create database ${database}`);
  await run(
    "postgres",
    `create role ${group}; ${adminSetupSql({ admin, groups: [group], passwordVerifier: await scramVerifier(password) })}`,
  );
  await run(database, `create table tickets (id int primary key, title text); grant select on tickets to ${group}`);
  const { hostname, port } = new URL(superuserUrl);
  return {
    group,
    config: {
      host: hostname,
      port: Number(port),
      database,
      user: admin,
      password: password.reveal(),
      tls: "disable",
    },
  };
}

async function anOwner(tx: Tx, name: string): Promise<Id<"owner">> {
  const id = newId("owner");
  await tx.insertInto("owners").values({ tenant_id: TENANT, id, kind: "human", name }).execute();
  return id;
}

async function aTrustSource(
  tx: Tx,
  { issuer, jwk, singleUse }: { issuer: string; jwk: object; singleUse: boolean },
): Promise<Id<"trustSource">> {
  const id = newId("trustSource");
  const settings = {
    jwks: { keys: [jwk] },
    algorithms: ["ES256"],
    single_use: singleUse,
    role_mappings: [{ when: [{ claim: "sub", equals: "orchestrator" }], roles: ["orchestrator"] }],
  };
  await tx
    .insertInto("trust_sources")
    .values({ tenant_id: TENANT, id, name: issuer, kind: "key_set", issuer, settings: JSON.stringify(settings) })
    .execute();
  return id;
}

/** An agent's registered key: a trust source whose tokens it issues for itself. */
async function aClient(tx: Tx, agent: Id<"agent">, { clientId, publicJwk }: ClientKeys): Promise<void> {
  const trustSource = await aTrustSource(tx, { issuer: clientId, jwk: publicJwk, singleUse: true });
  await anIdentity(tx, agent, clientId, trustSource);
}

async function anAgent(tx: Tx, owner: Id<"owner">, sub: string, trustSource: Id<"trustSource">): Promise<Id<"agent">> {
  const id = newId("agent");
  await tx
    .insertInto("agents")
    .values({
      tenant_id: TENANT,
      id,
      kind: "agent",
      name: sub,
      owner_id: owner,
      environment: "staging",
      state: "active",
      // The mint benchmark's callers are bearers, as the peer's are.
      bearer_ttl_seconds: 3600,
    })
    .execute();
  await anIdentity(tx, id, sub, trustSource);
  return id;
}

async function anIdentity(tx: Tx, agent: Id<"agent">, sub: string, trustSource: Id<"trustSource">): Promise<void> {
  await tx
    .insertInto("identities")
    .values({
      tenant_id: TENANT,
      id: newId("identity"),
      trust_source_id: trustSource,
      agent_id: agent,
      anchor_claim: "sub",
      anchor_value: sub,
      conditions: "[]",
    })
    .execute();
}

async function aResource(tx: Tx, owner: Id<"owner">, name: string): Promise<Id<"resource">> {
  const id = newId("resource");
  await tx
    .insertInto("resources")
    .values({
      tenant_id: TENANT,
      id,
      name,
      kind: "dataset",
      owner_id: owner,
      classification: "internal",
      environment: "staging",
      risk: "low",
      operations: JSON.stringify({ read: "read" }),
    })
    .execute();
  return id;
}

interface PurposeOf {
  readonly agent: Id<"agent">;
  readonly owner: Id<"owner">;
  readonly resource: Id<"resource">;
  readonly endsAt: Date;
}

async function aPurpose(tx: Tx, { agent, owner, resource, endsAt }: PurposeOf): Promise<Id<"purpose">> {
  const id = newId("purpose");
  await tx
    .insertInto("purposes")
    .values({
      tenant_id: TENANT,
      id,
      agent_id: agent,
      name: "triage",
      description: "Triage tickets",
      actions: ["read"],
      resource_ids: [resource],
      data_classes: ["public", "internal"],
      environments: ["staging"],
      max_ttl_seconds: 3600,
      state: "approved",
      reviewer_id: owner,
      review_by: IN_A_YEAR,
      expires_at: endsAt,
      proposed_by: "alice",
      approved_by: "bob",
      approved_at: new Date(),
    })
    .execute();
  return id;
}

async function aTask(tx: Tx, agent: Id<"agent">, purpose: Id<"purpose">): Promise<Id<"task">> {
  const id = newId("task");
  await tx
    .insertInto("tasks")
    .values({
      tenant_id: TENANT,
      id,
      agent_id: agent,
      purpose_id: purpose,
      objective: "Triage what came in",
      initiated_by: JSON.stringify({ kind: "system", id: "bench" }),
      opened_by: "bench",
      deadline: new Date(Date.now() + 86_400_000),
      max_credentials: 1_000_000_000,
      max_per_minute: 1_000_000_000,
      max_live_seconds: 2_000_000_000,
    })
    .execute();
  await tx.insertInto("task_meters").values({ tenant_id: TENANT, task_id: id }).execute();
  return id;
}

async function aTarget(
  tx: Tx,
  broker: Broker,
  values: {
    name: string;
    owner: Id<"owner">;
    resource: Id<"resource">;
    issuer: string;
    config: object;
    access: object;
  },
): Promise<Id<"target">> {
  const id = newId("target");
  await tx
    .insertInto("targets")
    .values({
      tenant_id: TENANT,
      id,
      name: values.name,
      issuer: values.issuer,
      owner_id: values.owner,
      config: values.issuer === "jwt" ? JSON.stringify(values.config) : "{}",
      config_sealed: broker.targetConfigs.seal(JSON.stringify(values.config), targetSealContext(TENANT, id)),
      max_ttl_seconds: 3600,
      canary: JSON.stringify({ state: "passed" }),
    })
    .execute();
  await tx
    .insertInto("target_resources")
    .values({ tenant_id: TENANT, target_id: id, resource_id: values.resource, access: JSON.stringify(values.access) })
    .execute();
  return id;
}
