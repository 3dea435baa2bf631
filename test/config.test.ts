import { readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { inspect } from "node:util";
import { expect, test } from "@jest/globals";
import { configVariables, loadConfig } from "../src/config.ts";
import { selfSigned } from "./identity/self-signed.ts";
import { testDirectory } from "./support/directory.ts";

const kek = Buffer.alloc(32, 7).toString("base64url");
const production = {
  DATABASE_URL: "postgres://mayfly_app:pw-runtime@db.internal/mayfly",
  DATABASE_OWNER_URL: "postgres://mayfly_owner:pw-owner@db.internal/mayfly",
  REDIS_URL: "rediss://:pw-redis@redis.internal:6379",
  MAYFLY_KEK: kek,
  MAYFLY_PUBLIC_URL: "https://mayfly.example",
};

test("with nothing set Mayfly runs by itself, on loopback, with every default", () => {
  expect(loadConfig({})).toEqual({
    databaseUrl: undefined,
    databaseOwnerUrl: undefined,
    embedded: true,
    redisUrl: undefined,
    queue: "auto",
    kek: undefined,
    publicUrl: "http://127.0.0.1:8377",
    host: "127.0.0.1",
    port: 8377,
    dataDir: resolve(".mayfly"),
    logLevel: "info",
    maxTtlSeconds: 3600,
    defaultTtlSeconds: 300,
    maxUnrevocableTtlSeconds: 900,
    mintTimeoutSeconds: 10,
    sweepSeconds: 5,
    reconcileSeconds: 600,
    canarySeconds: 3600,
    keyRotationDays: 30,
    allowLoopbackHttp: false,
    tls: undefined,
    clientCertProxies: [],
    draftSpiffeClientAuth: false,
  });
});

test("what is set is what is read, and nothing can change it afterwards", () => {
  const config = loadConfig({
    ...production,
    MAYFLY_QUEUE: "none",
    MAYFLY_HOST: "::",
    MAYFLY_PORT: "80",
    MAYFLY_DATA_DIR: "/var/lib/mayfly",
    MAYFLY_LOG_LEVEL: "debug",
    MAYFLY_MAX_TTL_SECONDS: "900",
    MAYFLY_DEFAULT_TTL_SECONDS: "60",
    MAYFLY_MINT_TIMEOUT_SECONDS: "20",
    MAYFLY_SWEEP_SECONDS: "1",
    MAYFLY_RECONCILE_SECONDS: "60",
    MAYFLY_KEY_ROTATION_DAYS: "7",
  });
  expect(config).toMatchObject({
    embedded: false,
    queue: "none",
    publicUrl: "https://mayfly.example",
    host: "::",
    port: 80,
    dataDir: "/var/lib/mayfly",
    logLevel: "debug",
    maxTtlSeconds: 900,
    defaultTtlSeconds: 60,
    maxUnrevocableTtlSeconds: 900,
    mintTimeoutSeconds: 20,
    sweepSeconds: 1,
    reconcileSeconds: 60,
    canarySeconds: 3600,
    keyRotationDays: 7,
  });
  expect(config.databaseUrl?.reveal()).toBe(production.DATABASE_URL);
  expect(config.databaseOwnerUrl?.reveal()).toBe(production.DATABASE_OWNER_URL);
  expect(config.redisUrl?.reveal()).toBe(production.REDIS_URL);
  expect(config.kek?.reveal()).toBe(kek);
  expect(Object.isFrozen(config)).toBe(true);
});

test("a configuration that is printed shows no secret", () => {
  const config = loadConfig(production);
  const shown = `${inspect(config)} ${JSON.stringify(config)} ${String(config.databaseUrl)} ${String(config.kek)}`;
  for (const secret of ["pw-runtime", "pw-owner", "pw-redis", kek]) expect(shown).not.toContain(secret);
});

test("on a free port there is no public URL until it is known or set", () => {
  expect(loadConfig({ MAYFLY_PORT: "0" }).publicUrl).toBeUndefined();
  expect(loadConfig({ MAYFLY_PORT: "9000" }).publicUrl).toBe("http://127.0.0.1:9000");
  expect(loadConfig({ MAYFLY_PORT: "0", MAYFLY_PUBLIC_URL: "https://mayfly.example" }).publicUrl).toBe(
    "https://mayfly.example",
  );
});

test("every problem is reported at once, each under its variable's name, and no value is", () => {
  const message = problems({
    DATABASE_URL: "mysql://user:pw-in-url@host/db",
    REDIS_URL: "",
    MAYFLY_KEK: "not-a-kek-at-all",
    MAYFLY_PORT: "eighty",
    MAYFLY_MAX_TTL_SECONDS: "60",
    MAYFLY_DEFAULT_TTL_SECONDS: "120",
    MAYFLY_LOG_LEVEL: "loud",
    MAYFLY_MAX_TLL_SECONDS: "60",
  });
  expect(
    message
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(" ", 1).join())
      .toSorted(),
  ).toEqual([
    "DATABASE_URL",
    "MAYFLY_DEFAULT_TTL_SECONDS",
    "MAYFLY_KEK",
    "MAYFLY_LOG_LEVEL",
    "MAYFLY_MAX_TLL_SECONDS",
    "MAYFLY_PORT",
    "REDIS_URL",
  ]);
  for (const value of ["pw-in-url", "not-a-kek", "eighty", "loud"]) expect(message).not.toContain(value);
});

