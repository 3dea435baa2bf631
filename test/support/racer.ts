import { sql } from "kysely";
import { type Id, newId } from "../../src/lib/ids.ts";
import type { App } from "./app.ts";
import { agentRow, purposeRow, type Seeded } from "./seed.ts";

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

/** So many of them, in one transaction: the registry changes once, and whoever waits for its gate does not wait long. */
export async function someRacers(
  app: Pick<App, "broker" | "token">,
  s: Seeded,
  count: number,
  options: RacerOptions = {},
): Promise<Racer[]> {
  const rows = Array.from({ length: count }, () => rowsOfRacer(s, options));
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, async (tx) => {
    await tx
      .insertInto("owners")
      .values(rows.map(({ owner }) => owner))
      .execute();
    await tx
      .insertInto("agents")
      .values(rows.map(({ agent }) => agent))
      .execute();
    await tx
      .insertInto("identities")
      .values(rows.map(({ identity }) => identity))
      .execute();
    await tx
      .insertInto("purposes")
      .values(rows.map(({ purpose }) => purpose))
      .execute();
    await tx
      .insertInto("tasks")
      .values(rows.map(({ task }) => task))
      .execute();
    await tx
      .insertInto("task_meters")
      .values(rows.map(({ meter }) => meter))
      .execute();
  });
  return Promise.all(
    rows.map(async ({ owner, agent, identity, purpose, task }) => ({
      agentId: agent.id,
      ownerId: owner.id,
      identityId: identity.id,
      purposeId: purpose.id,
      taskId: task.id,
      token: await app.token({ sub: identity.anchor_value }),
    })),
  );
}

function rowsOfRacer(s: Seeded, options: RacerOptions) {
  const tenant_id = s.tenantId;
  const ownerId = newId("owner");
  const agent = agentRow({
    tenantId: tenant_id,
    ownerId,
    ...(options.bearerTtlSeconds === undefined ? {} : { bearerTtlSeconds: options.bearerTtlSeconds }),
  });
  const purpose = purposeRow({
    tenantId: tenant_id,
    agentId: agent.id,
    ownerId: s.ownerId,
    resourceIds: [s.resourceId],
  });
  const taskId = newId("task");
  return {
    owner: { tenant_id, id: ownerId, kind: "human" as const, name: `o-${ownerId}` },
    agent,
    identity: {
      tenant_id,
      id: newId("identity"),
      trust_source_id: s.trustSourceId,
      agent_id: agent.id,
      anchor_claim: "sub",
      anchor_value: `racer-${agent.id}`,
      conditions: "[]",
    },
    purpose,
    task: {
      tenant_id,
      id: taskId,
      agent_id: agent.id,
      purpose_id: purpose.id,
      objective: "race",
      initiated_by: JSON.stringify({ kind: "system", id: "test" }),
      opened_by: "test",
      max_credentials: options.maxCredentials ?? null,
      deadline: sql`now() + interval '1 hour'` as never,
    },
    meter: { tenant_id, task_id: taskId, heartbeat_due_at: null },
  };
}
