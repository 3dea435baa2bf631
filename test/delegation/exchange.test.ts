import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeJwt } from "jose";
import * as oauth from "oauth4webapi";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { newId } from "../../src/lib/ids.ts";
import { query } from "../queue/servers.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { prover } from "../support/prover.ts";
import { aRacer, type Racer } from "../support/racer.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";

const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
const RESOURCE = "https://tickets.test/api";

let app: App;
let s: Seeded;
let parent: Racer;
let child: Racer;
let stranger: Racer;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  [parent, child, stranger] = await Promise.all([aRacer(app, s), aRacer(app, s), aRacer(app, s)]);
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, app.broker, {
      tenantId: s.tenantId,
      ownerId: s.ownerId,
      name: "other-api",
      issuer: "jwt",
      config: { audience: "https://other.test/api" },
      resources: { [s.resourceId]: { read: {}, write: {} } },
    }),
  );
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

interface Minted {
  readonly id: string;
  readonly token: string;
}

const delegating = (to: readonly Racer[], depth = 1) => ({
  max_depth: depth,
  allowed: to.map(({ agentId }) => ({ sub: agentId })),
});

async function mint(by: Racer, body: object = {}): Promise<Answer> {
  return app.call(by.token, "POST", "/v1/credentials", {
    task_id: by.taskId,
    target: "tickets-api",
    actions: ["read", "write"],
    resources: ["tickets"],
    ttl_seconds: 200,
    ...body,
  });
}

async function minted(by: Racer, body: object = {}): Promise<Minted> {
  const answer = await mint(by, body);
  if (answer.status !== 201) throw new Error(`${answer.status} ${answer.text}`);
  return { id: answer.body.credential.id, token: answer.body.secret.access_token };
}

/** A token exchange that would be granted, but for these changes. */
async function exchange(
  by: Racer,
  subject: string,
  { form = {}, details = {} }: { form?: Record<string, string>; details?: object } = {},
): Promise<Answer> {
  const sent = new URLSearchParams({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: subject,
    subject_token_type: ACCESS_TOKEN,
    authorization_details: JSON.stringify([
      { type: TASK_DETAILS, task_id: by.taskId, actions: ["read"], resources: ["tickets"], ...details },
    ]),
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: by.token,
    ...form,
  });
  for (const [name, value] of Object.entries(form)) if (value === "") sent.delete(name);
  return app.call(null, "POST", "/oauth/token", sent.toString(), {
    "content-type": "application/x-www-form-urlencoded",
  });
}

const admin = () => app.token({ sub: "admin" });
const isActive = async (token: string): Promise<boolean> => {
  const form = { "content-type": "application/x-www-form-urlencoded" };
  const answer = await app.call(
    await admin(),
    "POST",
    "/oauth/introspect",
    new URLSearchParams({ token }).toString(),
    form,
  );
  return answer.body.active;
};

