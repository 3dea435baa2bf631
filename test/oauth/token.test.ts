import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { SignJWT } from "jose";
import { signAdminToken } from "../../src/identity/admin-token.ts";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import type { Id } from "../../src/lib/ids.ts";
import { query } from "../queue/servers.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { anAgent, aTarget, type Seeded, seed } from "../support/seed.ts";
import { bind, openTask, type RegisteredClient, registerClient } from "./harness.ts";

const RESOURCE = "https://tickets.test/api";
const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

let app: App;
let s: Seeded;
let client: RegisteredClient;
let issuer: string;
let taskId: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  client = await registerClient(app, s, "reporter");
  issuer = app.broker.issuerUrl("default");
  taskId = await openTask(app, s);
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

type Changes = Readonly<Record<string, string | readonly string[] | null>>;

const now = (): number => Math.floor(Date.now() / 1000);

async function assertion(claims: Readonly<Record<string, unknown>> = {}, header: object = {}): Promise<string> {
  const { clientId } = client;
  const all = { iss: clientId, sub: clientId, aud: issuer, iat: now(), exp: now() + 60, jti: randomUUID(), ...claims };
  const kept = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
  return new SignJWT(kept).setProtectedHeader({ alg: "ES256", kid: client.kid, ...header }).sign(client.privateKey);
}

