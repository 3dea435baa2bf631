import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import pg from "pg";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { type VaultAccess, type VaultConfig, type VaultHandle, vault } from "../../src/issuers/vault.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { never } from "./conformance.ts";
import { type FakeVault, fakeVault, type Policy } from "./vault-fake.ts";

/** A Vault set up as the documentation says, with a `database` engine whose roles are `reporting` and `other`. */
export interface VaultTarget extends AsyncDisposable {
  readonly config: VaultConfig;
  /** Whether the database user that was made still logs in. */
  works(secret: Issued["secret"]): Promise<boolean>;
  /** When the child token ends, as Vault says. */
  endsAt(handle: VaultHandle): Promise<Date>;
}

export interface FakeVaultTarget extends VaultTarget {
  readonly fake: FakeVault;
  request(changes?: Partial<IssueRequest<VaultAccess, VaultHandle>>): VaultRequest;
}

/** A request that keeps what it is told to. */
export interface VaultRequest extends IssueRequest<VaultAccess, VaultHandle> {
  readonly kept: VaultHandle[];
}

export const reporting: VaultAccess = {
  path: "database/creds/reporting",
  method: "read",
  policies: ["reporting-read"],
};
export const other: VaultAccess = { path: "database/creds/other", method: "read", policies: ["other-read"] };

const ENGINE_POLICIES: Readonly<Record<string, Policy>> = {
  "reporting-read": [["database/creds/reporting", ["read"]]],
  "other-read": [["database/creds/other", ["read"]]],
};

/** The broker's policy, out of the documentation. */
export async function documentedPolicy(): Promise<Policy> {
  const page = await readFile(new URL("../../docs/issuers/vault.md", import.meta.url), "utf8");
  const text = /```hcl\n(.*?)```/s.exec(page)?.[1] ?? "";
  return [...text.matchAll(/path "([^"]+)" \{ capabilities = \["([a-z]+)"\] \}/g)].map(([, path = "", one = ""]) => [
    path,
    [one],
  ]);
}

export async function fakeTarget(changes: Partial<VaultConfig> = {}): Promise<FakeVaultTarget> {
  const fake = await fakeVault();
  fake.policies.set("mayfly", await documentedPolicy());
  for (const [name, policy] of Object.entries(ENGINE_POLICIES)) fake.policies.set(name, policy);
  fake.roles.set("mayfly", { orphan: true, token_type: "service", allowed_policies: Object.keys(ENGINE_POLICIES) });
  const config = vault.config.parse({
    url: fake.url,
    namespace: fake.namespace,
    login: { method: "approle", mount: "approle", role: "mayfly-role-id" },
    login_secret: fake.secretId,
    ...changes,
  });
  return {
    fake,
    config,
    works: async ({ username, password }) => {
      if (!(password instanceof Secret) || !(username instanceof Secret)) throw new Error("no secrets");
      return fake.engines.users.get(username.reveal()) === password.reveal();
    },
    endsAt: async ({ accessor }) => {
      const token = [...fake.tokens.values()].find((one) => one.accessor === accessor);
      return new Date(token?.expiresAt ?? 0);
    },
    request(given = {}) {
      const credentialId = given.credentialId ?? newId("credential");
      const kept: VaultHandle[] = [];
      return {
        credentialId,
        ...vault.name(credentialId, config),
        access: [reporting],
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async (handle) => void kept.push(handle),
        ...given,
        kept,
      };
    },
    [Symbol.asyncDispose]: () => fake[Symbol.asyncDispose](),
  };
}

/** Sets up a development server: `VAULT_ADDR` and the root's `VAULT_TOKEN`. Its database is the one of this run. */
export async function realTarget(address: string, rootToken: string): Promise<VaultTarget> {
  const tag = randomBytes(4).toString("hex");
  let namespace: string | undefined;
  const api = async (method: string, path: string, data?: object): Promise<Response> =>
    fetch(`${address}/v1/${path}`, {
      method,
      headers: { "x-vault-token": rootToken, ...(namespace === undefined ? {} : { "x-vault-namespace": namespace }) },
      ...(data === undefined ? {} : { body: JSON.stringify(data) }),
    });
  const must = async (path: string, data: object): Promise<void> => {
    const answer = await api("POST", path, data);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  };
  // The free edition of HashiCorp Vault has none.
  if ((await api("POST", `sys/namespaces/mayfly-${tag}`, {})).ok) namespace = `mayfly-${tag}`;
  const hcl = (policy: Policy): string =>
    policy.map(([path, can]) => `path "${path}" { capabilities = ${JSON.stringify(can)} }`).join("\n");
  await must("sys/policies/acl/mayfly", { policy: hcl(await documentedPolicy()) });
  for (const [name, policy] of Object.entries(ENGINE_POLICIES))
    await must(`sys/policies/acl/${name}`, { policy: hcl(policy) });
  await must("auth/token/roles/mayfly", {
    orphan: true,
    token_type: "service",
    allowed_policies: Object.keys(ENGINE_POLICIES),
  });
  await must(`sys/auth/approle-${tag}`, { type: "approle" });
  await must(`auth/approle-${tag}/role/mayfly`, { token_policies: "mayfly", token_ttl: "20m", token_max_ttl: "24h" });
  const read = async (method: string, path: string): Promise<Record<string, string>> =>
    ((await (await api(method, path)).json()) as { data: Record<string, string> }).data;
  const { role_id } = await read("GET", `auth/approle-${tag}/role/mayfly/role-id`);
  const { secret_id } = await read("POST", `auth/approle-${tag}/role/mayfly/secret-id`);
  const superuser = new URL(process.env["TEST_POSTGRES_SUPERUSER_URL"] ?? "");
  superuser.searchParams.set("sslmode", "disable");
  await must("sys/mounts/database", { type: "database" });
  await must("database/config/tests", {
    plugin_name: "postgresql-database-plugin",
    connection_url: superuser.href,
    allowed_roles: "*",
  });
  for (const role of ["reporting", "other"])
    await must(`database/roles/${role}`, {
      db_name: "tests",
      default_ttl: "1h",
      max_ttl: "24h",
      creation_statements: `create role "{{name}}" login password '{{password}}' valid until '{{expiration}}'`,
    });
  const config = vault.config.parse({
    url: address,
    login: { method: "approle", mount: `approle-${tag}`, role: role_id },
    login_secret: secret_id,
    ...(namespace === undefined ? {} : { namespace }),
  });
  return {
    config: { ...config, namespace },
    works: async ({ username, password }) => {
      if (!(password instanceof Secret) || !(username instanceof Secret)) throw new Error("no secrets");
      const login = { user: username.reveal(), password: password.reveal(), database: "postgres" };
      const client = new pg.Client({ host: superuser.hostname, port: Number(superuser.port), ...login });
      try {
        await client.connect();
        return (await client.query("select 1")).rowCount === 1;
      } catch (error) {
        if ((error as { code?: unknown }).code === "28P01") return false;
        throw error;
      } finally {
        await client.end();
      }
    },
    endsAt: async ({ accessor }) => {
      const answer = await api("POST", "auth/token/lookup-accessor", { accessor });
      return new Date(((await answer.json()) as { data: { expire_time: string } }).data.expire_time);
    },
    async [Symbol.asyncDispose]() {
      await api("DELETE", "sys/mounts/database");
      await api("DELETE", `sys/auth/approle-${tag}`);
      const gone = namespace;
      namespace = undefined;
      if (gone !== undefined) await api("DELETE", `sys/namespaces/${gone}`);
    },
  };
}