describe("a token minted from a token (RFC 8693)", () => {
  test("names its subject, who acts, and through whom; the history tells who initiated it", async () => {
    const middle = await aRacer(app, s);
    const top = await minted(parent, { delegation: delegating([child, middle], 2) });
    const first = await exchange(middle, top.token, { details: { delegation: delegating([child]) } });
    expect(first.status).toBe(200);
    const second = await exchange(child, first.body.access_token);
    expect(second.body).toEqual({
      access_token: expect.any(String),
      issued_token_type: ACCESS_TOKEN,
      token_type: "Bearer",
      expires_in: expect.any(Number),
      authorization_details: [
        expect.objectContaining({
          task_id: child.taskId,
          actions: ["read"],
          resources: ["tickets"],
          locations: [RESOURCE],
        }),
      ],
    });
    const iss = app.broker.issuerUrl("default");
    const claims = decodeJwt(second.body.access_token);
    expect(claims).toMatchObject({
      sub: parent.agentId,
      client_id: child.agentId,
      act: { sub: child.agentId, iss, act: { sub: middle.agentId, iss } },
      aud: RESOURCE,
    });
    expect(claims.exp).toBeLessThanOrEqual(decodeJwt(top.token).exp ?? 0);
    const told = await app.call(await admin(), "GET", `/v1/credentials/${claims.jti}`);
    expect(told.body.chain.map((link: Record<string, unknown>) => [link["agent_id"], link["task_id"]])).toEqual([
      [parent.agentId, parent.taskId],
      [middle.agentId, middle.taskId],
      [child.agentId, child.taskId],
    ]);
    expect(told.body.chain[0].initiated_by).toEqual({ kind: "system", id: "test" });
    const below = await app.call(await admin(), "GET", `/v1/credentials?minted_from=${top.id}`);
    expect(below.body.items).toHaveLength(2);
  });

  test("a decision knows how deep it is: the default policies end a chain after three links", async () => {
    let token = (await minted(parent, { delegation: delegating([], 9) })).token;
    const answers: Answer[] = [];
    for (let depth = 1; depth <= 4; depth += 1) {
      const answer = await exchange(parent, token, { details: { delegation: delegating([], 9 - depth) } });
      answers.push(answer);
      token = answer.body.access_token ?? token;
    }
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 400]);
    expect(answers[3]?.body.reasons).toContainEqual(expect.objectContaining({ policy: "no-deep-delegation" }));
  });

  test("oauth4webapi, which is not ours, exchanges with DPoP; the new token is bound to the key of who asked", async () => {
    const iss = new URL(app.broker.issuerUrl("default"));
    const http = { [oauth.allowInsecureRequests]: true } as const;
    const as = await oauth.processDiscoveryResponse(
      iss,
      await oauth.discoveryRequest(iss, { algorithm: "oauth2", ...http }),
    );
    const top = await minted(parent, { delegation: delegating([child]) });
    const key = oauth.DPoP({}, await oauth.generateKeyPair("ES256"));
    const self: oauth.Client = { client_id: "worker" };
    const authenticate: oauth.ClientAuth = (_as, _client, form) => {
      form.set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
      form.set("client_assertion", child.token);
    };
    const form = new URLSearchParams({
      subject_token: top.token,
      subject_token_type: ACCESS_TOKEN,
      resource: RESOURCE,
      authorization_details: JSON.stringify([
        { type: TASK_DETAILS, task_id: child.taskId, actions: ["read"], resources: ["tickets"] },
      ]),
    });
    const ask = async () => {
      const answer = await oauth.genericTokenEndpointRequest(
        as,
        self,
        authenticate,
        "urn:ietf:params:oauth:grant-type:token-exchange",
        form,
        { DPoP: key, ...http },
      );
      return oauth.processGenericTokenEndpointResponse(as, self, answer);
    };
    const granted = await ask().catch((error: unknown) => {
      if (oauth.isDPoPNonceError(error)) return ask();
      throw error;
    });
    expect(granted).toMatchObject({ token_type: "dpop", issued_token_type: ACCESS_TOKEN });
    expect(decodeJwt(granted.access_token)["cnf"]).toEqual({ jkt: await key.calculateThumbprint() });
  });

  const refused: [string, Parameters<typeof exchange>[2], string, string?][] = [
    ["no subject token", { form: { subject_token: "" } }, "invalid_request"],
    ["no subject token type", { form: { subject_token_type: "" } }, "invalid_request"],
    [
      "an ID token as subject",
      { form: { subject_token_type: "urn:ietf:params:oauth:token-type:id_token" } },
      "invalid_request",
    ],
    [
      "a refresh token as subject",
      { form: { subject_token_type: "urn:ietf:params:oauth:token-type:refresh_token" } },
      "invalid_request",
    ],
    [
      "another kind of token wanted",
      { form: { requested_token_type: "urn:ietf:params:oauth:token-type:id-jag" } },
      "invalid_request",
    ],
    [
      "an actor token beside the client's authentication",
      { form: { actor_token: "x", actor_token_type: ACCESS_TOKEN } },
      "invalid_request",
    ],
    ["a logical audience", { form: { audience: "tickets" } }, "invalid_target"],
    ["a scope", { form: { scope: "read" } }, "invalid_scope"],
    ["a subject token that is none of ours", { form: { subject_token: "e30.e30.e30" } }, "invalid_request"],
    [
      "T-2.1: another API",
      { form: { resource: "https://other.test/api" } },
      "invalid_target",
      "audience_outside_parent",
    ],
    ["T-2.1: another action", { details: { actions: ["write"] } }, "invalid_request", "action_outside_parent"],
    [
      "T-2.1: another resource",
      { details: { resources: ["tickets-archive"] } },
      "invalid_request",
      "resource_outside_target",
    ],
    [
      "T-2.1: a longer chain",
      { details: { delegation: { max_depth: 1, allowed: [] } } },
      "invalid_request",
      "delegation_too_deep",
    ],
    ["a task of another agent", { details: { task_id: newId("task") } }, "invalid_authorization_details"],
    ["an unknown member of the details", { details: { may: "everything" } }, "invalid_authorization_details"],
  ];
  test.each(refused.map((row) => [row[0], row] as const))("%s is refused", async (_, [, changes, error, reason]) => {
    const top = await minted(parent, { actions: ["read"], delegation: delegating([child]) });
    const answer = await exchange(child, top.token, changes);
    expect([answer.status, answer.body.error]).toEqual([400, error]);
    if (reason !== undefined) expect(answer.body.reasons).toContainEqual(expect.objectContaining({ code: reason }));
    expect(answer.headers.get("cache-control")).toBe("no-store");
  });

  test("a delegate of a delegate must have been allowed by the first one", async () => {
    const top = await minted(parent, { delegation: delegating([child], 2) });
    const answer = await exchange(child, top.token, { details: { delegation: delegating([stranger]) } });
    expect(answer.body.reasons).toContainEqual(expect.objectContaining({ code: "delegate_outside_parent" }));
  });

  test("who is not on the list has a text that is worth nothing, and is told no more than for an unknown one", async () => {
    const top = await minted(parent, { delegation: delegating([child]) });
    const plain = await minted(parent);
    const answers = [await exchange(stranger, top.token), await exchange(child, plain.token)];
    const ids = [top.id, newId("credential")];
    const byId = await Promise.all(ids.map((id) => mint(stranger, { parent_credential_id: id })));
    expect(answers.map(({ status, body }) => [status, body.error])).toEqual([
      [400, "invalid_request"],
      [400, "invalid_request"],
    ]);
    expect(byId.map(({ status }) => status)).toEqual([404, 404]);
    const [first, second] = byId.map(({ body }) => ({ ...body, request_id: "", instance: "" }));
    expect(first).toEqual(second);
  });

  test("T-2.3: a token that was taken back, or given back, or has run out, mints nothing, and its children are dead", async () => {
    const top = await minted(parent, { delegation: delegating([child]) });
    const made = await exchange(child, top.token);
    expect(await isActive(made.body.access_token)).toBe(true);
    await app.call(parent.token, "POST", `/v1/credentials/${top.id}/release`);
    expect(await isActive(made.body.access_token)).toBe(false);
    const late = await exchange(child, top.token);
    expect([late.status, late.body.error]).toEqual([400, "invalid_request"]);
    expect(late.body.reasons).toContainEqual(expect.objectContaining({ code: "parent_not_active" }));
  });

  test("the end of the parent's task ends what was minted from it, and a lost heartbeat at once for who asks us", async () => {
    const mine = await aRacer(app, s);
    const top = await minted(mine, { delegation: delegating([child]) });
    const made = (await exchange(child, top.token)).body.access_token;
    await query(
      app.database.superuserUrl,
      `update mayfly.task_meters set heartbeat_due_at = now() - interval '1 second' where task_id = '${mine.taskId}'`,
    );
    expect(await isActive(made)).toBe(false);
  });

  test("a budget is not got around by passing on: each task of the chain is charged", async () => {
    const poor = await aRacer(app, s, { maxCredentials: 2 });
    const top = await minted(poor, { delegation: delegating([child]) });
    const answers = [await exchange(child, top.token), await exchange(child, top.token)];
    expect(answers.map(({ status }) => status)).toEqual([200, 400]);
    expect(answers[1]?.body.reasons).toContainEqual(expect.objectContaining({ code: "task_budget_exhausted" }));
  });

  test("downstream credentials are minted from a token too, and die with it; they are the end of a chain", async () => {
    const top = await minted(parent, { delegation: delegating([child]) });
    const other = await mint(child, { target: "other-api", parent_credential_id: top.id });
    expect(other.body.reasons).toContainEqual(expect.objectContaining({ code: "audience_outside_parent" }));
  });
});

