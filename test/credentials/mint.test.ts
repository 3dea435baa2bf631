import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

let app: App;
let s: Seeded;
let agent: string;
let orchestrator: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  agent = await app.token({ sub: s.agentSub });
  orchestrator = await app.token({ sub: "orchestrator" });
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

async function anOpenTask(extra: object = {}): Promise<string> {
  const opened = await app.call(orchestrator, "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "look at ticket 7",
    initiated_by: { kind: "human", id: "alice" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
    ...extra,
  });
  expect(opened.status).toBe(201);
  return opened.body.id;
}

const ask = (taskId: string, extra: object = {}) => ({
  task_id: taskId,
  target: "tickets-api",
  actions: ["read"],
  resources: ["tickets"],
  ttl_seconds: 60,
  ...extra,
});

describe("a JWT minted for a task", () => {
  test("is accepted by a verifier that knows only the published keys, and has the shape of RFC 9068", async () => {
    const taskId = await anOpenTask();
    const minted = await app.call(agent, "POST", "/v1/credentials", ask(taskId));
    expect(minted.status).toBe(201);
    const jwks = createRemoteJWKSet(new URL(`http://127.0.0.1:${app.api.port}/t/default/.well-known/jwks.json`));
    const { payload, protectedHeader } = await jwtVerify(minted.body.secret.access_token, jwks, {
      issuer: app.broker.issuerUrl("default"),
      audience: "https://tickets.test/api",
      typ: "at+jwt",
      requiredClaims: ["exp", "iat", "jti", "client_id", "sub"],
    });
    expect(protectedHeader.alg).toBe("ES256");
    expect(payload.sub).toBe(s.agentId);
    expect(payload.jti).toBe(minted.body.credential.id);
    expect(payload["authorization_details"]).toMatchObject([
      { task_id: taskId, actions: ["read"], resources: ["tickets"] },
    ]);
  });

  test("invariant 4: is inactive at introspection from the commit that ends its task", async () => {
    const taskId = await anOpenTask();
    const { body } = await app.call(agent, "POST", "/v1/credentials", ask(taskId));
    const introspect = async () =>
      (
        await app.call(
          orchestrator,
          "POST",
          "/oauth/introspect",
          new URLSearchParams({ token: body.secret.access_token }).toString(),
          {
            "content-type": "application/x-www-form-urlencoded",
          },
        )
      ).body;
    expect(await introspect()).toMatchObject({ active: true, jti: body.credential.id });
    const ended = await app.call(orchestrator, "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
    expect(ended.body).toMatchObject({ state: "ended", outcome: "completed", credentials: { live: 0, dead: 1 } });
    expect(await introspect()).toEqual({ active: false });
  });

  test("expires by itself with a receipt, and its history says so", async () => {
    const taskId = await anOpenTask();
    const { body } = await app.call(agent, "POST", "/v1/credentials", ask(taskId, { ttl_seconds: 1 }));
    const dead = await until("the credential has expired", async () => {
      const shown = await app.call(orchestrator, "GET", `/v1/credentials/${body.credential.id}`);
      return shown.body.state === "expired" && shown.body;
    });
    expect(dead.receipt).toMatchObject({ ended_by: "expiry", probe: "introspection" });
    expect(dead.decision.determining.length).toBeGreaterThan(0);
  });
});

describe("a refusal", () => {
  test("names every reason with a stable code and is in the audit", async () => {
    const taskId = await anOpenTask();
    const refused = await app.call(
      agent,
      "POST",
      "/v1/credentials",
      ask(taskId, { actions: ["explode"], resources: ["tickets", "nothing"] }),
    );
    expect(refused.status).toBe(403);
    expect(refused.body.reasons.map((reason: { code: string }) => reason.code).sort()).toEqual([
      "action_not_offered",
      "resource_outside_target",
    ]);
    const audit = await app.call(
      await app.token({ sub: "auditor" }),
      "GET",
      `/v1/audit?type=credential.denied&task=${taskId}`,
    );
    expect(audit.body.items[0].data.reasons).toHaveLength(2);
  });
});
