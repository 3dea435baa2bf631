import { exportJWK, generateKeyPair, type JWK } from "jose";
import type { Broker } from "../../src/broker.ts";
import type { Tx } from "../../src/db/database.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import type { App } from "../support/app.ts";
import type { Seeded } from "../support/seed.ts";

/** A client with a key of its own, registered as OAuth knows them: `iss`, `sub` and `client_id` are one name. */
export interface RegisteredClient {
  readonly clientId: string;
  readonly privateKey: Awaited<ReturnType<typeof generateKeyPair>>["privateKey"];
  readonly kid: string;
}

/** Registers a client as a trust source of one key, and binds it to the seeded agent. */
export async function registerClient(
  app: { readonly broker: Broker },
  s: Seeded,
  clientId: string,
): Promise<RegisteredClient> {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const kid = `${clientId}-key`;
  const jwk: JWK = { ...(await exportJWK(publicKey)), kid, alg: "ES256", use: "sig" };
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, async (tx) => {
    const trustSourceId = newId("trustSource");
    await tx
      .insertInto("trust_sources")
      .values({
        tenant_id: s.tenantId,
        id: trustSourceId,
        name: clientId,
        kind: "key_set",
        issuer: clientId,
        // Not single_use: that an assertion is used once must not hang on it.
        settings: JSON.stringify({ jwks: { keys: [jwk] }, algorithms: ["ES256"], single_use: false }),
      })
      .execute();
    await bind(tx, { tenantId: s.tenantId, trustSourceId, agentId: s.agentId, sub: clientId });
  });
  return { clientId, privateKey, kid };
}

/** The id of a new open task of the seeded agent. */
export async function openTask(app: App, s: Seeded): Promise<string> {
  const { status, body } = await app.call(await app.token({ sub: "orchestrator" }), "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "look at ticket 7",
    initiated_by: { kind: "human", id: "alice" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  if (status !== 201) throw new Error(`no task: ${status}`);
  return body.id;
}

/** Binds a subject of a trust source to an agent. */
export async function bind(
  tx: Tx,
  values: { tenantId: Id<"tenant">; trustSourceId: Id<"trustSource">; agentId: Id<"agent">; sub: string },
): Promise<void> {
  await tx
    .insertInto("identities")
    .values({
      tenant_id: values.tenantId,
      id: newId("identity"),
      trust_source_id: values.trustSourceId,
      agent_id: values.agentId,
      anchor_claim: "sub",
      anchor_value: values.sub,
      conditions: "[]",
    })
    .execute();
}