describe("bound by default", () => {
  test("an agent without an exception gets no token that whoever holds it can use, by either way", async () => {
    const bound = await aRacer(app, s, { bearerTtlSeconds: null });
    const answer = await mint(bound);
    expect([answer.status, answer.body.reasons[0].code]).toEqual([403, "binding_required"]);
    const top = await minted(parent, { delegation: delegating([bound]) });
    const exchanged = await exchange(bound, top.token);
    expect(exchanged.body.reasons).toContainEqual(expect.objectContaining({ code: "binding_required" }));
  });

  test("with a proof it does; the exception caps how long a bearer token lives, and marks its event", async () => {
    const brief = await aRacer(app, s, { bearerTtlSeconds: 20 });
    const { body } = await mint(brief);
    expect(body.credential).toMatchObject({ ttl_bound: "bearer", ttl_seconds: expect.any(Number) });
    expect(body.credential.ttl_seconds).toBeLessThanOrEqual(20);
    const events = await app.call(await admin(), "GET", `/v1/audit?subject=${body.credential.id}`);
    expect(events.body.items[0].data).toMatchObject({ bearer_exception: true });
  });

  test("only an admin gives the exception, and it is in the audit", async () => {
    const bound = await aRacer(app, s, { bearerTtlSeconds: null });
    const { headers } = await app.call(await admin(), "GET", `/v1/agents/${bound.agentId}`);
    const match = { "if-match": headers.get("etag") ?? "" };
    const path = `/v1/agents/${bound.agentId}`;
    expect((await app.call(bound.token, "PATCH", path, { bearer_ttl_seconds: 60 }, match)).status).toBe(403);
    expect((await app.call(await admin(), "PATCH", path, { bearer_ttl_seconds: 60 }, match)).status).toBe(200);
    expect((await mint(bound)).status).toBe(201);
    const events = await app.call(await admin(), "GET", `/v1/audit?subject=${bound.agentId}`);
    expect(JSON.stringify(events.body)).toContain('"bearer_ttl_seconds":{"to":60,"from":null}');
  });

  test("a bound token cannot be made a bearer token by passing it on", async () => {
    const holder = await prover(app);
    const top = await holder.post(parent.token, "/v1/credentials", {
      task_id: parent.taskId,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
      delegation: delegating([child, stranger]),
    });
    expect(top.body.secret.token_type).toBe("DPoP");
    expect(decodeJwt(top.body.secret.access_token)["cnf"]).toEqual({ jkt: holder.thumbprint });
    const answer = await exchange(child, top.body.secret.access_token);
    expect(answer.body.reasons).toContainEqual(expect.objectContaining({ code: "binding_weaker_than_parent" }));
    // Nor by passing the key on with it.
    const same = await holder.post(stranger.token, "/v1/credentials", {
      task_id: stranger.taskId,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
      parent_credential_id: top.body.credential.id,
    });
    expect(same.body.reasons).toContainEqual(expect.objectContaining({ code: "key_not_rebound" }));
  });
});
