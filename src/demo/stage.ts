import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import pg from "pg";
import { startEmbeddedPostgres } from "../db/embedded.ts";
import { adminSetupSql } from "../issuers/postgres-admin.ts";
import { scramVerifier } from "../issuers/scram.ts";
import { freePort } from "../lib/free-port.ts";
import { Secret } from "../lib/secret.ts";

/** Where the demo plays: Mayfly as a process of its own, an identity provider, and a database to mint credentials for. */
export interface Stage extends AsyncDisposable {
  readonly api: string;
  /** How long Mayfly took from nothing (no data directory) to ready. */
  readonly startedInMs: number;
  /** What `mayfly admin-token` printed. */
  readonly adminToken: string;
  readonly issuer: string;
  /** A token of the local identity provider for this subject, signed now, for this Mayfly alone. */
  token(sub: string): Promise<string>;
  /** The target's configuration as its admin would register it. */
  readonly target: Readonly<Record<string, unknown>>;
}

const bin = new URL("../bin/mayfly.js", import.meta.url).pathname;

/** Starts everything in a temporary directory, which goes when the stage is disposed. */
export async function setStage(): Promise<Stage> {
  const directory = await mkdtemp(join(tmpdir(), "mayfly-demo-"));
  // PostgreSQL runs as another user when we are root, and must be able to pass through.
  await chmod(directory, 0o711);
  const startedAt = performance.now();
  const idp = await startIdentityProvider();
  const env = {
    PATH: dirname(process.execPath),
    MAYFLY_DATA_DIR: join(directory, "data"),
    MAYFLY_PORT: "0",
    MAYFLY_LOG_LEVEL: "warn",
    // The demo's identity provider is on this machine and speaks plain http.
    MAYFLY_ALLOW_LOOPBACK_HTTP: "true",
  };
  const port = await freePort();
  const mayfly = await startMayfly({ ...env, MAYFLY_PORT: String(port) });
  const startedInMs = Math.round(performance.now() - startedAt);
  const api = `http://127.0.0.1:${port}`;
  const printed = await promisify(execFile)(
    process.execPath,
    ["--no-warnings", bin, "admin-token", "--subject", "first-steps"],
    {
      env: { ...env, MAYFLY_PORT: String(port) },
    },
  );
  // The very server that Mayfly runs in; the demo needs its superuser to make a database that stands for the company's.
  const postgres = await startEmbeddedPostgres({ directory: join(directory, "data", "postgres") });
  return {
    api,
    startedInMs,
    adminToken: printed.stdout.trim(),
    issuer: idp.issuer,
    token: (sub) => idp.sign(sub, `${api}/t/default`),
    target: await makeTarget(postgres.superuserUrl),
    async [Symbol.asyncDispose]() {
      await stop(mayfly);
      idp.server.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** A company database: tickets, a group that may read them, and the admin role of docs/issuers/postgres.md. */
async function makeTarget(superuserUrl: string): Promise<Readonly<Record<string, unknown>>> {
  const url = new URL(superuserUrl);
  const password = new Secret(randomBytes(24).toString("base64url"));
  const server = new pg.Client({ connectionString: url.href });
  await server.connect();
  await server.query("create database company");
  await server.query("create role ticket_readers");
  await server.query(
    adminSetupSql({
      admin: "mayfly_admin",
      groups: ["ticket_readers"],
      passwordVerifier: await scramVerifier(password),
    }),
  );
  await server.end();
  url.pathname = "/company";
  const company = new pg.Client({ connectionString: url.href });
  await company.connect();
  await company.query(`create table tickets (id int primary key, title text not null);
    insert into tickets values (7, 'printer on fire'), (8, 'coffee machine out of beans');
    grant select on tickets to ticket_readers`);
  await company.end();
  return {
    host: url.hostname,
    port: Number(url.port),
    database: "company",
    user: "mayfly_admin",
    password: password.reveal(),
    tls: "disable",
  };
}

async function startMayfly(env: Record<string, string>): Promise<ChildProcess> {
  const child = spawn(process.execPath, ["--no-warnings", bin, "serve"], {
    env: { ...env, MAYFLY_LOG_LEVEL: "info" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise<void>((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`mayfly serve ended with ${code} before it was ready`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line.includes('"msg":"ready"')) resolve();
    });
  });
  return child;
}

async function stop(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await ended;
}

/** An OpenID provider as far as a relying party can tell: discovery, keys, tokens signed with ES256. */
async function startIdentityProvider(): Promise<{
  readonly issuer: string;
  readonly server: Server;
  sign(sub: string, audience: string): Promise<string>;
}> {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = { ...(await exportJWK(publicKey)), kid: "demo", alg: "ES256", use: "sig" };
  const server = createServer((request, response) => {
    response.setHeader("content-type", "application/json");
    if (request.url === "/.well-known/openid-configuration")
      response.end(JSON.stringify({ issuer: issuerOf(), jwks_uri: `${issuerOf()}/jwks` }));
    else if (request.url === "/jwks") response.end(JSON.stringify({ keys: [jwk] }));
    else response.writeHead(404).end("{}");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuerOf = (): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    issuer: issuerOf(),
    server,
    sign: (sub, audience) =>
      new SignJWT({ jti: randomUUID() })
        .setProtectedHeader({ alg: "ES256", kid: "demo" })
        .setIssuer(issuerOf())
        .setSubject(sub)
        .setAudience(audience)
        .setIssuedAt()
        .setExpirationTime("10m")
        .sign(privateKey),
  };
}
