import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { createAuthenticator } from "../../src/identity/authenticate.ts";
import { createKeyCache } from "../../src/identity/key-cache.ts";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { openTask } from "../oauth/harness.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { type IdentityProvider, identityProvider, PLAIN_TYP } from "./oidc-provider.ts";

const AGENT = "reporter";
const STRANGER = "stranger";
const OTHER_APP = "some-other-app";

let app: App;
let s: Seeded;
let idp: IdentityProvider;
let audience: string;
let taskId: string;
let sourceId: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  audience = app.broker.issuerUrl("default");
  taskId = await openTask(app, s);
  idp = await identityProvider({
    machines: [AGENT, STRANGER, PLAIN_TYP],
    // A client whose name at the provider is Mayfly's issuer string: its ID tokens are for Mayfly.
    apps: [audience, OTHER_APP],
    groupsOf: { alice: ["mayfly-auditors"], mallory: ["everybody"] },
  });
  const source = await admin("POST", "/v1/trust-sources", {
    name: "idp",
    kind: "oidc",
    issuer: idp.issuer,
    algorithms: ["ES256"],
    access_tokens: true,
    max_token_age_seconds: 300,
    role_mappings: [{ when: [{ claim: "groups", contains: "mayfly-auditors" }], roles: ["auditor"] }],
  });
  sourceId = source.body.id;
  for (const anchor_value of [AGENT, PLAIN_TYP]) {
    const identity = {
      trust_source_id: sourceId,
      agent_id: s.agentId,
      anchor_claim: "sub",
      anchor_value,
      // Only the client's own tokens: a human may have the same sub.
      conditions: [{ claim: "client_id", equals: anchor_value }],
    };
    expect((await admin("POST", "/v1/identities", identity)).status).toBe(201);
  }
});
afterAll(async () => {
  await idp[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

async function admin(method: string, path: string, body?: object, headers = {}): Promise<Answer> {
  return app.call(await app.token({ sub: "admin" }), method, path, body, headers);
}
const mintAs = (token: string): Promise<Answer> =>
  app.call(token, "POST", "/v1/credentials", {
    task_id: taskId,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
  });
const history = (token: string): Promise<Answer> => app.call(token, "GET", "/v1/credentials");
const asAssertion = (client_assertion: string): Promise<Answer> =>
  app.call(
    null,
    "POST",
    "/oauth/token",
    new URLSearchParams({
      grant_type: "client_credentials",
      resource: "https://tickets.test/api",
      authorization_details: JSON.stringify([
        { type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"] },
      ]),
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion,
    }).toString(),
    { "content-type": "application/x-www-form-urlencoded" },
  );
const outcome = ({ status, body }: Answer): unknown[] => [status, body.reasons?.[0]?.code ?? body.code];

test("Mayfly finds the provider's keys by discovery", async () => {
  const { body } = await admin("POST", `/v1/trust-sources/${sourceId}/check`);
  expect(body).toEqual({ ok: true, keys: 1, left_out: [], problem: null });
});

describe("an agent, by client credentials", () => {
  test("mints with an access token that names Mayfly as its resource (RFC 8707, RFC 9068)", async () => {
    const token = await idp.clientToken(AGENT, audience);
    expect([decodeProtectedHeader(token).typ, decodeJwt(token)]).toEqual([
      "at+jwt",
      expect.objectContaining({ aud: audience, sub: AGENT, client_id: AGENT, iss: idp.issuer }),
    ]);
    expect((await mintAs(token)).status).toBe(201);
  });

  test("an access token is no client assertion, whatever the source says", async () => {
    const answer = await asAssertion(await idp.clientToken(AGENT, audience));
    expect([answer.status, answer.body.error, answer.body.reasons[0].code]).toEqual([
      401,
      "invalid_client",
      "token_kind_confused",
    ]);
  });

  test("a JWT of a provider that does not type its access tokens mints as a Bearer and as an assertion", async () => {
    const token = await idp.clientToken(PLAIN_TYP, audience);
    expect(decodeProtectedHeader(token).typ).toBe("JWT");
    expect([(await mintAs(token)).status, (await asAssertion(token)).status]).toEqual([201, 200]);
  });

  test("a token for another resource is refused", async () => {
    expect(outcome(await mintAs(await idp.clientToken(AGENT, "https://other.test/api")))).toEqual([
      401,
      "token_audience_mismatch",
    ]);
  });

  test("a token for Mayfly's URL, but for no tenant of it, is refused", async () => {
    for (const resource of [app.api.url, `${audience}/`, `${app.api.url}/t/nobody`])
      expect([resource, ...outcome(await mintAs(await idp.clientToken(AGENT, resource)))]).toEqual([
        resource,
        401,
        "token_audience_mismatch",
      ]);
  });

  test("an opaque token is no proof of anything", async () => {
    expect(outcome(await mintAs(await idp.clientToken(AGENT)))).toEqual([401, "token_malformed"]);
  });

  test("a client that nobody bound to an agent is nobody", async () => {
    expect(outcome(await mintAs(await idp.clientToken(STRANGER, audience)))).toEqual([401, "identity_unknown"]);
  });
});

describe("a human, by the authorization code flow", () => {
  test("reads the history with an ID token whose client is named as Mayfly's issuer, and mints nothing", async () => {
    const { idToken } = await idp.logIn(audience, "alice");
    expect(decodeJwt(idToken)).toMatchObject({ aud: audience, sub: "alice", groups: ["mayfly-auditors"] });
    const read = await history(idToken);
    expect([read.status, Array.isArray(read.body.items)]).toEqual([200, true]);
    expect(outcome(await mintAs(idToken))).toEqual([403, "forbidden"]);
  });

  test("reads the history with an access token for Mayfly, of any client", async () => {
    const { accessToken } = await idp.logIn(OTHER_APP, "alice", audience);
    expect((await history(accessToken)).status).toBe(200);
  });

  test("an ID token is for the client that the human logged in to: another app's is refused", async () => {
    const { idToken } = await idp.logIn(OTHER_APP, "alice");
    expect(decodeJwt(idToken).aud).toBe(OTHER_APP);
    expect(outcome(await history(idToken))).toEqual([401, "token_audience_mismatch"]);
  });

  test("a human whose groups no role mapping names gets nothing", async () => {
    const { idToken } = await idp.logIn(audience, "mallory");
    expect(outcome(await history(idToken))).toEqual([401, "identity_unknown"]);
  });

  test("a human who is called like the agent's client is not the agent", async () => {
    const { idToken } = await idp.logIn(audience, AGENT);
    const { accessToken } = await idp.logIn(OTHER_APP, AGENT, audience);
    expect([decodeJwt(idToken).sub, decodeJwt(accessToken).sub]).toEqual([AGENT, AGENT]);
    expect([outcome(await mintAs(idToken)), outcome(await mintAs(accessToken))]).toEqual([
      [401, "identity_unknown"],
      [401, "identity_unknown"],
    ]);
  });
});

describe("the provider's keys", () => {
  test("a rotation is picked up within a minute of the first token that needs it, and the old key is worth nothing", async () => {
    let clock = 0;
    const keyCache = createKeyCache({ fetchJson: app.broker.fetchJson, nowMs: () => clock });
    const authenticate = createAuthenticator({ ...app.broker, keyCache, now: () => new Date() });
    const ask = async (token: string): Promise<string> =>
      authenticate({ authorization: `Bearer ${token}` }, { method: "GET" }).then(
        ({ roles }) => roles.join(),
        (error: unknown) => (error instanceof MayflyError ? (error.reasons[0]?.code ?? "") : String(error)),
      );
    const [before, beforeToo] = [await idp.clientToken(AGENT, audience), await idp.clientToken(AGENT, audience)];
    expect(await ask(before)).toBe("agent");
    const reads = idp.keyReads();
    await idp.rotate();
    const after = await idp.clientToken(AGENT, audience);
    expect([await ask(after), idp.keyReads()]).toEqual(["token_key_unknown", reads]);
    clock += 60_000;
    await ask(after);
    // The refetch runs behind the request that asked for it.
    await until("the new key is known", async () => (await ask(after)) === "agent");
    expect(idp.keyReads()).toBe(reads + 1);
    // Not even the token that was verified and remembered before.
    expect([await ask(before), await ask(beforeToo)]).toEqual(["token_key_unknown", "token_key_unknown"]);
  });
});

test("access tokens are taken only where the trust source says so; what is typed JWT is taken as before", async () => {
  const { body } = await admin("GET", `/v1/trust-sources/${sourceId}`);
  const changed = await admin(
    "PATCH",
    `/v1/trust-sources/${sourceId}`,
    { access_tokens: false },
    { "if-match": `"${body.version}"` },
  );
  expect(changed.status).toBe(200);
  const typed = await mintAs(await idp.clientToken(AGENT, audience));
  const plain = await mintAs(await idp.clientToken(PLAIN_TYP, audience));
  const { idToken } = await idp.logIn(audience, "alice");
  expect([outcome(typed), plain.status, (await history(idToken)).status]).toEqual([
    [401, "token_kind_confused"],
    201,
    200,
  ]);
});
