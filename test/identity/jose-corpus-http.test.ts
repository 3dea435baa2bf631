import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { signatureAlgorithms } from "../../src/identity/public-jwk.ts";
import { query } from "../queue/servers.ts";
import { type App, startApp } from "../support/app.ts";
import { type Answered, type CallFromMany, fromManyAddresses } from "../support/many-addresses.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { jwks } from "./fixtures.ts";
import { type Forge, forge, ourWords, stillWorld, textsOf, type World } from "./forge.ts";
import { corpus } from "./jose-corpus.ts";
import { json, type LocalServer, localServer } from "./local-server.ts";

// reliability M1 against the API itself, with its clock, its database and its network: the tokens of a registered client,
// good as client assertion and as Bearer but for their flaws.

const CLIENT = "https://researcher.example";
const stillCases = Object.entries(corpus).flatMap(([name, casesOf]) =>
  casesOf(forge(stillWorld)).map(([what, compact], index) => ({ name, what, compact, index })),
);

let app: App;
let s: Seeded;
let call: CallFromMany;
let canary: LocalServer;
/** How often each reason was answered. */
const told = new Map<string, number>();

beforeAll(async () => {
  app = await startApp({ worker: false });
  s = await seed(app.broker, app.idp);
  call = fromManyAddresses(app.api.port);
  canary = await localServer(json(jwks));
  const admin = await app.token({ sub: "admin" });
  // Every algorithm, so that a refusal is never for want of a longer list.
  const source = {
    name: "c",
    kind: "key_set",
    issuer: CLIENT,
    jwks,
    algorithms: signatureAlgorithms,
    single_use: false,
  };
  const { body } = await app.call(admin, "POST", "/v1/trust-sources", source);
  const identity = { trust_source_id: body.id, agent_id: s.agentId, anchor_claim: "sub", anchor_value: CLIENT };
  const bound = await app.call(admin, "POST", "/v1/identities", { ...identity, conditions: [] });
  expect(bound.status).toBe(201);
});
afterAll(async () => {
  await canary[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

function forgeNow(): Forge {
  const world: World = {
    issuer: CLIENT,
    sub: CLIENT,
    audience: app.broker.issuerUrl("default"),
    nowSeconds: Math.floor(Date.now() / 1000),
    slack: 5,
    evil: canary.origin,
  };
  return forge(world);
}

const asAssertion = (jwt: string, path = "/oauth/token"): Promise<Answered> =>
  call(
    "POST",
    path,
    { "content-type": "application/x-www-form-urlencoded" },
    new URLSearchParams({
      grant_type: "client_credentials",
      token: "none",
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: jwt,
    }).toString(),
  );
const asBearer = (jwt: string): Promise<Answered> => call("GET", "/v1/credentials", { authorization: `Bearer ${jwt}` });

/** A header carries no white space and no letters beyond ASCII in a token, and 16 KiB in all. */
const fitsHeader = (jwt: string): boolean => /^[\x21-\x7e]{1,12000}$/.test(jwt);

/** What the API says otherwise than {@link verifyToken}: the audience and the issuer choose tenant and source before it. */
const otherwise: Readonly<Record<string, string>> = {
  "no iss": "token_issuer_unknown",
  "iss null": "token_claim_invalid",
  "iss as an array": "token_claim_invalid",
};
/** A parameter without a value is absent (RFC 6749 §3.1), a NUL is in no form, a body of more than 64 KiB is not read. */
const noAssertion: Readonly<Record<string, readonly [number, string]>> = {
  empty: [400, "invalid_request"],
  "NUL after": [400, "invalid_request"],
  "10 MB": [413, "invalid_request"],
  "10 MB of dots": [413, "invalid_request"],
};

describe.each(Object.keys(corpus))("malicious JOSE over HTTP: %s", (name) => {
  test.each(stillCases.filter((one) => one.name === name))("$what", async ({ what, index }) => {
    const fresh = corpus[name]?.(forgeNow())[index];
    if (fresh === undefined) throw new Error("no such case");
    const [, compact, still] = fresh;
    const reason = otherwise[what] ?? still;
    const answers: Answered[] = [await asAssertion(compact)];
    const [status, error] = noAssertion[what] ?? [401, "invalid_client"];
    expect(answers[0]).toMatchObject({ status, body: { error } });
    if (fitsHeader(compact)) {
      const answer = await asBearer(compact);
      expect(answer).toMatchObject({ status: 401, body: { code: "unauthenticated" } });
      expect(answer.headers["www-authenticate"]).toMatch(/^Bearer/);
      answers.push(answer);
    }
    const secrets = textsOf(compact, [...ourWords, app.broker.issuerUrl("default"), ...signatureAlgorithms]);
    for (const { status: answered, body, text, headers } of answers) {
      if (answered === 401) {
        expect(body.reasons[0].code).toBe(reason);
        told.set(reason, (told.get(reason) ?? 0) + 1);
      }
      for (const secret of secrets) expect(text + JSON.stringify(headers)).not.toContain(secret);
    }
  });
});

test("every refusal is in the audit, with its own reason, and none is a 429", async () => {
  const rows = await query(
    app.database.superuserUrl,
    `select data->>'reason' as reason, count(*)::int as n from mayfly.audit_events
      where type = 'authentication.refused' group by 1`,
  );
  const recorded = Object.fromEntries((rows as { reason: string; n: number }[]).map(({ reason, n }) => [reason, n]));
  expect(recorded).toEqual(Object.fromEntries(told));
});

test("at least 150 cases go each way", () => {
  expect(stillCases.length).toBeGreaterThanOrEqual(150);
  expect(stillCases.filter(({ compact }) => fitsHeader(compact)).length).toBeGreaterThanOrEqual(150);
});

test("nobody went where a token pointed, though Mayfly could have gone there", async () => {
  const pointing = Object.entries(corpus).flatMap(([, casesOf]) => casesOf(forgeNow()));
  expect(
    pointing.filter(([, jwt]) => Buffer.from(jwt, "base64url").toString("latin1").includes(canary.origin)).length,
  ).toBeGreaterThanOrEqual(4);
  expect(canary.connections()).toBe(0);
  await app.broker.fetchJson(`${canary.origin}/jwks.json`);
  expect(canary.connections()).toBe(1);
});

test("the honest token that all are made of passes, both ways", async () => {
  const { token } = forgeNow();
  expect((await asBearer(token({ jti: "honest-1" }))).status).toBe(200);
  expect((await asAssertion(token({ jti: "honest-2" }), "/oauth/introspect")).status).toBe(200);
  // Authenticated: what it complains about is the grant's own parameters.
  expect(await asAssertion(token({ jti: "honest-3" }))).toMatchObject({
    status: 400,
    body: { error: "invalid_target" },
  });
});
