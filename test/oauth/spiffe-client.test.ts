import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import * as oauth from "oauth4webapi";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { query } from "../queue/servers.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { openTask } from "./harness.ts";

const TD = "spiffe://acme.test";
const ID = `${TD}/agent/reporter`;
const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const RESOURCE = "https://tickets.test/api";

type Claims = Readonly<Record<string, unknown>>;
type Changes = Readonly<Record<string, string | null>>;

/** A Mayfly, a SPIFFE trust domain with one key that it trusts, and an agent that is one of its workloads. */
interface World {
  readonly app: App;
  readonly s: Seeded;
  readonly issuer: string;
  readonly taskId: string;
  svid(claims?: Claims, header?: Claims): Promise<string>;
  post(path: string, form: Changes, headers?: Record<string, string>): Promise<Answer>;
  ask(changes?: Changes): Promise<Answer>;
}

async function world(env: Record<string, string>): Promise<World> {
  const app = await startApp({ env });
  const s = await seed(app.broker, app.idp);
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = { ...(await exportJWK(publicKey)), kid: "authority-1", use: "jwt-svid" };
  const make = async (path: string, body: object): Promise<string> => {
    const made = await app.call(await app.token({ sub: "admin" }), "POST", path, body);
    if (made.status !== 201) throw new Error(`${path}: ${made.status} ${made.text}`);
    return made.body.id;
  };
  const trust_source_id = await make("/v1/trust-sources", {
    name: "spire",
    kind: "spiffe",
    issuer: TD,
    bundle: { keys: [jwk] },
  });
  await make("/v1/identities", { trust_source_id, agent_id: s.agentId, anchor_claim: "sub", anchor_value: ID });
  const issuer = app.broker.issuerUrl("default");
  const taskId = await openTask(app, s);
  const svid = (claims: Claims = {}, header: Claims = {}): Promise<string> => {
    const now = Math.floor(Date.now() / 1000);
    const all = Object.entries({ sub: ID, aud: [issuer], iat: now, exp: now + 300, ...claims });
    return new SignJWT(Object.fromEntries(all.filter(([, value]) => value !== null)))
      .setProtectedHeader({ alg: "ES256", kid: "authority-1", typ: "JWT", ...header })
      .sign(privateKey);
  };
  const post = (path: string, form: Changes, headers: Record<string, string> = {}): Promise<Answer> => {
    const kept = Object.entries(form).filter((entry): entry is [string, string] => entry[1] !== null);
    return app.call(null, "POST", path, new URLSearchParams(kept).toString(), {
      "content-type": "application/x-www-form-urlencoded",
      ...headers,
    });
  };
  const ask = async (changes: Changes = {}): Promise<Answer> =>
    post("/oauth/token", {
      grant_type: "client_credentials",
      resource: RESOURCE,
      authorization_details: JSON.stringify([
        { type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"] },
      ]),
      client_assertion_type: JWT_SPIFFE,
      client_assertion: "client_assertion" in changes ? null : await svid(),
      ...changes,
    });
  return { app, s, issuer, taskId, svid, post, ask };
}

const metadataOf = async ({ issuer }: World): Promise<oauth.AuthorizationServer> => {
  const url = new URL(issuer);
  const options = { algorithm: "oauth2" as const, [oauth.allowInsecureRequests]: true };
  return oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, options));
};
const METHODS = ["token", "introspection", "revocation"].map((at) => `${at}_endpoint_auth_methods_supported`);
const lastReason = async ({ app }: World): Promise<unknown> => {
  const rows = await query(
    app.database.superuserUrl,
    "select data->>'reason' as reason from mayfly.audit_events where type = 'authentication.refused' order by id desc limit 1",
  );
  return (rows as { reason: string }[])[0]?.reason;
};

