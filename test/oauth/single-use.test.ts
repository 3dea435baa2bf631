import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { Pool } from "undici";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { newId } from "../../src/lib/ids.ts";
import { type Fleet, startFleet } from "../support/fleet.ts";
import { type RegisteredClient, registerClient } from "./harness.ts";

const ROUNDS = 1_000;
const AT_ONCE = 50;
const FORM = "application/x-www-form-urlencoded";

let fleet: Fleet;
let apis: readonly Pool[];
let client: RegisteredClient;
let issuer: string;

// Two API processes: what they share is Postgres and nothing else.
beforeAll(async () => {
  fleet = await startFleet();
  client = await registerClient(fleet, fleet.seeded, "reporter");
  issuer = fleet.broker.issuerUrl("default");
  const started = [await fleet.start("api"), await fleet.start("api")];
  apis = started.map(
    ({ ready }) => new Pool(`http://127.0.0.1:${String(ready["port"])}`, { connections: AT_ONCE / 2 }),
  );
});
afterAll(async () => {
  await Promise.all(apis.map((api) => api.close()));
  await fleet[Symbol.asyncDispose]();
});

interface Sent {
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string;
}
interface Answered {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly nonce: string | undefined;
}

async function post(api: Pool, { path, headers, body }: Sent): Promise<Answered> {
  const answer = await api.request({ method: "POST", path, headers, body });
  const text = await answer.body.text();
  const nonce = answer.headers["dpop-nonce"];
  return {
    status: answer.statusCode,
    body: text === "" ? {} : JSON.parse(text),
    nonce: typeof nonce === "string" ? nonce : undefined,
  };
}

/** The same request from fifty at the same moment, half of them at each process. */
const rush = (sent: Sent): Promise<Answered[]> =>
  Promise.all(Array.from({ length: AT_ONCE }, (_, index) => post(apis[index % 2] as Pool, sent)));

function expectOneOf(answers: readonly Answered[], won: number, lost: readonly number[]): Answered {
  const winners = answers.filter(({ status }) => status === won);
  const others = answers.filter(({ status }) => status !== won && !lost.includes(status));
  if (winners.length !== 1 || others.length > 0)
    throw new Error(`${winners.length} were let in, and ${JSON.stringify(others.slice(0, 3))}`);
  return winners[0] as Answered;
}

async function assertion(): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const { clientId: name } = client;
  return new SignJWT({ iss: name, sub: name, aud: issuer, iat: now, exp: now + 60, jti: randomUUID() })
    .setProtectedHeader({ alg: "ES256", kid: client.kid })
    .sign(client.privateKey);
}

describe(`single use, ${AT_ONCE} at the same moment over two processes, ${ROUNDS} rounds`, () => {
  test("T-3.3: a client assertion works once", async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const body = new URLSearchParams({
        token: "no token",
        client_assertion: await assertion(),
        client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      }).toString();
      // 429: an address that fails so often is heard less.
      expectOneOf(await rush({ path: "/oauth/introspect", headers: { "content-type": FORM }, body }), 200, [401, 429]);
    }
  }, 900_000);

  test("a DPoP proof works once", async () => {
    const { privateKey, publicKey } = await generateKeyPair("ES256");
    const jwk = await exportJWK(publicKey);
    const taskId = newId("task");
    await fleet.sql(
      `insert into mayfly.tasks (tenant_id, id, agent_id, purpose_id, objective, initiated_by, opened_by, deadline)
       values ($1, $2, $3, $4, 'prove', '{"kind":"system","id":"test"}', 'test', now() + interval '1 hour')`,
      [fleet.seeded.tenantId, taskId, fleet.seeded.agentId, fleet.seeded.purposeId],
    );
    await fleet.sql(`insert into mayfly.task_meters (tenant_id, task_id) values ($1, $2)`, [
      fleet.seeded.tenantId,
      taskId,
    ]);
    const body = new URLSearchParams({
      grant_type: "client_credentials",
      resource: "https://tickets.test/api",
      authorization_details: JSON.stringify([
        { type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"] },
      ]),
    }).toString();
    const token = await fleet.idp.token(issuer, { sub: fleet.seeded.agentSub });
    let nonce: string | undefined;
    const sent = async (): Promise<Sent> => {
      const dpop = await new SignJWT({
        jti: randomUUID(),
        htm: "POST",
        htu: `${fleet.broker.publicUrl()}/oauth/token`,
        nonce,
      })
        .setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk })
        .setIssuedAt()
        .sign(privateKey);
      return { path: "/oauth/token", headers: { authorization: `Bearer ${token}`, "content-type": FORM, dpop }, body };
    };
    ({ nonce } = await post(apis[0] as Pool, await sent()));
    for (let round = 0; round < ROUNDS; round += 1) ({ nonce } = expectOneOf(await rush(await sent()), 200, [400]));
    const [row] = await fleet.sql("select count(*)::int as n from mayfly.credentials where task_id = $1", [taskId]);
    expect(row).toEqual({ n: ROUNDS });
  }, 900_000);

  test("an Idempotency-Key has one effect", async () => {
    const token = await fleet.idp.token(issuer, { sub: "orchestrator" });
    const deadline = new Date(Date.now() + 3_600_000).toISOString();
    for (let round = 0; round < ROUNDS; round += 1) {
      const objective = `round ${round}`;
      const answers = await rush({
        path: "/v1/tasks",
        headers: {
          authorization: `Bearer ${token}`,
          "content-type": "application/json",
          "idempotency-key": randomUUID(),
        },
        body: JSON.stringify({
          agent_id: fleet.seeded.agentId,
          purpose_id: fleet.seeded.purposeId,
          objective,
          initiated_by: { kind: "system", id: "test" },
          deadline,
        }),
      });
      // Who comes while it is done waits his turn (409); who comes after it gets the same answer.
      const done = answers.filter(({ status }) => status === 201);
      if (done.length === 0 || answers.some(({ status }) => status !== 201 && status !== 409))
        throw new Error(JSON.stringify(answers.map(({ status }) => status)));
      if (new Set(done.map(({ body }) => body["id"])).size !== 1) throw new Error("two answers for one key");
    }
    const [row] = await fleet.sql("select count(*)::int as n from mayfly.tasks where objective like 'round %'");
    expect(row).toEqual({ n: ROUNDS });
  }, 900_000);
});