test.each(configVariables)("%s that is set and empty is an error", (name) => {
  expect(problems({ [name]: "" })).toBe(
    `the configuration has problems:\n  ${name} is empty: give it a value or do not set it`,
  );
});

test.each([
  { MAYFLY_QUEUE: "redis" },
  { MAYFLY_PORT: "65536" },
  { MAYFLY_PORT: "1e3" },
  { MAYFLY_PORT: "0x50" },
  { MAYFLY_PORT: " 80" },
  { MAYFLY_PORT: "-1" },
  { MAYFLY_PORT: "080" },
  { MAYFLY_MAX_TTL_SECONDS: "0" },
  { MAYFLY_MAX_TTL_SECONDS: "86401" },
  { MAYFLY_MINT_TIMEOUT_SECONDS: "0" },
  { MAYFLY_SWEEP_SECONDS: "0" },
  { MAYFLY_RECONCILE_SECONDS: "9" },
  { MAYFLY_ALLOW_LOOPBACK_HTTP: "1" },
  { MAYFLY_ALLOW_LOOPBACK_HTTP: "TRUE" },
  { MAYFLY_KEK: kek.slice(1) },
  { MAYFLY_KEK: `${kek}=` },
  // The last character carries two bits too many: another spelling of the same bytes.
  { MAYFLY_KEK: `${kek.slice(0, -1)}d` },
  { DATABASE_OWNER_URL: "db.internal" },
  { REDIS_URL: "http://redis.internal" },
  { MAYFLY_PUBLIC_URL: "mayfly.example" },
  { MAYFLY_PUBLIC_URL: "ftp://mayfly.example" },
  { MAYFLY_PUBLIC_URL: "http://mayfly.example" },
  { MAYFLY_PUBLIC_URL: "http://localhost.evil.example" },
  { MAYFLY_PUBLIC_URL: "https://mayfly.example/" },
  { MAYFLY_PUBLIC_URL: "https://Mayfly.example" },
  { MAYFLY_PUBLIC_URL: "https://mayfly.example:443" },
  { MAYFLY_PUBLIC_URL: "https://mayfly.example?x=1" },
  { MAYFLY_PUBLIC_URL: "https://mayfly.example#x" },
  { MAYFLY_PUBLIC_URL: "https://user:pw@mayfly.example" },
])("%j is refused, under its name", (env) => {
  expect(problems(env)).toContain(`\n  ${Object.keys(env)[0]} `);
});

test.each([
  "http://127.0.0.1:8377",
  "http://127.8.9.10",
  "http://[::1]:81",
  "http://localhost:1",
  "https://a.example/b",
])("%s is accepted as the public URL", (url) => {
  expect(loadConfig({ MAYFLY_PUBLIC_URL: url }).publicUrl).toBe(url);
});