describe("with MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02", () => {
  let w: World;
  beforeAll(async () => {
    w = await world({ MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02: "true" });
  });
  afterAll(async () => {
    await w.app[Symbol.asyncDispose]();
  });

  test("metadata offers spiffe_jwt at all three endpoints", async () => {
    const metadata = await metadataOf(w);
    for (const name of METHODS) expect([name, metadata[name]]).toEqual([name, ["private_key_jwt", "spiffe_jwt"]]);
  });

  test("a workload gets a token with its JWT-SVID alone, and with its SPIFFE ID as client_id", async () => {
    const [plain, named] = [await w.ask(), await w.ask({ client_id: ID })];
    expect([plain.status, named.status]).toEqual([200, 200]);
    const [, payload = ""] = plain.body.access_token.split(".");
    expect(JSON.parse(Buffer.from(payload, "base64url").toString())).toMatchObject({ sub: w.s.agentId });
  });

  test("SPIRE caches SVIDs: the same one, without jti, works again", async () => {
    const client_assertion = await w.svid();
    expect([(await w.ask({ client_assertion })).status, (await w.ask({ client_assertion })).status]).toEqual([
      200, 200,
    ]);
  });

  test("it introspects and revokes with it too", async () => {
    const { body } = await w.ask();
    const form = async (): Promise<Changes> => ({
      token: body.access_token,
      client_assertion_type: JWT_SPIFFE,
      client_assertion: await w.svid(),
    });
    expect((await w.post("/oauth/introspect", await form())).status).toBe(200);
    expect(await w.post("/oauth/revoke", await form())).toMatchObject({ status: 200, text: "" });
  });

  test("whose iss is that of another trust source: its sub alone says whose keys apply", async () => {
    const client_assertion = await w.svid({ iss: w.app.idp.issuer });
    expect((await w.ask({ client_assertion })).status).toBe(200);
  });

  const refused: [string, (w: World) => Promise<Changes>, string][] = [
    [
      "the token endpoint as aud, as in the draft's example",
      (x) => svidOf(x, { aud: `${x.app.api.url}/oauth/token` }),
      "token_audience_mismatch",
    ],
    ["two audiences", (x) => svidOf(x, { aud: [x.issuer, "https://other.test"] }), "token_audience_multiple"],
    ["another tenant's issuer as aud", (x) => svidOf(x, { aud: `${x.issuer}x` }), "token_audience_mismatch"],
    ["no aud", (x) => svidOf(x, { aud: null }), "token_claim_missing"],
    ["no exp", (x) => svidOf(x, { exp: null }), "token_claim_missing"],
    [
      "an exp that has passed",
      (x) => svidOf(x, { exp: Math.floor(Date.now() / 1000) - 1, iat: null }),
      "token_expired",
    ],
    ["no sub", (x) => svidOf(x, { sub: null, iss: TD }), "token_claim_missing"],
    ["a workload that nobody registered", (x) => svidOf(x, { sub: `${ID}-evil` }), "identity_unknown"],
    ["a workload below the registered one", (x) => svidOf(x, { sub: `${ID}/a` }), "identity_unknown"],
    ["the trust domain itself", (x) => svidOf(x, { sub: TD }), "token_claim_invalid"],
    ["another trust domain", (x) => svidOf(x, { sub: "spiffe://evil.test/agent/reporter" }), "token_issuer_unknown"],
    [
      "an iss of this trust domain, for a sub of another",
      (x) => svidOf(x, { iss: TD, sub: "spiffe://evil.test/agent" }),
      "token_issuer_unknown",
    ],
    ["another client_id", async () => ({ client_id: `${TD}/agent/other` }), "client_id_mismatch"],
    ["a client_id in other spelling", async () => ({ client_id: ID.toUpperCase() }), "client_id_mismatch"],
    ["a header member too many", (x) => svidOf(x, {}, { x5t: "a" }), "token_header_not_allowed"],
    ["typ of another kind", (x) => svidOf(x, {}, { typ: "wit+jwt" }), "token_kind_confused"],
    ["typ of a self-made assertion", (x) => svidOf(x, {}, { typ: "client-authentication+jwt" }), "token_kind_confused"],
    ["a key that the bundle does not have", (x) => svidOf(x, {}, { kid: "authority-2" }), "token_key_unknown"],
    [
      "a JWT-SVID under the type jwt-bearer",
      async () => ({ client_assertion_type: JWT_BEARER }),
      "client_assertion_type_not_allowed",
    ],
    [
      "another token under the type jwt-spiffe",
      async (x) => ({ client_assertion: await x.app.token({ sub: x.s.agentSub }) }),
      "client_assertion_type_not_allowed",
    ],
    [
      "a type that nobody agreed on",
      async () => ({ client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:saml2-bearer" }),
      "client_assertion_type_not_allowed",
    ],
  ];
  test.each(refused)("refuses %s", async (_what, changes, reason) => {
    const { status, body } = await w.ask(await changes(w));
    expect([status, body.error, await lastReason(w)]).toEqual([401, "invalid_client", reason]);
  });

  test("refuses a Bearer beside it (RFC 6749 §2.3)", async () => {
    const form = { token: "x", client_assertion_type: JWT_SPIFFE, client_assertion: await w.svid() };
    const both = await w.post("/oauth/introspect", form, { authorization: `Bearer ${await w.svid()}` });
    expect([both.status, both.body.error]).toEqual([400, "invalid_request"]);
  });
});

describe("without it, which is the default", () => {
  let w: World;
  beforeAll(async () => {
    w = await world({});
  });
  afterAll(async () => {
    await w.app[Symbol.asyncDispose]();
  });

  test("a JWT-SVID is no client assertion at any endpoint, and the answer says what would make it one", async () => {
    const assertion = { client_assertion_type: JWT_SPIFFE, client_assertion: await w.svid() };
    for (const answer of [
      await w.ask(assertion),
      await w.ask({ ...assertion, client_assertion_type: JWT_BEARER }),
      await w.post("/oauth/introspect", { ...assertion, token: "x" }),
      await w.post("/oauth/revoke", { ...assertion, token: "x" }),
    ]) {
      expect(answer).toMatchObject({ status: 401, body: { error: "invalid_client" } });
      expect(answer.body.error_description).toContain("MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02");
      expect(await lastReason(w)).toBe("client_assertion_type_not_allowed");
    }
  });

  test("metadata does not offer it, and the SVID is a Bearer as ever", async () => {
    const metadata = await metadataOf(w);
    for (const name of METHODS) expect([name, metadata[name]]).toEqual([name, ["private_key_jwt"]]);
    const minted = await w.app.call(await w.svid(), "POST", "/v1/credentials", {
      task_id: w.taskId,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
    });
    expect(minted.status).toBe(201);
  });
});

async function svidOf(w: World, claims: Claims, header: Claims = {}): Promise<Changes> {
  return { client_assertion: await w.svid(claims, header) };
}
