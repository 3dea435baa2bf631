import { once } from "node:events";
import { type AddressInfo, createServer, type Server } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { downstreamIssuer, issuerKinds } from "../../src/issuers/registry.ts";
import { stranger } from "../issuers/github-harness.ts";
import { type App, startApp } from "../support/app.ts";
import { aResource, aTarget, type Seeded, seed } from "../support/seed.ts";

let app: App;
let s: Seeded;
let agent: string;
let taskId: string;
/** A far side for every kind: it counts who comes, and lets nobody in. */
let farSide: Server;
let came = 0;

const kinds = issuerKinds.filter((kind) => downstreamIssuer(kind) !== undefined);
/** What `read` of `tickets` means at each kind of target, and how it is reached. Nothing else is granted. */
function targetOf(kind: string, port: number): { readonly config: object; readonly access: object } {
  const at = { host: "127.0.0.1", port };
  const url = `http://127.0.0.1:${port}`;
  const admin = { user: "mayfly", password: "p", tls: "disable" };
  const all: Readonly<Record<string, { readonly config: object; readonly access: object }>> = {
    postgres: { config: { ...at, ...admin, database: "app" }, access: { roles: ["readers"] } },
    mysql: { config: { ...at, ...admin }, access: { roles: ["readers"] } },
    redis: {
      config: { nodes: [at], ...admin },
      access: { keys: [{ pattern: "a:*", mode: "read" }], commands: ["get"] },
    },
    vault: {
      config: { url, login: { method: "approle", mount: "approle", role: "r" }, login_secret: "s" },
      access: { path: "database/creds/readers", policies: ["readers"] },
    },
    kubernetes: { config: { url, namespace: "agents", token: "t" }, access: { service_account: "readers" } },
    "aws-sts": {
      config: {
        role_arn: "arn:aws:iam::123456789012:role/agent",
        region: "eu-west-1",
        access_key_id: "AKIAIOSFODNN7EXAMPLE",
        secret_access_key: "s".repeat(40),
        revocation: "deny_policy",
        sts_endpoint: url,
        iam_endpoint: url,
      },
      access: { actions: ["s3:GetObject"], resources: ["arn:aws:s3:::reports/*"] },
    },
    "github-app": {
      config: { api_url: url, client_id: "Iv1", installation_id: 1, private_key: stranger },
      access: { repositories: ["docs"], permissions: { contents: "read" } },
    },
    oauth: {
      config: {
        issuer: url,
        client_id: "mayfly",
        client_authentication: "client_secret_post",
        client_secret: "s",
        grant: "client_credentials",
        max_token_seconds: 600,
      },
      access: { scope: ["read"] },
    },
  };
  const { config, access } = all[kind] ?? { config: {}, access: {} };
  return { config: downstreamIssuer(kind)?.config.parse(config), access };
}

beforeAll(async () => {
  farSide = createServer((socket) => {
    came += 1;
    socket.on("error", () => undefined).destroy();
  });
  await once(farSide.listen(0, "127.0.0.1"), "listening");
  const { port } = farSide.address() as AddressInfo;
  app = await startApp({ worker: false });
  s = await seed(app.broker, app.idp);
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, async (tx) => {
    await aResource(tx, { tenantId: s.tenantId, ownerId: s.ownerId, name: "payroll" });
    for (const kind of kinds) {
      const { config, access } = targetOf(kind, port);
      await aTarget(tx, app.broker, {
        tenantId: s.tenantId,
        ownerId: s.ownerId,
        name: `at-${kind}`,
        issuer: kind,
        config,
        resources: { [s.resourceId]: { read: access } },
      });
    }
  });
  agent = await app.token({ sub: s.agentSub });
  const task = await app.call(await app.token({ sub: "orchestrator" }), "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "more than is granted",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  taskId = task.body.id;
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
  await new Promise((closed) => farSide.close(closed));
});

const mint = (kind: string, changes: object = {}) =>
  app.call(agent, "POST", "/v1/credentials", {
    task_id: taskId,
    target: `at-${kind}`,
    actions: ["read"],
    resources: ["tickets"],
    ...changes,
  });

describe.each(kinds)("a mint at a %s target", (kind) => {
  test.each<[string, object, number, string]>([
    ["an action that is not granted there", { actions: ["write"] }, 403, "denied"],
    ["one that is granted and one that is not", { actions: ["read", "write"] }, 403, "denied"],
    ["an action that is none", { actions: ["drop"] }, 403, "denied"],
    ["an action with more in its name", { actions: ["read,write"] }, 400, "invalid_request"],
    ["a resource that the target does not reach", { resources: ["payroll"] }, 403, "denied"],
    ["a resource that it reaches and one that it does not", { resources: ["tickets", "payroll"] }, 403, "denied"],
    ["a resource that is none", { resources: ["none"] }, 403, "denied"],
    ["a right to mint from it", { delegation: { max_depth: 1, allowed: [] } }, 403, "denied"],
    ["access of its own", { access: { roles: ["admins"] } }, 400, "invalid_request"],
    ["a configuration of its own", { config: { host: "evil.test" } }, 400, "invalid_request"],
    ["parameters of its own", { params: { path: "sys/seal" } }, 400, "invalid_request"],
    ["a resource with a meaning", { resources: [{ resource: "tickets", roles: ["admins"] }] }, 400, "invalid_request"],
  ])("of %s is refused, and nobody comes to the far side", async (_what, changes, status, code) => {
    const before = came;
    const answer = await mint(kind, changes);
    expect({ status: answer.status, code: answer.body.code }).toEqual({ status, code });
    expect(came).toBe(before);
  });

  test("of what is granted comes there", async () => {
    const before = came;
    expect(await mint(kind)).toMatchObject({ status: 503, body: { code: "target_unavailable" } });
    expect(came).toBeGreaterThan(before);
  });
});