test("a database of one's own needs a key of one's own", () => {
  expect(problems({ DATABASE_URL: production.DATABASE_URL })).toContain(
    "\n  MAYFLY_KEK is required when DATABASE_URL is set",
  );
});

test("the owner alone is enough to migrate, and does not mean the embedded database", () => {
  const config = loadConfig({ DATABASE_OWNER_URL: production.DATABASE_OWNER_URL });
  expect(config).toMatchObject({ embedded: false, databaseUrl: undefined });
});

test("the runtime must not log in as the owner", () => {
  const env = { ...production, DATABASE_OWNER_URL: "postgresql://mayfly%5Fapp:other@db.internal/mayfly" };
  expect(problems(env)).toContain("\n  DATABASE_OWNER_URL must name another role than DATABASE_URL");
});

test("the default TTL must fit under the maximum, also against defaults", () => {
  expect(problems({ MAYFLY_MAX_TTL_SECONDS: "299" })).toContain("\n  MAYFLY_DEFAULT_TTL_SECONDS must not be more");
  expect(loadConfig({ MAYFLY_MAX_TTL_SECONDS: "300" }).maxTtlSeconds).toBe(300);
});

test("plain http to loopback can only be allowed where Mayfly itself is on loopback", () => {
  const env = { MAYFLY_ALLOW_LOOPBACK_HTTP: "true" };
  expect(loadConfig(env).allowLoopbackHttp).toBe(true);
  expect(loadConfig({ ...env, MAYFLY_PUBLIC_URL: "http://localhost:1" }).allowLoopbackHttp).toBe(true);
  expect(problems({ ...env, MAYFLY_PUBLIC_URL: "https://mayfly.example" })).toContain(
    "\n  MAYFLY_ALLOW_LOOPBACK_HTTP may only",
  );
});

