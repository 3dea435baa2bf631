import { describe, expect, test } from "@jest/globals";
import type { z } from "zod";
import { downstreamIssuer } from "../../src/issuers/registry.ts";
import { hosts, notLoopback, paths, sqlNames, urls } from "./corpus.ts";
import { configOf as githubConfig, stranger } from "./github-harness.ts";

const HEX = "0".repeat(32);
const schema = (kind: string, part: "config" | "access" | "handle"): z.ZodType => {
  const issuer = downstreamIssuer(kind);
  if (issuer === undefined) throw new Error(`no issuer ${kind}`);
  return issuer[part];
};

const good = {
  postgres: { host: "db.test", database: "app", user: "mayfly", password: "p", tls: "verify-full" },
  mysql: { host: "db.test", user: "mayfly", password: "p", tls: "verify-full" },
  redis: { nodes: [{ host: "db.test" }], user: "mayfly", password: "p", tls: "verify-full" },
  vault: {
    url: "https://vault.test",
    login: { method: "approle", mount: "approle", role: "r" },
    login_secret: "s",
  },
  kubernetes: { url: "https://k8s.test", namespace: "agents", token: "t" },
  "aws-sts": {
    role_arn: "arn:aws:iam::123456789012:role/agent",
    region: "eu-west-1",
    access_key_id: "AKIAIOSFODNN7EXAMPLE",
    secret_access_key: "s".repeat(40),
    revocation: "none",
  },
  "github-app": githubConfig({
    apiUrl: "https://api.github.com",
    clientId: "Iv1",
    installationId: 1,
    privateKey: stranger,
  } as Parameters<typeof githubConfig>[0]),
  oauth: {
    issuer: "https://login.test",
    client_id: "mayfly",
    client_authentication: "client_secret_post",
    client_secret: "s",
    grant: "client_credentials",
    max_token_seconds: 600,
  },
} as const;

/** What each place of text makes of a text: the schema that it must pass, and all else as it should be. */
type Place = readonly [kind: keyof typeof good, part: "config" | "access" | "handle", put: (text: string) => object];
const inConfig = (kind: keyof typeof good, put: (text: string) => object): Place => [
  kind,
  "config",
  (text) => ({ ...good[kind], ...put(text) }),
];
const refuses = ([kind, part, put]: Place, text: string): boolean => !schema(kind, part).safeParse(put(text)).success;

/** The texts of a corpus that a place takes. Said as a list, so that a failure names them. */
function taken(place: Place, corpus: readonly string[]): string[] {
  return corpus.filter((text) => !refuses(place, text));
}

test.each(Object.entries(good))("a %s target is accepted as it should be", (kind, config) => {
  expect(schema(kind, "config").safeParse(config).error?.issues).toBeUndefined();
});

test("the corpora are as long as they are to be (reliability 4.4)", () => {
  expect(new Set(sqlNames).size).toBeGreaterThanOrEqual(70);
  expect(new Set([...urls, ...hosts, ...paths]).size).toBeGreaterThanOrEqual(120);
});

describe("a name that tries to leave its place in a statement is refused as", () => {
  test.each<[string, Place, (readonly string[])?]>([
    ["a group of PostgreSQL", ["postgres", "access", (text) => ({ roles: [text] })]],
    ["a second group of PostgreSQL", ["postgres", "access", (text) => ({ roles: ["reader", text] })]],
    [
      "a deployment of PostgreSQL",
      inConfig("postgres", (deployment) => ({ deployment })),
      ["1reader", "none", "public"],
    ],
    ["a role of PostgreSQL that is to be revoked", ["postgres", "handle", (text) => ({ role: text })]],
    ["the end of such a role", ["postgres", "handle", (text) => ({ role: `mfy_main_${HEX}${text}` })], [""]],
    // MariaDB's and MySQL's names have 32 characters, so what is too long for PostgreSQL is for them, too.
    ["a role of MySQL", ["mysql", "access", (text) => ({ roles: [text] })]],
    ["a deployment of MySQL", inConfig("mysql", (deployment) => ({ deployment })), ["none"]],
    [
      "the admin of MySQL",
      inConfig("mysql", (user) => ({ user })),
      ["a.b", "public.reader", "a-b", "READER", "Reader", "1reader", "-reader", "none", "public", "current_user"],
    ],
    ["an account of MySQL that is to be revoked", ["mysql", "handle", (user) => ({ user, host: "%" })]],
  ])("%s", (_what, place, harmless = []) => {
    expect(taken(place, sqlNames)).toEqual(harmless);
  });
});

