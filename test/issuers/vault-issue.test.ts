import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type VaultAccess, vault } from "../../src/issuers/vault.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { Secret } from "../../src/lib/secret.ts";
import { failure, never } from "./conformance.ts";
import { type FakeVaultTarget, fakeTarget, other, reporting } from "./vault-target.ts";

let target: FakeVaultTarget;
let client: Awaited<ReturnType<typeof vault.connect>>;
beforeEach(async () => {
  target = await fakeTarget();
  client = await vault.connect(target.config);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const paths = (): string[] => target.fake.requests.map(({ path }) => path);
const children = () => [...target.fake.tokens.values()].filter(({ meta }) => meta["mayfly_credential"] !== undefined);
const allow = (policy: string, path: string, capability: string): void => {
  target.fake.policies.set(policy, [[path, [capability]]]);
  const role = target.fake.roles.get("mayfly");
  if (role !== undefined)
    target.fake.roles.set("mayfly", { ...role, allowed_policies: [...role.allowed_policies, policy] });
};

describe("a credential's child token", () => {
  test("is the credential's own, with its policies and no other, an end, and no parent", async () => {
    const asked = target.request();
    const { expiresAt } = await vault.issue(client, asked);
    expect(expiresAt).toBeUndefined();
    const [child] = children();
    expect(child?.expiresAt).toBeGreaterThanOrEqual(asked.expiresAt.getTime());
    expect(child).toMatchObject({
      policies: ["reporting-read"],
      orphan: true,
      renewable: false,
      meta: { mayfly_credential: asked.credentialId, mayfly_deployment: target.config.deployment },
    });
    expect(child?.explicitMaxAt).toBe(child?.expiresAt);
  });

  test("is on record before any engine is read, and each lease before anything is handed out", async () => {
    const order: string[] = [];
    target.fake.intercept = ({ path }) => {
      if (path.startsWith("database/")) order.push(path);
      return false;
    };
    const asked = target.request({
      access: [reporting, other],
      keep: async ({ accessor, leases = [] }) =>
        void order.push(`${accessor === undefined ? "no " : ""}accessor, ${leases.length} leases`),
    });
    await vault.issue(client, asked);
    expect(order).toEqual([
      "accessor, 0 leases",
      "database/creds/reporting",
      "accessor, 1 leases",
      "database/creds/other",
      "accessor, 2 leases",
    ]);
  });

  test("is ended, with no engine read, when the credential was taken back meanwhile", async () => {
    const asked = target.request({ keep: () => Promise.reject(new MayflyError("denied", "taken back")) });
    expect(await failure(vault.issue(client, asked))).toMatchObject({ code: "denied" });
    expect(paths().filter((path) => path.startsWith("database/"))).toEqual([]);
    expect(children()).toEqual([]);
  });

  test("takes its lease along when the credential was taken back while the engine was read", async () => {
    let times = 0;
    const keep = (): Promise<void> =>
      (times += 1) === 1 ? Promise.resolve() : Promise.reject(new MayflyError("denied", "taken back"));
    expect(await failure(vault.issue(client, target.request({ keep })))).toMatchObject({ code: "denied" });
    expect([children(), target.fake.leases.size, target.fake.engines.users.size]).toEqual([[], 0, 0]);
  });

  test("is dead before a read that was held up on its way arrives", async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((arrived) => {
      target.fake.intercept = async ({ path }) => {
        if (!path.startsWith("database/")) return false;
        arrived();
        await new Promise<void>((go) => {
          release = go;
        });
        return false;
      };
    });
    const asked = target.request();
    const issued = failure(vault.issue(client, asked));
    await held;
    await vault.revoke(client, asked.kept.at(-1) ?? asked.handle, never());
    release();
    expect(await issued).toMatchObject({ code: "target_rejected" });
    expect(target.fake.engines.users.size).toBe(0);
  });

  test("reads no engine once the time is over, and is ended", async () => {
    const { now } = performance;
    const keep = async (): Promise<void> => {
      performance.now = () => now.call(performance) + 5_000;
    };
    try {
      expect(await failure(vault.issue(client, target.request({ keep })))).toMatchObject({
        code: "target_unavailable",
      });
    } finally {
      performance.now = now;
    }
    expect(paths().filter((path) => path.startsWith("database/"))).toEqual([]);
    expect(children()).toEqual([]);
  });

  test.each([
    ["other policies", { token_policies: ["reporting-read", "default"] }],
    ["a parent", { orphan: false }],
    ["no accessor of its own (batch)", { token_type: "batch" }],
    ["a later end", { lease_duration: 7200 }],
  ])("that comes with %s reads nothing and is ended", async (_what, changes) => {
    target.fake.intercept = ({ path, data }, response) => {
      if (!path.startsWith("auth/token/create/")) return false;
      const policies = data["policies"];
      const auth = {
        client_token: "hvs.x",
        accessor: "a.ns1",
        lease_duration: 60,
        orphan: true,
        token_type: "service",
      };
      response.end(JSON.stringify({ auth: { ...auth, token_policies: policies, ...changes } }));
      return true;
    };
    expect(await failure(vault.issue(client, target.request()))).toMatchObject({ code: "target_rejected" });
    expect(paths()).toContain("auth/token/revoke-accessor");
    expect(paths().filter((path) => path.startsWith("database/"))).toEqual([]);
  });
});

describe("what is handed out", () => {
  test("is what the engine answered, and never the child token", async () => {
    allow("odd", "database/creds/odd", "read");
    const { secret } = await vault.issue(
      client,
      target.request({ access: [{ path: "database/creds/odd", method: "read", policies: ["odd"] }] }),
    );
    const shown = Object.entries(secret).map(([name, value]) => [
      name,
      value instanceof Secret ? value.reveal() : value,
    ]);
    const [[user, password] = []] = [...target.fake.engines.users];
    expect(Object.fromEntries(shown)).toEqual({
      username: user,
      password,
      port: 5432,
      hosts: '["a","b"]',
      ok: "true",
    });
  });

  test("of several engines stands under their paths; the same thing twice is made once", async () => {
    const { secret } = await vault.issue(client, target.request({ access: [reporting, other, { ...reporting }] }));
    expect(Object.keys(secret).toSorted()).toEqual([
      "database/creds/other.password",
      "database/creds/other.username",
      "database/creds/reporting.password",
      "database/creds/reporting.username",
    ]);
  });

  test("ends with the lease when that is shorter", async () => {
    allow("short", "database/creds/short", "read");
    const asked = target.request({ access: [{ path: "database/creds/short", method: "read", policies: ["short"] }] });
    const { expiresAt } = await vault.issue(client, asked);
    expect(expiresAt?.getTime()).toBeLessThanOrEqual(Date.now() + 30_000);
    expect(expiresAt?.getTime()).toBeGreaterThan(Date.now());
  });

  test("is nothing when the engine keeps no lease that could be taken back", async () => {
    allow("static", "secret/creds/static", "read");
    const asked = target.request({ access: [{ path: "secret/creds/static", method: "read", policies: ["static"] }] });
    expect(await failure(vault.issue(client, asked))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("engine_revocable"),
    });
    expect(children()).toEqual([]);
  });

  test("is nothing when the child token may not: the error says which line is missing", async () => {
    target.fake.policies.set("reporting-read", []);
    expect(await failure(vault.issue(client, target.request()))).toMatchObject({
      code: "target_rejected",
      detail:
        'Vault answered 403: reporting-read must grant: path "database/creds/reporting" { capabilities = ["read"] }',
    });
  });
});