test("every secret can come from a file, and a line end at its end is not part of it", async () => {
  await using directory = await testDirectory();
  const env: Record<string, string> = {};
  for (const name of ["DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "MAYFLY_KEK"] as const) {
    env[`${name}_FILE`] = `${directory.path}/${name}`;
    await writeFile(`${directory.path}/${name}`, `${production[name]}\n`);
  }
  const config = loadConfig(env);
  expect(config.databaseUrl?.reveal()).toBe(production.DATABASE_URL);
  expect(config.databaseOwnerUrl?.reveal()).toBe(production.DATABASE_OWNER_URL);
  expect(config.redisUrl?.reveal()).toBe(production.REDIS_URL);
  expect(config.kek?.reveal()).toBe(kek);
});

test("a file that is missing, empty or given beside the value is the one problem of its variable", async () => {
  await using directory = await testDirectory();
  await writeFile(`${directory.path}/empty`, "\n");
  await writeFile(`${directory.path}/kek`, kek);
  const of = (env: Record<string, string>): string => problems({ DATABASE_URL: production.DATABASE_URL, ...env });
  const only = "the configuration has problems:\n  MAYFLY_KEK ";
  expect(of({ MAYFLY_KEK_FILE: `${directory.path}/none` })).toBe(
    `${only}cannot be read from the file that MAYFLY_KEK_FILE names (ENOENT)`,
  );
  expect(of({ MAYFLY_KEK_FILE: `${directory.path}/empty` })).toBe(
    `${only}is empty in the file that MAYFLY_KEK_FILE names`,
  );
  expect(of({ MAYFLY_KEK: kek, MAYFLY_KEK_FILE: `${directory.path}/kek` })).toBe(
    `${only}and MAYFLY_KEK_FILE are both set: choose one`,
  );
});

test("what Kubernetes sets for a service called mayfly is ignored, or explained where it collides", () => {
  const links = {
    MAYFLY_SERVICE_HOST: "10.0.0.1",
    MAYFLY_SERVICE_PORT: "8377",
    MAYFLY_PORT_8377_TCP: "tcp://10.0.0.1:8377",
    MAYFLY_PORT_8377_TCP_ADDR: "10.0.0.1",
  };
  expect(loadConfig(links)).toEqual(loadConfig({}));
  expect(problems({ ...links, MAYFLY_PORT: "tcp://10.0.0.1:8377" })).toContain("MAYFLY_PORT was set by Kubernetes");
});

test(".env.example names exactly the variables that are read, in their order, and shows their true defaults", async () => {
  const text = await readFile(new URL("../.env.example", import.meta.url), "utf8");
  const shown = [...text.matchAll(/^# (example: )?([A-Z][A-Z0-9_]+)=(.+)$/gm)].map(([, example, name, value]) => ({
    name: name ?? "",
    value: value ?? "",
    isDefault: example === undefined,
  }));
  expect(shown.map(({ name }) => name)).toEqual(configVariables);
  const defaults = Object.fromEntries(
    shown.filter(({ isDefault }) => isDefault).map(({ name, value }) => [name, value]),
  );
  expect(loadConfig(defaults)).toEqual(loadConfig({}));
  expect(shown.filter(({ isDefault }) => !isDefault).map(({ name }) => name.replace(/_FILE$/, ""))).toEqual([
    ...["DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "MAYFLY_KEK"].flatMap((name) => [name, name]),
    "MAYFLY_TLS_PORT",
    ...["MAYFLY_TLS_CERT", "MAYFLY_TLS_KEY"].flatMap((name) => [name, name]),
    "MAYFLY_TLS_PUBLIC_URL",
    "MAYFLY_CLIENT_CERT_PROXIES",
  ]);
});

test("the TLS listener needs its certificate and the key of it, and nothing of it goes without", () => {
  const { cert, key } = selfSigned("mayfly.test");
  const env = { MAYFLY_TLS_PORT: "8443", MAYFLY_TLS_CERT: cert, MAYFLY_TLS_KEY: key };
  const { tls } = loadConfig(env);
  expect(tls).toMatchObject({ port: 8443, publicUrl: "https://127.0.0.1:8443" });
  expect(tls?.key.reveal()).toBe(key);
  expect(loadConfig({ ...env, MAYFLY_TLS_PORT: "0" }).tls?.publicUrl).toBeUndefined();
  expect(loadConfig({ ...env, MAYFLY_TLS_PUBLIC_URL: "https://mtls.example" }).tls?.publicUrl).toBe(
    "https://mtls.example",
  );
  const { MAYFLY_TLS_KEY: _, ...keyless } = env;
  expect(problems(keyless)).toContain("\n  MAYFLY_TLS_PORT must be set together with");
  expect(problems({ MAYFLY_TLS_PUBLIC_URL: "https://mtls.example" })).toContain("\n  MAYFLY_TLS_PORT must be set");
  expect(problems({ ...env, MAYFLY_TLS_PUBLIC_URL: "http://localhost" })).toContain(
    "\n  MAYFLY_TLS_PUBLIC_URL must be",
  );
  const another = problems({ ...env, MAYFLY_TLS_KEY: selfSigned("mayfly.test").key });
  expect(another).toContain("\n  MAYFLY_TLS_KEY must be the PEM private key");
  expect(another).not.toContain("BEGIN");
});

test("proxies are addresses and networks, and nothing that only looks like one", () => {
  expect(loadConfig({ MAYFLY_CLIENT_CERT_PROXIES: "10.0.0.7, fd00::/8" }).clientCertProxies).toEqual([
    "10.0.0.7",
    "fd00::/8",
  ]);
  for (const wrong of ["proxy.internal", "10.0.0.0/33", "10.0.0", "10.0.0.1,", "::1/129", "10.0.0.1/8/8", "0.0.0.0/x"])
    expect(problems({ MAYFLY_CLIENT_CERT_PROXIES: wrong })).toContain(
      "\n  MAYFLY_CLIENT_CERT_PROXIES must be addresses",
    );
});

function problems(env: Record<string, string>): string {
  try {
    loadConfig(env);
  } catch (error) {
    return error instanceof Error ? error.message : "";
  }
  throw new Error("the configuration was accepted");
}
