import { type AwsTarget, awsTarget, access as toReports } from "../issuers/aws-target.ts";
import { type GithubFake, githubFake } from "../issuers/github-fake.ts";
import { configOf as githubConfigOf, read as toRepository } from "../issuers/github-harness.ts";
import { reporting as asAccount, type KubernetesTarget, kubernetesTarget } from "../issuers/kubernetes-target.ts";
import { type MysqlTarget, mysqlTarget } from "../issuers/mysql-target.ts";
import { configOf as oauthConfigOf, read as toApi } from "../issuers/oauth-harness.ts";
import { type OauthServer, oauthServer } from "../issuers/oauth-server.ts";
import { type RedisTarget, redisTarget, notes as toNotes } from "../issuers/redis-target.ts";
import { type FakeVaultTarget, fakeTarget, reporting as toDatabase } from "../issuers/vault-target.ts";
import { postgresTarget } from "../support/postgres-target.ts";

/** A far system with an issuer's kind of credentials in it, for faults that know nothing of its protocol. */
export interface FarSide extends AsyncDisposable {
  readonly issuer: string;
  readonly at: { readonly hostname: string; readonly port: number };
  /** A target's config and the access of one resource, for who reaches it at this port of this host. */
  config(port: number): object;
  readonly access: unknown;
  /** Credentials that work there. */
  alive(): number | Promise<number>;
  /** What is made is known by the answer alone: one whose answer was lost lives to its own end, and nobody was given it. */
  readonly knownByItsAnswer?: true;
}

const atUrl = (url: string): FarSide["at"] => ({ hostname: "127.0.0.1", port: Number(new URL(url).port) });
const moved = (url: string, port: number): string => {
  const there = new URL(url);
  there.port = String(port);
  return there.href.replace(/\/$/, "");
};

async function postgresSide(): Promise<FarSide> {
  const target = await postgresTarget();
  return {
    issuer: "postgres",
    at: { hostname: String(target.config["host"]), port: Number(target.config["port"]) },
    config: (port) => ({ ...target.config, port }),
    access: { roles: [target.readers] },
    alive: async () => (await target.roles()).length,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function vaultSide(): Promise<FarSide> {
  const target: FakeVaultTarget = await fakeTarget();
  return {
    issuer: "vault",
    at: atUrl(target.fake.url),
    config: (port) => ({ ...target.config, url: moved(target.fake.url, port) }),
    access: toDatabase,
    alive: () => target.fake.engines.users.size,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function kubernetesSide(): Promise<FarSide> {
  const target: KubernetesTarget = await kubernetesTarget();
  const { fake } = target;
  return {
    issuer: "kubernetes",
    at: atUrl(fake.url),
    config: (port) => ({ ...target.config, url: moved(fake.url, port) }),
    access: asAccount,
    alive: () => [...fake.tokens.keys()].filter((token) => fake.authenticates(token)).length,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function awsSide(): Promise<FarSide> {
  const target: AwsTarget = await awsTarget("deny_policy");
  const denied = (id: string): boolean => [...target.role.inline.values()].some((policy) => policy.includes(id));
  return {
    issuer: "aws-sts",
    at: atUrl(target.aws.url),
    config(port) {
      const endpoint = moved(target.aws.url, port);
      return { ...target.config, sts_endpoint: endpoint, iam_endpoint: endpoint };
    },
    access: toReports[0],
    alive: () =>
      [...target.aws.sessions.values()].filter(({ sourceIdentity: id = "" }) => id === "" || !denied(id)).length,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function githubSide(): Promise<FarSide> {
  const github: GithubFake = await githubFake();
  return {
    issuer: "github-app",
    at: atUrl(github.apiUrl),
    config: (port) => ({ ...githubConfigOf(github), api_url: moved(github.apiUrl, port) }),
    access: toRepository,
    alive: () => github.live(),
    knownByItsAnswer: true,
    [Symbol.asyncDispose]: () => github[Symbol.asyncDispose](),
  };
}

async function oauthSide(): Promise<FarSide> {
  const server: OauthServer = await oauthServer();
  return {
    issuer: "oauth",
    at: atUrl(server.issuer),
    config: (port) => ({ ...oauthConfigOf(server), issuer: moved(server.issuer, port) }),
    access: toApi,
    alive: () => server.live(),
    knownByItsAnswer: true,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function redisSide(): Promise<FarSide> {
  const target: RedisTarget = await redisTarget();
  return {
    issuer: "redis",
    at: { hostname: "127.0.0.1", port: target.servers[0]?.port ?? 0 },
    config: (port) => ({ ...target.config, nodes: [{ host: "127.0.0.1", port }] }),
    access: toNotes,
    alive: async () => (await target.users(0)).length,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function mysqlSide(): Promise<FarSide> {
  const target: MysqlTarget = await mysqlTarget();
  const { port } = target.config;
  return {
    issuer: "mysql",
    at: { hostname: "127.0.0.1", port },
    config: (other) => ({ ...target.config, port: other }),
    access: { roles: [target.role] },
    alive: async () =>
      (await target.sql("select User from mysql.user where User like ?", [`m${target.config.deployment}\\_%`])).length,
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

/** One of every kind that can be taken back, and whose far side is installed here: in CI, all are. */
export const farSides: Readonly<Record<string, () => Promise<FarSide>>> = {
  ...(process.env["TEST_REDIS_SERVER"] === undefined ? {} : { redis: redisSide }),
  ...(process.env["TEST_MARIADB_SERVER"] === undefined ? {} : { mysql: mysqlSide }),
  postgres: postgresSide,
  vault: vaultSide,
  kubernetes: kubernetesSide,
  "aws-sts": awsSide,
  "github-app": githubSide,
  oauth: oauthSide,
};
