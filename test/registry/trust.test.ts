import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exportJWK, generateKeyPair } from "jose";
import { trustSourceSchema } from "../../src/identity/trust-source.ts";
import { aCredential, anActiveAgent, bodies, fresh } from "./builders.ts";
import { type Registry, registry } from "./harness.ts";

let r: Registry;
let jwk: object;
beforeAll(async () => {
  r = await registry();
  jwk = {
    ...(await exportJWK((await generateKeyPair("ES256", { extractable: true })).publicKey)),
    kid: "k1",
    use: "sig",
  };
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const source = async (changes: object = {}, who = "admin") =>
  r.ask(who, "POST", "/v1/trust-sources", { body: { ...(await bodies.trustSource()), ...changes } });

describe("trust sources", () => {
  test("of every kind are stored so that verification reads exactly what was registered", async () => {
    const issuer = () => `https://${fresh("idp")}.example.com`;
    const every = [
      { kind: "oidc", issuer: issuer() },
      { kind: "jwks_uri", issuer: fresh("name"), jwks_uri: "https://keys.example.com/jwks" },
      { kind: "key_set", issuer: fresh("name"), jwks: { keys: [jwk] } },
      { kind: "spiffe", issuer: "spiffe://acme.test", bundle: { keys: [{ ...jwk, use: "jwt-svid" }] } },
      {
        kind: "spiffe",
        issuer: "spiffe://acme2.test",
        bundle_url: "https://spire.example.com/bundle",
        bundle_profile: "https_web",
      },
    ];
    for (const given of every) {
      const got = await r.ask("admin", "POST", "/v1/trust-sources", { body: { name: fresh("idp"), ...given } });
      expect([given.kind, got.status]).toEqual([given.kind, 201]);
      const [row] = await r.sql<{ kind: string; issuer: string; settings: object }>(
        "select kind, issuer, settings from trust_sources where id = $1",
        [got.json.id],
      );
      expect(Object.keys(row?.settings ?? {})).not.toContain("name");
      const read = trustSourceSchema.parse({ kind: row?.kind, issuer: row?.issuer, ...row?.settings });
      expect(read).toEqual(trustSourceSchema.parse(given));
      expect(got.json).toMatchObject({ ...read, audience: "https://mayfly.test/t/default" });
    }
  });

  test.each([
    ["a misspelt restriction", { max_token_age: 60 }, "/max_token_age"],
    ["another kind's member", { jwks_uri: "https://x.example.com" }, "/jwks_uri"],
    ["an issuer with a query", { issuer: "https://x.example.com/?a=1" }, "/issuer"],
    ["an issuer that is no public address", { issuer: "https://10.0.0.1" }, "/issuer"],
    ["roles for everybody", { role_mappings: [{ when: [], roles: ["admin"] }] }, "/role_mappings/0/when"],
    [
      "the role agent",
      { role_mappings: [{ when: [{ claim: "r", equals: "x" }], roles: ["agent"] }] },
      "/role_mappings/0/roles/0",
    ],
    [
      "operators",
      { role_mappings: [{ when: [{ claim: "r", equals: "x" }], roles: ["operator"] }] },
      "/role_mappings/0/roles",
    ],
    ["Mayfly itself", { issuer: "https://mayfly.test/t/other" }, "/issuer"],
  ])("%s is refused, at once and by a later change", async (_what, changes, pointer) => {
    const got = await source(changes);
    expect([got.status, got.json.errors?.[0].pointer]).toEqual([400, pointer]);
    if ("issuer" in changes) return;
    const made = await source();
    const patched = await r.ask("admin", "PATCH", `/v1/trust-sources/${made.json.id}`, {
      body: changes,
      ifMatch: '"1"',
    });
    expect([patched.status, patched.json.errors?.[0].pointer]).toEqual([400, pointer]);
  });

  test("operators are mapped in the system tenant alone", async () => {
    const role_mappings = [{ when: [{ claim: "r", equals: "x" }], roles: ["operator"] }];
    expect((await source({ role_mappings }, "admin@system")).status).toBe(201);
  });

  test("a change is judged as a whole, and null takes a setting away", async () => {
    const body = {
      name: fresh("spire"),
      kind: "spiffe",
      issuer: `spiffe://${fresh("td")}`,
      bundle_url: "https://spire.example.com/b",
      bundle_profile: "https_web",
    };
    const at = `/v1/trust-sources/${await r.make("/v1/trust-sources", body)}`;
    const bundle = { keys: [{ ...jwk, use: "jwt-svid" }] };
    const both = await r.ask("admin", "PATCH", at, { body: { bundle }, ifMatch: '"1"' });
    expect([both.status, both.json.errors[0].pointer]).toEqual([400, "/bundle_url"]);
    const one = await r.ask("admin", "PATCH", at, {
      body: { bundle, bundle_url: null, bundle_profile: null },
      ifMatch: '"1"',
    });
    expect(one.status).toBe(200);
    expect(one.json.bundle).toEqual(bundle);
    expect(one.json).not.toHaveProperty("bundle_url");
    const neither = await r.ask("admin", "PATCH", at, { body: { bundle: null }, ifMatch: '"2"' });
    expect(neither.status).toBe(400);
  });

  test("one issuer has one trust source", async () => {
    const { json } = await source();
    const again = await source({ issuer: json.issuer });
    expect([again.status, again.json.errors[0].pointer]).toEqual([409, "/issuer"]);
  });

  test("registering fetches nothing; a look on demand says what is wrong in our own words", async () => {
    const { json } = await source({ issuer: "http://127.0.0.1:1" });
    const got = await r.ask("admin", "POST", `/v1/trust-sources/${json.id}/check`);
    expect(got.json).toEqual({ ok: false, keys: 0, left_out: [], problem: expect.any(String) });
    const pinned = await source({ kind: "key_set", issuer: fresh("n"), jwks: { keys: [jwk] } });
    const looked = await r.ask("admin", "POST", `/v1/trust-sources/${pinned.json.id}/check`);
    expect(looked.json).toEqual({ ok: true, keys: 1, left_out: [], problem: null });
  });

  test("one that identities rest on is not removed", async () => {
    const body = await bodies.identity(r);
    const id = await r.make("/v1/identities", body);
    const at = `/v1/trust-sources/${body.trust_source_id}`;
    const got = await r.ask("admin", "DELETE", at, { ifMatch: '"1"' });
    expect([got.status, got.json.detail]).toEqual([409, `identities still refer to this trust source: ${id}`]);
  });
});

describe("identities", () => {
  const bind = async (changes: object) =>
    r.ask("admin", "POST", "/v1/identities", { body: { ...(await bodies.identity(r)), ...changes } });

  test.each([
    ["shared: groups", { anchor_claim: "groups" }, "/anchor_claim"],
    ["shared: tid", { anchor_claim: "tid" }, "/anchor_claim"],
    ["shared: repository_owner_id", { anchor_claim: "repository_owner_id" }, "/anchor_claim"],
    ["verified anyway: iss", { anchor_claim: "iss" }, "/anchor_claim"],
    ["reusable: email", { anchor_claim: "email" }, "/anchor_claim"],
    ["reusable: repository", { anchor_claim: "repository" }, "/anchor_claim"],
    ["never again: jti", { anchor_claim: "jti" }, "/anchor_claim"],
    ["a pointer", { anchor_claim: "/a/b" }, "/anchor_claim"],
    ["a wildcard", { anchor_value: "repo:acme/*" }, "/anchor_value"],
    ["a control character", { anchor_value: "a\nb" }, "/anchor_value"],
    ["nothing", { anchor_value: "" }, "/anchor_value"],
    ["a prefix", { conditions: [{ claim: "id", spiffe_prefix: "spiffe://acme.test/a/*" }] }, "/conditions/0"],
    ["a wildcard in a condition", { conditions: [{ claim: "ref", equals: "refs/heads/*" }] }, "/conditions/0"],
    ["eleven values", { conditions: [{ claim: "ref", one_of: [..."abcdefghijk"] }] }, "/conditions/0"],
    ["a condition on the anchor", { conditions: [{ claim: "sub", one_of: ["a", "b"] }] }, "/conditions/0"],
    ["a condition on what is verified anyway", { conditions: [{ claim: "aud", equals: "x" }] }, "/conditions/0/claim"],
    ["a service account without its uid", { anchor_value: "system:serviceaccount:ci:bot" }, "/conditions"],
    ["a whole repository", { anchor_claim: "repository_id", anchor_value: "7" }, "/conditions"],
  ])("%s does not name one workload", async (_what, changes, pointer) => {
    const got = await bind(changes);
    expect([got.status, got.json.errors?.[0].pointer.startsWith(pointer)]).toEqual([400, true]);
  });

  test.each([
    [
      {
        anchor_value: "system:serviceaccount:ci:bot",
        conditions: [{ claim: "/kubernetes.io/serviceaccount/uid", equals: "u" }],
      },
    ],
    [
      {
        anchor_claim: "repository_id",
        anchor_value: "7",
        conditions: [{ claim: "job_workflow_ref", equals: "a/b/.github/workflows/x.yml@refs/heads/main" }],
      },
    ],
    [{ anchor_claim: "oid", anchor_value: "00000000-0000-0000-0000-000000000007" }],
    [
      {
        conditions: [
          { claim: "environment", one_of: ["staging", "development"] },
          { claim: "groups", contains: "ci" },
        ],
      },
    ],
  ])("%j does", async (changes) => {
    const got = await bind(changes);
    expect(got.status).toBe(201);
    expect(got.json).toMatchObject(changes);
  });

  test("a SPIFFE workload is named by its own id in its own trust domain", async () => {
    const body = {
      name: fresh("spire"),
      kind: "spiffe",
      issuer: "spiffe://prod.acme.test",
      bundle_url: "https://spire.example.com/b",
      bundle_profile: "https_web",
    };
    const trust_source_id = await r.make("/v1/trust-sources", body);
    for (const anchor_value of [
      "spiffe://prod.acme.test",
      "spiffe://other.test/agent",
      "spiffe://PROD.acme.test/agent",
      "agent",
    ])
      expect([anchor_value, (await bind({ trust_source_id, anchor_value })).status]).toEqual([anchor_value, 400]);
    expect((await bind({ trust_source_id, anchor_claim: "oid" })).status).toBe(400);
    expect((await bind({ trust_source_id, anchor_value: "spiffe://prod.acme.test/agent" })).status).toBe(201);
  });

  test("no token can be taken for two: equal anchors need conditions that exclude each other", async () => {
    const base = { ...(await bodies.identity(r)), anchor_claim: "repository_id", anchor_value: "7" };
    const at = async (...conditions: object[]) =>
      r.ask("admin", "POST", "/v1/identities", { body: { ...base, agent_id: await anActiveAgent(r), conditions } });
    const first = await at({ claim: "environment", equals: "staging" });
    expect(first.status).toBe(201);
    expect((await at({ claim: "environment", equals: "production" })).status).toBe(201);
    for (const conditions of [
      [{ claim: "environment", equals: "staging" }],
      [{ claim: "ref", equals: "refs/heads/main" }],
      [
        { claim: "environment", equals: "staging" },
        { claim: "ref", equals: "refs/heads/main" },
      ],
    ]) {
      const got = await at(...conditions);
      expect([got.status, got.json.errors[0].detail]).toEqual([409, expect.stringContaining(first.json.id)]);
    }
  });

  test("of two bindings of one workload at the same moment one is refused", async () => {
    for (let round = 0; round < 5; round += 1) {
      const body = await bodies.identity(r);
      const other = { ...body, agent_id: await anActiveAgent(r), conditions: [{ claim: "x", equals: 1 }] };
      const both = await Promise.all(
        [body, other].map((one) => r.ask("admin", "POST", "/v1/identities", { body: one })),
      );
      expect(both.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 409]);
    }
  });

  test("a retired agent gets no identity", async () => {
    const agent_id = await anActiveAgent(r);
    await r.ask("admin", "POST", `/v1/agents/${agent_id}/state`, { body: { state: "retired" } });
    expect((await bind({ agent_id })).json.errors[0].pointer).toBe("/agent_id");
  });

  test("removing one takes back what was minted through it, and not what came through another", async () => {
    const body = await bodies.identity(r);
    const [mine, other] = [
      await r.make("/v1/identities", body),
      await r.make("/v1/identities", { ...body, anchor_value: fresh("w") }),
    ];
    const through = (identityId: string) => aCredential(r, { agentId: body.agent_id, identityId });
    const [gone, kept] = [await through(mine), await through(other)];
    expect((await r.ask("admin", "DELETE", `/v1/identities/${mine}`, { ifMatch: '"1"' })).status).toBe(204);
    const states = await r.sql("select id, state from credentials where id = any($1) order by id", [[gone, kept]]);
    expect(states).toEqual([
      { id: gone, state: "revoking" },
      { id: kept, state: "active" },
    ]);
  });
});