describe("what nothing can take back", () => {
  const certificate = (path: string, more: Partial<VaultAccess> = {}): VaultAccess => ({
    path,
    method: "write",
    parameters: { common_name: "agent.example.com" },
    policies: ["certificates"],
    ...more,
  });
  const issue = async (access: VaultAccess) => {
    const method = access.method === "read" ? "read" : "update";
    allow("certificates", access.path, method);
    await using own = await vault.connect({ ...target.config, engine_revocable: false });
    return await vault.issue(own, target.request({ access: [access] }));
  };

  test("is declared: it lives until its own end", () => {
    const config = { ...target.config, engine_revocable: false };
    expect(vault.bounds(config)).toMatchObject({ revocability: "expiry" });
    expect(vault.bounds(target.config)).toMatchObject({ revocability: "immediate" });
    expect(vault.identityConfig).toContain("engine_revocable");
    expect(vault.bounds({ ...config, min_ttl_seconds: 900 }).ttlSeconds.min).toBe(900);
  });

  test.each(["pki/issue/web", "ssh/sign/web", "aws/sts/deploy"])("%s is told the credential's end", async (path) => {
    await issue(certificate(path));
    expect(target.fake.requests.find((one) => one.path === path)?.data).toEqual({
      common_name: "agent.example.com",
      ttl: "60s",
    });
  });

  test.each([
    ["a longer life than asked for", "pki/issue/long"],
    ["a longer life than asked for, in a certificate of SSH", "ssh/sign/long"],
    ["a certificate that outlives its lease", "pki/issue/leased"],
    ["no end at all", "secret/creds/static"],
    ["an end that cannot be read", "ssh/sign/strange"],
    ["half a certificate", "ssh/sign/cut"],
  ])("%s is not handed out", async (_what, path) => {
    expect(await failure(issue(certificate(path)))).toMatchObject({ code: "target_rejected" });
  });

  test("with a read, which cannot be told the end, it is not asked for", async () => {
    expect(await failure(issue({ ...reporting, policies: ["certificates"] }))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("must be written"),
    });
    expect(target.fake.leases.size).toBe(0);
  });
});