const details = (changes: object = {}): string =>
  JSON.stringify([{ type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"], ...changes }]);

/** A request that would be granted, but for these changes: `null` leaves a parameter out, a list repeats it. */
async function ask(changes: Changes = {}, headers: Record<string, string> = {}): Promise<Answer> {
  const form = new URLSearchParams();
  const all: Changes = {
    grant_type: "client_credentials",
    resource: RESOURCE,
    authorization_details: details(),
    client_assertion_type: JWT_BEARER,
    client_assertion: "client_assertion" in changes ? null : await assertion(),
    ...changes,
  };
  for (const [name, value] of Object.entries(all))
    for (const each of [value].flat()) if (each !== null) form.append(name, each);
  return app.call(null, "POST", "/oauth/token", form.toString(), {
    "content-type": "application/x-www-form-urlencoded",
    ...headers,
  });
}

const sql = async <Row = object>(text: string): Promise<Row[]> =>
  (await query(app.database.superuserUrl, text)) as Row[];

const credentials = async (): Promise<number> =>
  (await sql<{ n: number }>("select count(*)::int as n from mayfly.credentials"))[0]?.n ?? -1;

describe("POST /oauth/token", () => {
  test("answers with the token, what was granted, and no way to cache it", async () => {
    const { status, body, headers } = await ask({ unknown_parameter: "is ignored (RFC 6749 §3.2)" });
    expect(status).toBe(200);
    expect(body).toEqual({
      access_token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/),
      token_type: "Bearer",
      expires_in: expect.any(Number),
      authorization_details: [expect.objectContaining({ type: TASK_DETAILS, task_id: taskId, locations: [RESOURCE] })],
    });
    expect(headers.get("cache-control")).toBe("no-store");
  });

  test("invariant 8: the credential, its decision and its event are the same rows as from /v1/credentials", async () => {
    const { body } = await ask();
    const [, payload = ""] = body.access_token.split(".");
    const { jti, txn } = JSON.parse(Buffer.from(payload, "base64url").toString());
    const rows = await sql(
      `select c.state, d.outcome, e.type from mayfly.credentials c join mayfly.decisions d on d.id = c.decision_id
         join mayfly.audit_events e on e.credential_id = c.id where c.id = '${jti}' and d.id = '${txn}'`,
    );
    expect(rows).toEqual([{ state: "active", outcome: "allow", type: "credential.issued" }]);
  });

  const refused: [string, Changes | (() => Promise<Changes>), number, string][] = [
    ["no grant type", { grant_type: null }, 400, "invalid_request"],
    [
      "a grant type given twice (T-1.1)",
      { grant_type: ["client_credentials", "client_credentials"] },
      400,
      "invalid_request",
    ],
    ["another grant", { grant_type: "password" }, 400, "unsupported_grant_type"],
    ["a scope", { scope: "read" }, 400, "invalid_scope"],
    ["no resource", { resource: null }, 400, "invalid_target"],
    ["two resources (T-6.2)", { resource: [RESOURCE, "https://other.test"] }, 400, "invalid_target"],
    ["a resource with a fragment", { resource: `${RESOURCE}#x` }, 400, "invalid_target"],
    ["a relative resource", { resource: "/api" }, 400, "invalid_target"],
    ["a resource that nobody registered", { resource: "https://nobody.test/api" }, 400, "invalid_target"],
    ["a resource with a trailing slash that is not registered", { resource: `${RESOURCE}/` }, 400, "invalid_target"],
    ["the name of a target instead of its audience", { resource: "tickets-api" }, 400, "invalid_target"],
    ["no authorization details", { authorization_details: null }, 400, "invalid_authorization_details"],
    ["details that are no JSON", { authorization_details: "{" }, 400, "invalid_authorization_details"],
    [
      "details that are no array",
      { authorization_details: details().slice(1, -1) },
      400,
      "invalid_authorization_details",
    ],
    ["no details in the array", { authorization_details: "[]" }, 400, "invalid_authorization_details"],
    [
      "details of another type",
      async () => ({ authorization_details: details({ type: "x" }) }),
      400,
      "invalid_authorization_details",
    ],
    [
      "an unknown member (T-6.1)",
      async () => ({ authorization_details: details({ sudo: true }) }),
      400,
      "invalid_authorization_details",
    ],
    [
      "a member twice",
      async () => ({ authorization_details: details().replace('"actions"', '"task_id":"x","actions"') }),
      400,
      "invalid_authorization_details",
    ],
    [
      "no action",
      async () => ({ authorization_details: details({ actions: [] }) }),
      400,
      "invalid_authorization_details",
    ],
    [
      "another location than the resource",
      async () => ({ authorization_details: details({ locations: ["https://other.test"] }) }),
      400,
      "invalid_authorization_details",
    ],
    [
      "a task that does not exist",
      async () => ({ authorization_details: details({ task_id: `tsk_${"0".repeat(32)}` }) }),
      400,
      "invalid_authorization_details",
    ],
    [
      "an action that the purpose does not cover",
      async () => ({ authorization_details: details({ actions: ["delete"] }) }),
      400,
      "access_denied",
    ],
    ["no client authentication", { client_assertion: null, client_assertion_type: null }, 401, "invalid_client"],
    ["an assertion without its type", { client_assertion_type: null }, 400, "invalid_request"],
    [
      "an assertion of another type",
      { client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:saml2-bearer" },
      401,
      "invalid_client",
    ],
    ["a client_id that is not the subject (T-3.5)", { client_id: "somebody" }, 401, "invalid_client"],
    [
      "several audiences (T-3.1)",
      async () => ({ client_assertion: await assertion({ aud: [issuer, "https://other.test"] }) }),
      401,
      "invalid_client",
    ],
    [
      "the token endpoint as audience (T-3.2)",
      async () => ({ client_assertion: await assertion({ aud: `${app.api.url}/oauth/token` }) }),
      401,
      "invalid_client",
    ],
    [
      "an assertion without jti",
      async () => ({ client_assertion: await assertion({ jti: null }) }),
      401,
      "invalid_client",
    ],
    [
      "an assertion of an hour",
      async () => ({ client_assertion: await assertion({ exp: now() + 3600 }) }),
      401,
      "invalid_client",
    ],
    [
      "an expired assertion",
      async () => ({ client_assertion: await assertion({ iat: now() - 60, exp: now() - 1 }) }),
      401,
      "invalid_client",
    ],
    [
      "another subject than the issuer's",
      async () => ({ client_assertion: await assertion({ sub: "somebody" }) }),
      401,
      "invalid_client",
    ],
    [
      "an assertion that says it is an access token",
      async () => ({ client_assertion: await assertion({}, { typ: "at+jwt" }) }),
      401,
      "invalid_client",
    ],
    [
      "an assertion that says it is a DPoP proof",
      async () => ({ client_assertion: await assertion({}, { typ: "dpop+jwt" }) }),
      401,
      "invalid_client",
    ],
    [
      "an access token of ours as assertion",
      async () => ({ client_assertion: (await ask()).body.access_token }),
      401,
      "invalid_client",
    ],
  ];
  test.each(refused)("refuses %s: nothing is minted, nothing is cached", async (_what, changes, status, error) => {
    const changed = typeof changes === "function" ? await changes() : changes;
    const before = await credentials();
    const answer = await ask(changed);
    expect({ status: answer.status, error: answer.body.error }).toEqual({ status, error });
    expect(answer.body.error_description).toMatch(/^[\x20-\x21\x23-\x5b\x5d-\x7e]+$/);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(await credentials()).toBe(before);
  });

  test("refuses a second way to authenticate beside the assertion (RFC 6749 §2.3)", async () => {
    const answer = await ask({}, { authorization: `Bearer ${await app.token({ sub: s.agentSub })}` });
    expect({ status: answer.status, error: answer.body.error }).toEqual({ status: 400, error: "invalid_request" });
  });

  test("refuses JSON (T-1.2)", async () => {
    const answer = await app.call(null, "POST", "/oauth/token", { grant_type: "client_credentials" });
    expect(answer.status).toBe(400);
    expect(answer.body.error).toBe("invalid_request");
  });

  test("takes an assertion that says what it is, and the workload token of an issuer that is not its subject", async () => {
    const typed = await ask({ client_assertion: await assertion({}, { typ: "client-authentication+jwt" }) });
    const workload = await ask({ client_assertion: await app.token({ sub: s.agentSub }), client_id: s.agentSub });
    expect([typed.status, workload.status]).toEqual([200, 200]);
  });

  test("says what is wrong with a resource", async () => {
    const { body } = await ask({ resource: `${RESOURCE}#x` });
    expect(body.error_description).toBe("resource must be an absolute URI without a fragment");
  });

  test("asks of an assertion what it asks of assertions, also when the same token was sent as a bearer before", async () => {
    const token = await app.token({ sub: s.agentSub });
    expect((await app.call(token, "POST", "/v1/credentials", {})).status).toBe(400);
    const answer = await ask({ client_assertion: token, client_id: "somebody" });
    expect({ status: answer.status, error: answer.body.error }).toEqual({ status: 401, error: "invalid_client" });
  });

  test("takes no admin token for a client", async () => {
    const { keys, db } = app.broker;
    const [tenant] = await db.callAcrossTenants<{ id: Id<"tenant"> }>("tenant_by_name", ["default"]);
    if (tenant === undefined) throw new Error("there is no tenant default");
    const token = await signAdminToken(keys, { id: tenant.id, issuer }, "root", ["admin"], Date.now());
    const form = { token: "x", client_assertion: token, client_assertion_type: JWT_BEARER };
    const answer = await app.call(null, "POST", "/oauth/revoke", new URLSearchParams(form).toString(), {
      "content-type": "application/x-www-form-urlencoded",
    });
    expect({ status: answer.status, error: answer.body.error }).toEqual({ status: 401, error: "invalid_client" });
  });

  test("the refusal of a mint is one event, with its reason and the decision's id if policy made one", async () => {
    const told = async (): Promise<unknown[]> =>
      sql(
        "select data->'reasons'->0->>'code' as code from mayfly.audit_events where type in ('credential.denied', 'request.refused') order by id",
      );
    const before = (await told()).length;
    await ask({ authorization_details: details({ actions: ["delete"] }) });
    await ask({ resource: "https://nobody.test/api" });
    expect((await told()).slice(before)).toEqual([{ code: "action_not_offered" }, { code: null }]);
  });
});

test("invariant 10: an assertion for one tenant is nothing at another, and its metadata is its own", async () => {
  const other = await ask({ client_assertion: await assertion({ aud: app.broker.issuerUrl("nobody") }) });
  expect([other.status, other.body.error]).toEqual([401, "invalid_client"]);
  const unknown = await app.call(null, "GET", "/.well-known/oauth-authorization-server/t/nobody");
  expect(unknown.status).toBe(404);
  const known = await app.call(null, "GET", "/.well-known/oauth-authorization-server/t/default");
  expect(known.body).toMatchObject({
    issuer,
    token_endpoint: `${app.api.url}/oauth/token`,
    response_types_supported: [],
  });
});

test("an audience that two targets share names neither, until one of them is retired", async () => {
  const audience = "https://shared.test/api";
  const [first] = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    Promise.all(
      ["shared-1", "shared-2"].map((name) =>
        aTarget(tx, app.broker, {
          tenantId: s.tenantId,
          ownerId: s.ownerId,
          name,
          issuer: "jwt",
          config: { audience },
          resources: { [s.resourceId]: { read: {} } },
        }),
      ),
    ),
  );
  expect((await ask({ resource: audience })).body.error).toBe("invalid_target");
  await sql(`update mayfly.targets set state = 'retired' where id = '${first}'`);
  expect((await ask({ resource: audience })).status).toBe(200);
});

test("RFC 7009: a client cannot revoke what was issued to another, and is told nothing of what is no token", async () => {
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, async (tx) => {
    const agentId = await anAgent(tx, { tenantId: s.tenantId, ownerId: s.ownerId });
    await bind(tx, { tenantId: s.tenantId, trustSourceId: s.trustSourceId, agentId, sub: "agent-2" });
  });
  const { body } = await ask();
  const revoke = async (token: string, by: string): Promise<Answer> =>
    app.call(by, "POST", "/oauth/revoke", new URLSearchParams({ token }).toString(), {
      "content-type": "application/x-www-form-urlencoded",
    });
  const stranger = await app.token({ sub: "agent-2" });
  expect((await revoke(body.access_token, stranger)).body).toMatchObject({ error: "unauthorized_client" });
  expect((await revoke("no token at all", stranger)).status).toBe(200);
  expect(await revoke(body.access_token, await app.token({ sub: "orchestrator" }))).toMatchObject({
    status: 200,
    text: "",
  });
});