describe("a URL that leads elsewhere is refused as", () => {
  // A far side under a path has nothing to climb from: these take none at all.
  test.each<[string, Place]>([
    ["Vault's url", inConfig("vault", (url) => ({ url }))],
    ["Kubernetes' url", inConfig("kubernetes", (url) => ({ url }))],
    ["AWS STS's endpoint", inConfig("aws-sts", (url) => ({ sts_endpoint: url }))],
    ["AWS IAM's endpoint", inConfig("aws-sts", (url) => ({ iam_endpoint: url }))],
    ["GitHub's api_url", inConfig("github-app", (url) => ({ api_url: url }))],
    ["an authorization server's issuer", inConfig("oauth", (issuer) => ({ issuer }))],
    ["its probe_url", inConfig("oauth", (url) => ({ probe_url: url }))],
    ["one of its endpoint_origins", inConfig("oauth", (url) => ({ endpoint_origins: [url] }))],
  ])("%s", (_what, place) => {
    expect(taken(place, urls)).toEqual([]);
  });
});

describe("a host that is none is refused as one of", () => {
  test.each<[string, Place]>([
    ["PostgreSQL", inConfig("postgres", (host) => ({ host }))],
    ["MySQL", inConfig("mysql", (host) => ({ host }))],
    ["Redis", inConfig("redis", (host) => ({ nodes: [{ host }] }))],
  ])("%s", (_what, place) => {
    expect(taken(place, hosts)).toEqual([]);
  });
});

describe("nothing goes without TLS to what only looks like this machine:", () => {
  test.each<[string, Place]>([
    ["MySQL", inConfig("mysql", (host) => ({ host, tls: "disable" }))],
    ["Redis", inConfig("redis", (host) => ({ nodes: [{ host: "127.0.0.1" }, { host }], tls: "disable" }))],
  ])("%s", (_what, place) => {
    expect(taken(place, notLoopback)).toEqual([]);
  });
});

describe("a path that climbs is refused as", () => {
  const vaultAccess = (more: object) => ({ path: "database/creds/a", policies: ["p"], ...more });
  test.each<[string, Place, (readonly string[])?]>([
    ["what is asked of Vault", ["vault", "access", (path) => vaultAccess({ path })]],
    [
      "what is asked of Vault by its last part",
      ["vault", "access", (text) => vaultAccess({ path: `database/creds/${text}` })],
      // Of a mount of that name below another.
      ["sys/creds/a", "auth/token/creds/a", "identity/creds/a", "cubbyhole/creds/a"],
    ],
    ["a policy of Vault", ["vault", "access", (text) => vaultAccess({ policies: [text] })]],
    [
      "a namespace of Vault",
      inConfig("vault", (namespace) => ({ namespace })),
      ["sys/creds/a", "sys/seal", "auth/token/creds/a", "identity/creds/a", "cubbyhole/creds/a", "v1/database"],
    ],
    ["a token role of Vault", inConfig("vault", (text) => ({ token_role: text }))],
    ["a lease of Vault", ["vault", "handle", (lease) => ({ name: `mayfly-a-${HEX}`, leases: [`/${lease}`] })]],
    [
      "an accessor of Vault",
      ["vault", "handle", (accessor) => ({ name: `mayfly-a-${HEX}`, accessor: `a/${accessor}` })],
    ],
    ["a namespace of Kubernetes", inConfig("kubernetes", (namespace) => ({ namespace }))],
    ["an account of Kubernetes", ["kubernetes", "access", (text) => ({ service_account: text })]],
    ["a Secret of Kubernetes", ["kubernetes", "handle", (name) => ({ name })]],
    [
      "a repository of GitHub",
      ["github-app", "access", (text) => ({ repositories: [text], permissions: { contents: "read" } })],
    ],
    ["a region of AWS", inConfig("aws-sts", (region) => ({ region }))],
  ])("%s", (_what, place, harmless = []) => {
    expect(taken(place, paths)).toEqual(harmless);
  });
});
