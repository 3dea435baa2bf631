import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Authenticator, createAuthenticator } from "../../src/identity/authenticate.ts";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { openTask } from "../oauth/harness.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { rawToken, type TestKey } from "./fixtures.ts";
import { json, localServer } from "./local-server.ts";

type Claims = Record<string, unknown>;

/** One platform: what its key is, and what a token of the workload that the guide registers looks like. */
interface Platform {
  readonly alg: "RS256" | "ES384";
  readonly key: TestKey;
  readonly header: Claims;
  honest(now: number): Claims;
}

function newKey(kid: string, alg: "RS256" | "ES384"): TestKey {
  const pair =
    alg === "RS256"
      ? generateKeyPairSync("rsa", { modulusLength: 2048 })
      : generateKeyPairSync("ec", { namedCurve: "P-384" });
  return { kid, ...pair, jwk: { ...pair.publicKey.export({ format: "jwk" }), kid, use: "sig" } };
}

const AWS = "https://sts.amazonaws.com/";
const TENANT = "8a5e6d1c-3b0e-4c43-9a35-0d5f0c6f9b11";
const OBJECT = "5e0f8a52-98c1-4c7d-8b8e-9a6f3a3b7c21";

/** Claim sets as the platforms document them. */
const platforms: Record<string, Platform> = {
  Kubernetes: {
    alg: "RS256",
    key: newKey("k8s", "RS256"),
    header: {},
    honest: (now) => ({
      exp: now + 3607,
      iat: now,
      iss: "https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF",
      jti: randomUUID(),
      "kubernetes.io": {
        namespace: "agents",
        node: { name: "ip-10-0-1-7", uid: "f1b7a2ce-0a35-4c7a-8f64-6d6f9e9a5a77" },
        pod: { name: "reporter-7c9d", uid: "e3b1f0b2-77a1-4b5a-9f35-7c0d1e2f3a44" },
        serviceaccount: { name: "reporter", uid: "7d2cf1f5-6c43-4f2e-9c55-6d0f6b6a7a01" },
        warnafter: now + 3607,
      },
      nbf: now,
      sub: "system:serviceaccount:agents:reporter",
    }),
  },
  "GitHub Actions": {
    alg: "RS256",
    key: newKey("gh", "RS256"),
    header: { typ: "JWT", x5t: "eBZ_cn3sXYAd0ch4THBKHIgOwOE" },
    honest: (now) => ({
      actor: "octocat",
      actor_id: "583231",
      base_ref: "",
      check_run_id: "4711",
      environment: "production",
      environment_node_id: "EN_kwDO",
      event_name: "push",
      exp: now + 300,
      head_ref: "",
      iat: now,
      iss: "https://token.actions.githubusercontent.com",
      job_workflow_ref: "acme/app/.github/workflows/agent.yml@refs/heads/main",
      job_workflow_sha: "1f0c9e6e0b5d1c2a3f4b5c6d7e8f9a0b1c2d3e4f",
      jti: randomUUID(),
      nbf: now - 600,
      ref: "refs/heads/main",
      ref_protected: "true",
      ref_type: "branch",
      repository: "acme/app",
      repository_id: "74",
      repository_owner: "acme",
      repository_owner_id: "65",
      repository_visibility: "private",
      run_attempt: "1",
      run_id: "9876543210",
      run_number: "10",
      runner_environment: "github-hosted",
      sha: "1f0c9e6e0b5d1c2a3f4b5c6d7e8f9a0b1c2d3e4f",
      sub: "repo:acme/app:environment:production",
      workflow: "agent",
      workflow_ref: "acme/app/.github/workflows/agent.yml@refs/heads/main",
      workflow_sha: "1f0c9e6e0b5d1c2a3f4b5c6d7e8f9a0b1c2d3e4f",
    }),
  },
  "Google Cloud": {
    alg: "RS256",
    key: newKey("google", "RS256"),
    header: { typ: "JWT" },
    honest: (now) => ({
      azp: "112233445566778899001",
      email: "reporter@acme-agents.iam.gserviceaccount.com",
      email_verified: true,
      exp: now + 3600,
      google: {
        compute_engine: {
          instance_creation_timestamp: now - 86_400,
          instance_id: "5731269148283215041",
          instance_name: "agents-1",
          project_id: "acme-agents",
          project_number: 739419398126,
          zone: "europe-west1-b",
        },
      },
      iat: now,
      iss: "https://accounts.google.com",
      sub: "112233445566778899001",
    }),
  },
  AWS: {
    alg: "ES384",
    key: newKey("aws", "ES384"),
    header: { typ: "JWT" },
    honest: (now) => ({
      iss: "https://abc123-def456-ghi789-jkl012.tokens.sts.global.api.aws",
      sub: "arn:aws:iam::123456789012:role/agents/Reporter",
      iat: now,
      exp: now + 300,
      jti: randomUUID(),
      [AWS]: {
        aws_account: "123456789012",
        source_region: "eu-west-1",
        org_id: "o-abc1234567",
        ou_path: "o-abc1234567/r-ab12/ou-ab12-11111111/",
        principal_tags: { environment: "production" },
        lambda_source_function_arn: "arn:aws:lambda:eu-west-1:123456789012:function:reporter",
        request_tags: { "job-id": "7" },
      },
    }),
  },
  "Microsoft Entra ID": {
    alg: "RS256",
    key: newKey("entra", "RS256"),
    header: { typ: "JWT", x5t: "9GmnyFPkhc3hOuR22mvSvgnLo7Y" },
    honest: (now) => ({
      iss: `https://sts.windows.net/${TENANT}/`,
      iat: now,
      nbf: now,
      exp: now + 86_400,
      aio: "E2ZgYPj/",
      appid: "0f4f1d0c-2b6d-4c0b-8c6a-0a5d3e1c7b20",
      appidacr: "2",
      idp: `https://sts.windows.net/${TENANT}/`,
      idtyp: "app",
      oid: OBJECT,
      rh: "0.AX",
      sub: OBJECT,
      tid: TENANT,
      uti: "9F0aXb",
      ver: "1.0",
      xms_mirid:
        "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reporter",
    }),
  },
};

