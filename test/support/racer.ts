import { sql } from "kysely";
import type { Tx } from "../../src/db/database.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import type { App } from "./app.ts";
import { anAgent, aPurpose, type Seeded } from "./seed.ts";

/** An agent with everything that it needs to mint for a task of its own. */
export interface Racer {
  readonly agentId: Id<"agent">;
  readonly ownerId: Id<"owner">;
  readonly identityId: Id<"identity">;
  readonly purposeId: Id<"purpose">;
  readonly taskId: Id<"task">;
  readonly token: string;
}

/** What of its task is not as usual. */
export interface RacerOptions {
  readonly maxCredentials?: number;
  readonly bearerTtlSeconds?: number | null;
}

/** An agent of its own with an owner, an identity, a purpose and an open task, in one transaction. */
export async function aRacer(
  app: Pick<App, "broker" | "token">,
  s: Seeded,
  options: RacerOptions = {},
): Promise<Racer> {
  const [racer] = await someRacers(app, s, 1, options);
  return racer as Racer;
}

/** So many of them, in one transaction: the registry changes once. */
export async function someRacers(
  app: Pick<App, "broker" | "token">,
  s: Seeded,
  count: number,
  options: RacerOptions = {},
): Promise<Racer[]> {
  const made = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, async (tx) => {
    const racers = [];
    for (let index = 0; index < count; index += 1) racers.push(await insertRacer(tx, s, options));
    return racers;
  });
  return Promise.all(made.map(async ({ sub, ...ids }) => ({ ...ids, token: await app.token({ sub }) })));
}

async function insertRacer(tx: Tx, s: Seeded, options: RacerOptions) {
  const { tenantId } = s;
  const sub = `racer-${newId("agent")}`;
  const ownerId = newId("owner");
  await tx
    .insertInto("owners")
    .values({ tenant_id: tenantId, id: ownerId, kind: "human", name: `o-${ownerId}` })
    .execute();
  const agentId = await anAgent(tx, {
    tenantId,
    ownerId,
    ...(options.bearerTtlSeconds === undefined ? {} : { bearerTtlSeconds: options.bearerTtlSeconds }),
  });
  const identityId = newId("identity");
  await tx
    .insertInto("identities")
    .values({
      tenant_id: tenantId,
      id: identityId,
      trust_source_id: s.trustSourceId,
      agent_id: agentId,
      anchor_claim: "sub",
      anchor_value: sub,
      conditions: "[]",
    })
    .execute();
  const purposeId = await aPurpose(tx, { tenantId, agentId, ownerId: s.ownerId, resourceIds: [s.resourceId] });
  const taskId = newId("task");
  await tx
    .insertInto("tasks")
    .values({
      tenant_id: tenantId,
      id: taskId,
      agent_id: agentId,
      purpose_id: purposeId,
      objective: "race",
      initiated_by: JSON.stringify({ kind: "system", id: "test" }),
      opened_by: "test",
      max_credentials: options.maxCredentials ?? null,
      deadline: sql`now() + interval '1 hour'` as never,
    })
    .execute();
  await tx.insertInto("task_meters").values({ tenant_id: tenantId, task_id: taskId, heartbeat_due_at: null }).execute();
  return { agentId, ownerId, identityId, purposeId, taskId, sub };
}
