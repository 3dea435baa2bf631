import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { SignJWT } from "jose";
import { newId } from "../../src/lib/ids.ts";
import { type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { workload } from "../support/workload.ts";

let app: App;
let s: Seeded;
let agent: string;
let taskId: string;

beforeAll(async () => {
  app = await startApp({ worker: false });
  s = await seed(app.broker, app.idp);
  agent = await app.token({ sub: s.agentSub });
  const task = await app.call(await app.token({ sub: "orchestrator" }), "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "bad input",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  taskId = task.body.id;
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

const good = () => ({ task_id: taskId, target: "tickets-api", actions: ["read"], resources: ["tickets"] });

async function count(table: "credentials" | "audit_events"): Promise<number> {
  const rows = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    tx.selectFrom(table).select("id").execute(),
  );
  return rows.length;
}

/** Nothing is minted, the refusal is in the audit, and the next good request is answered. */
async function refused(
  send: () => ReturnType<App["call"]>,
  expected: { status: number; code: string; pointer?: string },
): Promise<void> {
  const [credentials, events] = [await count("credentials"), await count("audit_events")];
  const answer = await send();
  expect({ status: answer.status, code: answer.body?.code }).toEqual({ status: expected.status, code: expected.code });
  expect(answer.headers.get("content-type")).toMatch(/^application\/problem\+json/);
  if (expected.pointer !== undefined)
    expect(answer.body.errors.map((error: { pointer: string }) => error.pointer)).toContain(expected.pointer);
  expect(await count("credentials")).toBe(credentials);
  expect(await count("audit_events")).toBe(events + 1);
  expect((await app.call(agent, "POST", "/v1/credentials/dry-run", good())).status).toBe(200);
}

const mint = (body: unknown, headers?: Record<string, string>) =>
  app.call(agent, "POST", "/v1/credentials", body, headers);

describe("a malformed mint is a 4xx that points at the field, mints nothing, and is in the audit", () => {
  const without = (name: string) => Object.fromEntries(Object.entries(good()).filter(([key]) => key !== name));
  const cases: readonly [name: string, body: () => unknown, status: number, code: string, pointer?: string][] = [
    ["malformed JSON", () => '{"task_id":', 400, "invalid_request"],
    ["a body that is no object", () => "[]", 400, "invalid_request"],
    ["an empty body", () => "", 400, "invalid_request"],
    [
      "a duplicate member",
      () => `{"task_id":"${taskId}","task_id":"${taskId}","target":"x","actions":["read"],"resources":["x"]}`,
      400,
      "invalid_request",
      "/task_id",
    ],
    ["a prototype member", () => '{"__proto__":{}}', 400, "invalid_request"],
    ["an unknown member", () => ({ ...good(), agent_id: s.agentId }), 400, "invalid_request", "/agent_id"],
    [
      "a privileged member",
      () => ({ ...good(), expires_at: "2999-01-01T00:00:00Z" }),
      400,
      "invalid_request",
      "/expires_at",
    ],
    ["a missing task", () => without("task_id"), 400, "invalid_request", "/task_id"],
    ["a missing target", () => without("target"), 400, "invalid_request", "/target"],
    ["a task of the wrong type", () => ({ ...good(), task_id: 7 }), 400, "invalid_request", "/task_id"],
    ["an id of another kind", () => ({ ...good(), task_id: s.agentId }), 400, "invalid_request", "/task_id"],
    ["an unknown task", () => ({ ...good(), task_id: newId("task") }), 404, "not_found", "/task_id"],
    ["an unknown target", () => ({ ...good(), target: "nowhere" }), 404, "not_found", "/target"],
    ["no actions", () => ({ ...good(), actions: [] }), 400, "invalid_request", "/actions"],
    ["duplicate actions", () => ({ ...good(), actions: ["read", "read"] }), 400, "invalid_request", "/actions"],
    ["no resources", () => ({ ...good(), resources: [] }), 400, "invalid_request", "/resources"],
    [
      "duplicate resources",
      () => ({ ...good(), resources: ["tickets", "tickets"] }),
      400,
      "invalid_request",
      "/resources",
    ],
    ["a resource outside the target", () => ({ ...good(), resources: ["payroll"] }), 403, "denied"],
    ["an action that is no operation", () => ({ ...good(), actions: ["constructor"] }), 403, "denied"],
    ["a TTL of 0", () => ({ ...good(), ttl_seconds: 0 }), 400, "invalid_request", "/ttl_seconds"],
    ["a negative TTL", () => ({ ...good(), ttl_seconds: -1 }), 400, "invalid_request", "/ttl_seconds"],
    ["a fractional TTL", () => ({ ...good(), ttl_seconds: 1.5 }), 400, "invalid_request", "/ttl_seconds"],
    ["a TTL beyond every cap", () => ({ ...good(), ttl_seconds: 1e9 }), 400, "invalid_request", "/ttl_seconds"],
    ["a TTL that is text", () => ({ ...good(), ttl_seconds: "5m" }), 400, "invalid_request", "/ttl_seconds"],
    ["a body over 64 KiB", () => ({ ...good(), target: "x".repeat(70_000) }), 413, "payload_too_large"],
  ];
  for (const [name, body, status, code, pointer] of cases) {
    test(name, () => refused(() => mint(body()), { status, code, ...(pointer === undefined ? {} : { pointer }) }));
  }

  test("a closed task", async () => {
    const orchestrator = await app.token({ sub: "orchestrator" });
    const closed = await app.call(orchestrator, "POST", "/v1/tasks", {
      agent_id: s.agentId,
      purpose_id: s.purposeId,
      objective: "closed",
      initiated_by: { kind: "system", id: "test" },
      deadline: new Date(Date.now() + 3_600_000).toISOString(),
    });
    await app.call(orchestrator, "POST", `/v1/tasks/${closed.body.id}/end`, { outcome: "cancelled" });
    await refused(() => mint({ ...good(), task_id: closed.body.id }), { status: 403, code: "denied" });
  });

  test("an Idempotency-Key used with another payload", async () => {
    const headers = { "idempotency-key": '"k-1"' };
    expect((await mint(good(), headers)).status).toBe(201);
    await refused(() => mint({ ...good(), ttl_seconds: 9 }, headers), { status: 422, code: "idempotency_mismatch" });
  });

  test("another content type", async () => {
    await refused(() => mint(JSON.stringify(good()), { "content-type": "text/plain" }), {
      status: 415,
      code: "unsupported_media_type",
    });
  });
});

describe("a proof that is not accepted is a 401 with a stable reason, and is in the audit", () => {
  const now = () => Math.floor(Date.now() / 1000);
  const issuer = () => app.broker.issuerUrl("default");
  const cases: readonly [name: string, token: () => Promise<string | null>, reason: string][] = [
    ["none at all", async () => null, "token_missing"],
    ["not a token", async () => "garbage", "token_malformed"],
    ["an expired token", () => app.token({ sub: s.agentSub, iat: now() - 600, exp: now() - 300 }), "token_expired"],
    [
      "a token of the future",
      () => app.token({ sub: s.agentSub, iat: now() + 600, exp: now() + 900, nbf: now() + 600 }),
      "token_not_yet_valid",
    ],
    [
      "a token for somebody else",
      () => app.idp.token("https://other.example", { sub: s.agentSub }),
      "token_audience_mismatch",
    ],
    [
      "a token for another tenant's name",
      () => app.idp.token(`${issuer()}x`, { sub: s.agentSub }),
      "token_audience_mismatch",
    ],
    [
      "a token for us and somebody else",
      () => app.idp.token([issuer(), "https://other.example"], { sub: s.agentSub }),
      "token_audience_multiple",
    ],
    ["a token without an expiry", () => app.token({ sub: s.agentSub, exp: null }), "token_claim_missing"],
    [
      "a token of an unknown issuer",
      async () => (await workload("https://evil.test")).token(issuer(), { sub: s.agentSub }),
      "token_issuer_unknown",
    ],
    [
      "another's signature under a known issuer",
      async () => (await workload("https://idp.test")).token(issuer(), { sub: s.agentSub }),
      "token_signature_invalid",
    ],
    [
      "an unsigned token",
      async () =>
        [{ alg: "none" }, { iss: "https://idp.test", aud: issuer(), sub: s.agentSub, exp: now() + 300, iat: now() }]
          .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
          .join(".")
          .concat("."),
      "token_malformed",
    ],
    [
      "a shared-secret signature",
      () =>
        new SignJWT({ sub: s.agentSub })
          .setProtectedHeader({ alg: "HS256" })
          .setIssuer("https://idp.test")
          .setAudience(issuer())
          .setIssuedAt()
          .setExpirationTime("5m")
          .sign(Buffer.from(JSON.stringify(app.idp.jwks))),
      "token_alg_not_allowed",
    ],
    ["a genuine token of nobody we know", () => app.token({ sub: "stranger" }), "identity_unknown"],
  ];
  test.each(cases)("%s", async (_, token, reason) => {
    const answer = await app.call(await token(), "POST", "/v1/credentials", good());
    expect({ status: answer.status, code: answer.body.code, reason: answer.body.reasons?.[0]?.code }).toEqual({
      status: 401,
      code: "unauthenticated",
      reason,
    });
    expect(answer.headers.get("www-authenticate")).toMatch(/^Bearer/);
    const events = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
      tx.selectFrom("audit_events").select("data").where("type", "=", "authentication.refused").execute(),
    );
    const system = await app.broker.db.withTenant(
      { tenantId: "ten_00000000000070008000000000000000", actor: "test" },
      (tx) => tx.selectFrom("audit_events").select("data").where("type", "=", "authentication.refused").execute(),
    );
    expect([...events, ...system].map((event) => event.data["reason"])).toContain(reason);
  });
});