/** The requests of the guide, by the section that they stand in. */
const guide = readFileSync(new URL("../../docs/workload-identity.md", import.meta.url), "utf8");
const examples = new Map(
  guide.split(/^## /m).map((section) => [
    section.slice(0, section.indexOf("\n")),
    [...section.matchAll(/`POST (\/v1\/[a-z-]+)`\n\n```json\n([^`]*)```/g)].map(([, path = "", body = ""]) => ({
      path,
      body: JSON.parse(body) as Claims,
    })),
  ]),
);

const JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

let app: App;
let s: Seeded;
let authenticate: Authenticator;
let audience: string;
let taskId: string;
beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  audience = app.broker.issuerUrl("default");
  taskId = await openTask(app, s);
  authenticate = createAuthenticator({ ...app.broker, now: () => new Date() });
  for (const [name, { key }] of Object.entries(platforms)) await register(name, key);
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

async function admin(method: string, path: string, body?: object): Promise<Answer> {
  return app.call(await app.token({ sub: "admin" }), method, path, body);
}

/** What the guide registers for a platform, but with keys that this test has: the platform's own are not ours to sign with. */
async function register(name: string, key: TestKey): Promise<void> {
  const [source, identity] = examples.get(name) ?? [];
  const made = await admin("POST", "/v1/trust-sources", {
    ...source?.body,
    kind: "key_set",
    jwks: { keys: [key.jwk] },
    single_use: source?.body["single_use"] ?? false,
  });
  const bound = await admin("POST", "/v1/identities", {
    ...identity?.body,
    trust_source_id: made.body.id,
    agent_id: s.agentId,
  });
  if (made.status !== 201 || bound.status !== 201) throw new Error(`${name}: ${made.text} ${bound.text}`);
}

/** A token of a platform for Mayfly, changed: `undefined` leaves a claim out. */
function tokenOf(name: string, changes: (honest: Claims) => Claims = () => ({})): string {
  const { alg, key, header, honest } = platforms[name] as Platform;
  const claims = { aud: audience, ...honest(Math.floor(Date.now() / 1000)) };
  return rawToken(
    JSON.stringify({ alg, kid: key.kid, ...header }),
    JSON.stringify({ ...claims, ...changes(claims) }),
    key,
    alg,
  );
}

const mintAs = (token: string): Promise<Answer> =>
  app.call(token, "POST", "/v1/credentials", {
    task_id: taskId,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
  });

const tokenFor = (assertion: string): Promise<Answer> =>
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
      client_assertion_type: JWT_BEARER,
      client_assertion: assertion,
    }).toString(),
    { "content-type": "application/x-www-form-urlencoded" },
  );

const payloadOf = (token: string): Claims => JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
const inside = (name: string, changes: Claims) => (claims: Claims) => ({
  [name]: { ...(claims[name] as Claims), ...changes },
});

describe.each(Object.keys(platforms))("%s: the workload that the guide registers", (name) => {
  test("is the agent: its token mints as a Bearer and as a client assertion", async () => {
    const bearer = await mintAs(tokenOf(name));
    const assertion = await tokenFor(tokenOf(name));
    expect([bearer.status, assertion.status]).toEqual([201, 200]);
    expect(payloadOf(bearer.body.secret.access_token)["sub"]).toBe(s.agentId);
    expect(payloadOf(assertion.body.access_token)["sub"]).toBe(s.agentId);
  });

  test("its token is one array of one audience as well, and works twice only where the guide says so", async () => {
    const token = tokenOf(name, () => ({ aud: [audience] }));
    const singleUse = examples.get(name)?.[0]?.body["single_use"] === true;
    expect([(await mintAs(token)).status, (await mintAs(token)).status]).toEqual([201, singleUse ? 401 : 201]);
  });
});

const seconds = (): number => Math.floor(Date.now() / 1000);
type Miss = [platform: string, what: string, changes: (honest: Claims) => Claims, reason: string];

const nearMisses: Miss[] = [
  ["Kubernetes", "another namespace", () => ({ sub: "system:serviceaccount:other:reporter" }), "identity_unknown"],
  [
    "Kubernetes",
    "another service account",
    () => ({ sub: "system:serviceaccount:agents:reporter2" }),
    "identity_unknown",
  ],
  [
    "Kubernetes",
    "the name made again, with another uid",
    inside("kubernetes.io", { serviceaccount: { name: "reporter", uid: "00000000-6c43-4f2e-9c55-6d0f6b6a7a01" } }),
    "identity_unknown",
  ],
  [
    "Kubernetes",
    "no uid (T-5.3)",
    inside("kubernetes.io", { serviceaccount: { name: "reporter" } }),
    "identity_unknown",
  ],
  ["Kubernetes", "no kubernetes.io at all (T-5.3)", () => ({ "kubernetes.io": undefined }), "token_claim_missing"],
  ["Kubernetes", "no pod (T-5.3)", inside("kubernetes.io", { pod: undefined }), "token_claim_missing"],
  [
    "Kubernetes",
    "the uid where a reader that splits at dots would look",
    () => ({
      "kubernetes.io": { pod: { uid: "p" } },
      kubernetes: { io: { serviceaccount: { uid: "7d2cf1f5-6c43-4f2e-9c55-6d0f6b6a7a01" } } },
    }),
    "identity_unknown",
  ],
  ["Kubernetes", "a legacy token without exp", () => ({ exp: undefined }), "token_claim_missing"],
  ["Kubernetes", "a legacy token without aud", () => ({ aud: undefined }), "token_claim_missing"],
  [
    "Kubernetes",
    "the API server as audience",
    () => ({ aud: ["https://kubernetes.default.svc"] }),
    "token_audience_mismatch",
  ],
  [
    "Kubernetes",
    "ours and the API server as audience",
    () => ({ aud: [audience, "https://kubernetes.default.svc"] }),
    "token_audience_multiple",
  ],

  [
    "GitHub Actions",
    "another repository",
    () => ({ repository: "acme/other", repository_id: "75" }),
    "identity_unknown",
  ],
  [
    "GitHub Actions",
    "the repository's name made again, with another id",
    () => ({ repository_id: "7400" }),
    "identity_unknown",
  ],
  ["GitHub Actions", "the id as a number", () => ({ repository_id: 74 }), "identity_unknown"],
  ["GitHub Actions", "no repository_id (T-5.3)", () => ({ repository_id: undefined }), "identity_unknown"],
  [
    "GitHub Actions",
    "another owner",
    () => ({ repository_owner: "evil", repository_owner_id: "66" }),
    "token_conditions_not_met",
  ],
  ["GitHub Actions", "the owner's id as a number", () => ({ repository_owner_id: 65 }), "token_conditions_not_met"],
  ["GitHub Actions", "no owner's id (T-5.3)", () => ({ repository_owner_id: undefined }), "token_conditions_not_met"],
  [
    "GitHub Actions",
    "a pull request from a fork",
    () => ({
      event_name: "pull_request",
      ref: "refs/pull/7/merge",
      head_ref: "evil",
      sub: "repo:acme/app:pull_request",
    }),
    "token_conditions_not_met",
  ],
  [
    "GitHub Actions",
    "pull_request_target, which runs on main",
    () => ({ event_name: "pull_request_target" }),
    "token_conditions_not_met",
  ],
  ["GitHub Actions", "another branch", () => ({ ref: "refs/heads/evil" }), "identity_unknown"],
  [
    "GitHub Actions",
    "a tag called like the branch",
    () => ({ ref: "refs/tags/main", ref_type: "tag" }),
    "identity_unknown",
  ],
  ["GitHub Actions", "another environment", () => ({ environment: "staging" }), "identity_unknown"],
  ["GitHub Actions", "no environment (T-5.3)", () => ({ environment: undefined }), "identity_unknown"],
  [
    "GitHub Actions",
    "the owner's URL as audience, which is the default",
    () => ({ aud: "https://github.com/acme" }),
    "token_audience_mismatch",
  ],
  ["GitHub Actions", "no exp", () => ({ exp: undefined }), "token_claim_missing"],
  [
    "GitHub Actions",
    "an old one",
    () => ({ iat: seconds() - 301, nbf: seconds() - 900, exp: seconds() + 60 }),
    "token_too_old",
  ],

  ["Google Cloud", "another service account", () => ({ sub: "112233445566778899002" }), "identity_unknown"],
  ["Google Cloud", "the unique id as a number", () => ({ sub: 1122334455667788 }), "token_claim_invalid"],
  ["Google Cloud", "the e-mail as sub", (claims) => ({ sub: claims["email"] }), "identity_unknown"],
  [
    "Google Cloud",
    "another project",
    (claims) => ({ google: { compute_engine: { ...computeEngine(claims), project_id: "acme-agents-2" } } }),
    "identity_unknown",
  ],
  [
    "Google Cloud",
    "a project's number as its id",
    (claims) => ({ google: { compute_engine: { ...computeEngine(claims), project_id: 739419398126 } } }),
    "identity_unknown",
  ],
  ["Google Cloud", "no project (T-5.3)", () => ({ google: undefined }), "identity_unknown"],
  ["Google Cloud", "a list where the object was", (claims) => ({ google: [claims["google"]] }), "identity_unknown"],
  [
    "Google Cloud",
    "a web client as audience",
    () => ({ aud: "32555940559.apps.googleusercontent.com" }),
    "token_audience_mismatch",
  ],
  [
    "Google Cloud",
    "the issuer without https, as old tokens have it",
    () => ({ iss: "accounts.google.com" }),
    "token_issuer_unknown",
  ],

  ["AWS", "another role", () => ({ sub: "arn:aws:iam::123456789012:role/agents/Writer" }), "identity_unknown"],
  ["AWS", "another path", () => ({ sub: "arn:aws:iam::123456789012:role/Reporter" }), "identity_unknown"],
  [
    "AWS",
    "the same role in another account",
    () => ({ sub: "arn:aws:iam::210987654321:role/agents/Reporter" }),
    "identity_unknown",
  ],
  ["AWS", "another account", inside(AWS, { aws_account: "210987654321" }), "identity_unknown"],
  ["AWS", "the account as a number", inside(AWS, { aws_account: 123456789012 }), "identity_unknown"],
  ["AWS", "no account (T-5.3)", inside(AWS, { aws_account: undefined }), "identity_unknown"],
  ["AWS", "another organisation", inside(AWS, { org_id: "o-zzzzzzzzzz" }), "token_conditions_not_met"],
  ["AWS", "no claims of AWS (T-5.3)", () => ({ [AWS]: undefined }), "token_conditions_not_met"],
  [
    "AWS",
    "the account as a tag that the caller chose",
    inside(AWS, { aws_account: undefined, request_tags: { aws_account: "123456789012" } }),
    "identity_unknown",
  ],
  ["AWS", "another account's issuer", () => ({ iss: "https://zzz.tokens.sts.global.api.aws" }), "token_issuer_unknown"],
  ["AWS", "another audience", () => ({ aud: "https://api.example.com" }), "token_audience_mismatch"],

  [
    "Microsoft Entra ID",
    "another tenant",
    () => ({ tid: "00000000-3b0e-4c43-9a35-0d5f0c6f9b11" }),
    "token_conditions_not_met",
  ],
  [
    "Microsoft Entra ID",
    "another tenant's issuer",
    () => ({ iss: "https://sts.windows.net/00000000-3b0e-4c43-9a35-0d5f0c6f9b11/" }),
    "token_issuer_unknown",
  ],
  [
    "Microsoft Entra ID",
    "the issuer without its slash",
    () => ({ iss: `https://sts.windows.net/${TENANT}` }),
    "token_issuer_unknown",
  ],
  ["Microsoft Entra ID", "no tid (T-5.3)", () => ({ tid: undefined }), "token_conditions_not_met"],
  ["Microsoft Entra ID", "another object", () => ({ oid: "00000000-98c1-4c7d-8b8e-9a6f3a3b7c21" }), "identity_unknown"],
  ["Microsoft Entra ID", "no oid (T-5.3)", () => ({ oid: undefined }), "identity_unknown"],
  [
    "Microsoft Entra ID",
    "another principal",
    () => ({ sub: "00000000-98c1-4c7d-8b8e-9a6f3a3b7c21" }),
    "identity_unknown",
  ],
  [
    "Microsoft Entra ID",
    "an application's GUID as audience (version 2)",
    () => ({ aud: "0f4f1d0c-2b6d-4c0b-8c6a-0a5d3e1c7b20" }),
    "token_audience_mismatch",
  ],
  [
    "Microsoft Entra ID",
    "Microsoft Graph as audience",
    () => ({ aud: "https://graph.microsoft.com" }),
    "token_audience_mismatch",
  ],
];
// What holds for every platform alike.
for (const name of Object.keys(platforms))
  nearMisses.push(
    [name, "an audience with a slash more", () => ({ aud: `${audience}/` }), "token_audience_mismatch"],
    [
      name,
      "another tenant of Mayfly as audience",
      () => ({ aud: audience.replace("default", "other") }),
      "token_audience_mismatch",
    ],
    [
      name,
      "an exp that has passed",
      () => ({ exp: seconds() - 1, iat: seconds() - 60, nbf: undefined }),
      "token_expired",
    ],
    [name, "no iat", () => ({ iat: undefined }), "token_claim_missing"],
    [name, "no sub (T-5.3)", () => ({ sub: undefined }), "token_claim_missing"],
  );

