import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { vault } from "../../src/issuers/vault.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { failure } from "./conformance.ts";
import { type FakeVaultTarget, fakeTarget, reporting } from "./vault-target.ts";

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

describe("access and config leave no way out of the engine", () => {
  test.each([
    "sys/creds/x",
    "auth/creds/x",
    "identity/creds/x",
    "cubbyhole/creds/x",
    "database/creds/../../sys/seal",
    "database/creds/..",
    "database/creds/%2e%2e",
    "database/creds/a/b",
    "database/creds/a?list=1",
    "database/creds/a#",
    "/database/creds/a",
    "database//creds/a",
    "database/config/a",
    "database/creds/a\n",
    "database/creds/{{x}}",
    "database/creds/a&#x2F;b",
  ])("path %j", (path) => {
    expect(vault.access.safeParse({ path, policies: ["p"] }).success).toBe(false);
  });

  test.each([
    { path: "pki/issue/web", policies: ["p"] },
    { ...reporting, parameters: { a: 1 } },
    { path: "pki/issue/web", method: "write", parameters: { ttl: "9000h" }, policies: ["p"] },
    { ...reporting, policies: ["root"] },
    { ...reporting, policies: ["default"] },
    { ...reporting, policies: [] },
    { ...reporting, policies: ["a,root"] },
  ])("access %j", (access) => {
    expect(vault.access.safeParse(access).success).toBe(false);
  });

  test.each([
    { url: "http://vault.example.com" },
    { url: "https://vault.example.com/v1" },
    { url: "https://user@vault.example.com" },
    { url: "https://vault.example.com?x" },
    { url: "ftp://vault.example.com" },
    { url: "http://127.0.0.1.example.com" },
    { url: "https://" },
    { token_role: "a/../b" },
    { namespace: "a\r\nx-evil: 1" },
    { namespace: "../b" },
    { login: { method: "approle", mount: "../token", role: "r" } },
    { login: { method: "userpass", mount: "userpass", role: "r" } },
    { login_secret: undefined },
    { login_secret: "a b" },
    { deployment: "UPPER" },
  ])("config %j", (changes) => {
    expect(vault.config.safeParse({ ...target.config, ...changes }).success).toBe(false);
  });
});

describe("nothing that was sent or came leaves by another way", () => {
  const stdout = process.stdout.write.bind(process.stdout);
  const stderr = process.stderr.write.bind(process.stderr);
  afterEach(() => {
    process.stdout.write = stdout;
    process.stderr.write = stderr;
  });

  test("DEBUG=node-vault, proxies and tokens of the environment change nothing", async () => {
    // The one that node-vault has, too; a name, as it is no dependency of ours.
    const name: string = "debug";
    const { default: debug } = (await import(name)) as { default: { enable(names: string): void; disable(): void } };
    const before = { ...process.env };
    const printed: string[] = [];
    Object.assign(process.env, {
      VAULT_TOKEN: "hvs.of-the-environment",
      VAULT_NAMESPACE: "elsewhere",
      VAULT_PREFIX: "/elsewhere",
      VAULT_ADDR: "http://127.0.0.1:9",
      HTTP_PROXY: "http://127.0.0.1:9",
      http_proxy: "http://127.0.0.1:9",
    });
    debug.enable("*");
    process.stderr.write = (chunk: string | Uint8Array) => printed.push(String(chunk)) > 0;
    process.stdout.write = (chunk: string | Uint8Array) => printed.push(String(chunk)) > 0;
    try {
      await using own = await vault.connect(target.config);
      await vault.issue(own, target.request());
    } finally {
      debug.disable();
      process.env = before;
      process.stderr.write = stderr;
      process.stdout.write = stdout;
    }
    const [logIn] = target.fake.requests;
    expect(logIn).toMatchObject({ path: "auth/approle/login", headers: { "x-vault-namespace": "team-a" } });
    expect(logIn?.headers["x-vault-token"]).toBeUndefined();
    expect(printed.join("")).toBe("");
  });

  test.each([
    ["a refusal that quotes the request", 400, (sent: string) => JSON.stringify({ errors: [sent] })],
    ["a page of something in between", 502, (sent: string) => `<html>${sent}</html>`],
    ["an answer that is no JSON", 200, (sent: string) => sent],
  ])("%s: the error quotes nothing", async (_what, status, body) => {
    target.fake.intercept = ({ data, headers }, response) => {
      response.writeHead(status).end(body(JSON.stringify([data, headers])));
      return true;
    };
    const error = await failure(vault.issue(client, target.request()));
    expect(error).toBeInstanceOf(MayflyError);
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(target.config.login_secret);
  });

  test("a redirect carries no token anywhere", async () => {
    const elsewhere = await fakeTarget();
    target.fake.intercept = ({ path }, response) => {
      if (path.startsWith("auth/approle")) return false;
      response.writeHead(307, { location: `${elsewhere.fake.url}/v1/${path}` }).end();
      return true;
    };
    expect(await failure(vault.issue(client, target.request()))).toMatchObject({ code: "target_rejected" });
    expect(elsewhere.fake.requests).toEqual([]);
    await elsewhere[Symbol.asyncDispose]();
  });
});