function computeEngine(claims: Claims): Claims {
  return (claims["google"] as { compute_engine: Claims }).compute_engine;
}

/** Why a token is refused, as a Bearer (no `type`) or as a client assertion. Not by HTTP, which limits failures by address. */
async function refusalOf(token: string, type?: string): Promise<string> {
  const client = type === undefined ? {} : { client: { type, assertion: token, clientId: undefined } };
  const headers = type === undefined ? { authorization: `Bearer ${token}` } : {};
  return authenticate(headers, { method: "POST", ...client }).then(
    () => "accepted",
    (error: unknown) => (error instanceof MayflyError ? (error.reasons[0]?.code ?? error.code) : String(error)),
  );
}

describe("a near miss is refused, as a Bearer and as a client assertion, with its stable reason", () => {
  test.each(nearMisses)("%s: %s", async (name, _what, changes, reason) => {
    expect([await refusalOf(tokenOf(name, changes)), await refusalOf(tokenOf(name, changes), JWT_BEARER)]).toEqual([
      reason,
      reason,
    ]);
  });

  test.each(Object.keys(platforms))("%s: over HTTP, at both doors", async (name) => {
    const evil = (): string => tokenOf(name, () => ({ sub: "somebody-else", repository_id: "1" }));
    const [bearer, assertion] = [await mintAs(evil()), await tokenFor(evil())];
    expect([bearer.status, bearer.body.code, assertion.status, assertion.body.error]).toEqual([
      401,
      "unauthenticated",
      401,
      "invalid_client",
    ]);
    expect([bearer.body.reasons[0].code, assertion.body.reasons[0].code]).toEqual([
      "identity_unknown",
      "identity_unknown",
    ]);
  });

  test("one platform's key signs nothing for another", async () => {
    const { honest } = platforms["Kubernetes"] as Platform;
    const { key } = platforms["GitHub Actions"] as Platform;
    const claims = JSON.stringify({ ...honest(seconds()), aud: audience });
    for (const kid of ["gh", "k8s"]) {
      const token = rawToken(JSON.stringify({ alg: "RS256", kid }), claims, key, "RS256");
      expect(await refusalOf(token)).toBe(kid === "k8s" ? "token_signature_invalid" : "token_key_unknown");
    }
  });
});

test("GitHub: both forms of sub are the same workload, because neither is read", async () => {
  for (const sub of [
    "repo:acme/app:environment:production",
    "repo:acme@65/app@74:environment:production",
    "repository_owner_id:65:customised",
  ])
    expect([sub, (await mintAs(tokenOf("GitHub Actions", () => ({ sub })))).status]).toEqual([sub, 201]);
});

test("T-5.2: an issuer that nobody registered is never asked for anything", async () => {
  await using server = await localServer(json({ issuer: "x", jwks_uri: "x", keys: [] }));
  for (const changes of [{ iss: server.origin }, { iss: `${server.origin}/id/1` }]) {
    const token = tokenOf("Kubernetes", () => changes);
    expect([await refusalOf(token), await refusalOf(token, JWT_BEARER)]).toEqual([
      "token_issuer_unknown",
      "token_issuer_unknown",
    ]);
  }
  expect(server.connections()).toBe(0);
});

describe("the guide", () => {
  test("has a trust source and an identity for each platform, and the real API registers every one of them", async () => {
    const sections = [...Object.keys(platforms), "SPIFFE"];
    const other = await startApp({ worker: false });
    try {
      const seeded = await seed(other.broker, other.idp);
      const post = async (path: string, body: object): Promise<Answer> =>
        other.call(await other.token({ sub: "admin" }), "POST", path, body);
      for (const section of sections) {
        const [source, identity, ...rest] = examples.get(section) ?? [];
        expect([section, source?.path, identity?.path, rest.length]).toEqual([
          section,
          "/v1/trust-sources",
          "/v1/identities",
          0,
        ]);
        const made = await post("/v1/trust-sources", source?.body ?? {});
        expect([section, made.status, made.body.audience]).toEqual([section, 201, other.broker.issuerUrl("default")]);
        const ids = { trust_source_id: made.body.id, agent_id: seeded.agentId };
        const bound = await post("/v1/identities", { ...identity?.body, ...ids });
        expect([section, bound.status]).toEqual([section, 201]);
      }
      expect([...examples.values()].flat()).toHaveLength(2 * sections.length);
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });
});

describe("what is too broad to be registered, with what to do instead", () => {
  const REQUEST_TAG = "/https:~1~1sts.amazonaws.com~1/request_tags/team";
  const refusedIdentities: [string, string, Claims, string, RegExp][] = [
    [
      "AWS",
      "a tag that the caller chooses",
      { conditions: [{ claim: REQUEST_TAG, equals: "x" }] },
      "/conditions/0/claim",
      /principal_tags/,
    ],
    [
      "AWS",
      "one of two such tags",
      { conditions: [{ claim: REQUEST_TAG, one_of: ["x", "y"] }] },
      "/conditions/0/claim",
      /principal_tags/,
    ],
    [
      "Google Cloud",
      "an e-mail as anchor",
      { anchor_claim: "email", anchor_value: "a@b.iam.gserviceaccount.com" },
      "/anchor_claim",
      /an id/,
    ],
    [
      "Google Cloud",
      "an e-mail as condition",
      { conditions: [{ claim: "email", equals: "a@b.iam.gserviceaccount.com" }] },
      "/conditions/0",
      /an id/,
    ],
    [
      "Google Cloud",
      "an e-mail by pointer",
      { conditions: [{ claim: "/email", equals: "a@b.iam.gserviceaccount.com" }] },
      "/conditions/0",
      /an id/,
    ],
    [
      "Google Cloud",
      "nothing of yours at an issuer of the whole world",
      { anchor_claim: "zone", anchor_value: "a", conditions: [] },
      "/conditions",
      /sub/,
    ],
    [
      "Google Cloud",
      "a claim that says no more than that",
      { anchor_claim: "zone", anchor_value: "a", conditions: [{ claim: "email_verified", equals: true }] },
      "/conditions",
      /sub/,
    ],
    [
      "GitHub Actions",
      "a sub with names and no id",
      { anchor_claim: "sub", anchor_value: "repo:acme/app:ref:refs/heads/main", conditions: [] },
      "/conditions",
      /repository_id/,
    ],
    [
      "GitHub Actions",
      "a sub with names and the owner's id alone",
      {
        anchor_claim: "sub",
        anchor_value: "repo:acme/app:ref:refs/heads/main",
        conditions: [{ claim: "repository_owner_id", equals: "65" }],
      },
      "/conditions",
      /repository_id/,
    ],
    [
      "GitHub Actions",
      "a customised sub and no id",
      { anchor_claim: "sub", anchor_value: "job:x", conditions: [] },
      "/conditions",
      /repository_owner_id/,
    ],
    [
      "GitHub Actions",
      "a repository's name",
      {
        conditions: [
          { claim: "repository", equals: "acme/app" },
          { claim: "ref", equals: "x" },
        ],
      },
      "/conditions/0",
      /an id/,
    ],
    ["GitHub Actions", "a whole repository", { conditions: [] }, "/conditions", /job_workflow_ref/],
    ["Kubernetes", "a service account's name without its uid", { conditions: [] }, "/conditions", /uid/],
    [
      "Microsoft Entra ID",
      "a whole tenant",
      { anchor_claim: "tid", anchor_value: TENANT, conditions: [] },
      "/anchor_claim",
      /sub/,
    ],
    [
      "Microsoft Entra ID",
      "a user's name",
      { anchor_claim: "preferred_username", anchor_value: "a@acme.example", conditions: [] },
      "/anchor_claim",
      /an id/,
    ],
  ];
  test.each(refusedIdentities)("%s: %s, in an identity", async (name, _what, changes, pointer, help) => {
    const issuer = examples.get(name)?.[0]?.body["issuer"];
    const found = await admin("GET", `/v1/trust-sources?issuer=${encodeURIComponent(String(issuer))}`);
    const { status, body } = await admin("POST", "/v1/identities", {
      ...examples.get(name)?.[1]?.body,
      trust_source_id: found.body.items[0].id,
      agent_id: s.agentId,
      ...changes,
    });
    expect([status, body.errors?.[0].pointer]).toEqual([400, pointer]);
    expect(body.errors[0].detail).toMatch(help);
  });

  const everybody = "https://accounts.google.com";
  const refusedSources: [string, Claims, string, RegExp][] = [
    [
      "a tag that the caller chooses, for every token",
      { conditions: [{ claim: REQUEST_TAG, equals: "x" }] },
      "/conditions/0/claim",
      /principal_tags/,
    ],
    [
      "a role for such a tag",
      { role_mappings: [{ when: [{ claim: REQUEST_TAG, equals: "x" }], roles: ["admin"] }] },
      "/role_mappings/0/when/0/claim",
      /principal_tags/,
    ],
    [
      "a role for an e-mail",
      { role_mappings: [{ when: [{ claim: "email", equals: "a@acme.example" }], roles: ["admin"] }] },
      "/role_mappings/0/when/0",
      /an id/,
    ],
    [
      "a role for everybody with a Google account",
      { issuer: everybody, role_mappings: [{ when: [{ claim: "email_verified", equals: true }], roles: ["auditor"] }] },
      "/role_mappings/0/when",
      /sub/,
    ],
    [
      "Entra's template of any tenant",
      { issuer: "https://login.microsoftonline.com/{tenantid}/v2.0" },
      "/issuer",
      /your own/,
    ],
    ["the same, encoded", { issuer: "https://login.microsoftonline.com/%7Btenantid%7D/v2.0" }, "/issuer", /your own/],
    ["Entra's common tenant", { issuer: "https://login.microsoftonline.com/common/v2.0" }, "/issuer", /your own/],
    [
      "all organisations of Entra",
      { issuer: "https://login.microsoftonline.com/organizations/v2.0" },
      "/issuer",
      /your own/,
    ],
    [
      "all of Microsoft's consumers",
      { issuer: "https://login.microsoftonline.com/consumers/v2.0" },
      "/issuer",
      /your own/,
    ],
    [
      "the template with keys from elsewhere",
      {
        kind: "jwks_uri",
        issuer: "https://login.microsoftonline.com/{tenantid}/v2.0",
        jwks_uri: "https://login.microsoftonline.com/common/discovery/keys",
      },
      "/issuer",
      /your own/,
    ],
  ];
  test.each(refusedSources)("%s, in a trust source", async (_what, changes, pointer, help) => {
    const source = { name: "broad", kind: "oidc", issuer: "https://idp.acme.example" };
    const { status, body } = await admin("POST", "/v1/trust-sources", { ...source, ...changes });
    expect([status, body.errors?.[0].pointer]).toEqual([400, pointer]);
    expect(body.errors[0].detail).toMatch(help);
  });
});
