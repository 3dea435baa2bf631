#!/usr/bin/env node
import { parseArgs } from "node:util";
import { startApi } from "../api.ts";
import { openBroker } from "../broker.ts";
import { loadConfig } from "../config.ts";
import { migrate } from "../db/migrate.ts";
import { signAdminToken } from "../identity/admin-token.ts";
import { type Role, roles } from "../identity/principal.ts";
import type { Id } from "../lib/ids.ts";
import { createLog } from "../lib/log.ts";
import { ensureDefaultPolicies } from "../policy/publish-policies.ts";
import { startWorker } from "../worker.ts";

const USAGE = `mayfly: just-in-time ephemeral credentials for AI agents

  mayfly serve         the API and a worker in one process
  mayfly api           the API alone
  mayfly worker        a worker alone: takes back what is due
  mayfly migrate       bring the database up to this build (as DATABASE_OWNER_URL)
  mayfly admin-token   print a token of 15 minutes for the first steps
      --tenant NAME        default: default
      --subject NAME       who you are, for the audit; default: your login name
      --role ROLE          default: admin; more than once for several
  mayfly demo          the main job, shown on a stack of its own

Configuration is by environment variables: see .env.example. With none set, everything runs embedded under .mayfly/.
`;

/** One command of the command line. Resolves with the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  switch (command) {
    case "serve":
      return run({ api: true, worker: true });
    case "api":
      return run({ api: true, worker: false });
    case "worker":
      return run({ api: false, worker: true });
    case "migrate":
      return migrateOnly();
    case "admin-token":
      return printAdminToken(rest);
    case "demo": {
      const { runDemo } = await import("../demo/demo.ts");
      return runDemo();
    }
    case "help":
    case "--help":
    case undefined:
      process.stdout.write(USAGE);
      return command === undefined ? 2 : 0;
    default:
      process.stderr.write(`mayfly: there is no command ${command}\n\n${USAGE}`);
      return 2;
  }
}

/** Runs until SIGTERM or SIGINT, then finishes what is in flight. A second signal ends at once. */
async function run(parts: { readonly api: boolean; readonly worker: boolean }): Promise<number> {
  const config = loadConfig();
  const log = createLog(config.logLevel);
  const stopping = signalled();
  await using broker = await openBroker(config, log);
  for (const tenant of await broker.db.callAcrossTenants<{ id: Id<"tenant"> }>("tenants_without_policies", []))
    await ensureDefaultPolicies(broker.db, tenant.id);
  const worker = parts.worker ? await startWorker(broker) : undefined;
  const api = parts.api ? await startApi(broker) : undefined;
  log.info({ url: api?.url, port: api?.port, worker: parts.worker, embedded: config.embedded }, "ready");
  const signal = await stopping;
  log.info({ signal }, "stopping");
  await api?.stop();
  await worker?.stop();
  return 0;
}

function signalled(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.once(signal, () => {
        process.once(signal, () => process.exit(1));
        resolve(signal);
      });
    }
  });
}

async function migrateOnly(): Promise<number> {
  const config = loadConfig();
  if (config.embedded) {
    await using _ = await openBroker(config, createLog(config.logLevel));
    return 0;
  }
  if (config.databaseOwnerUrl === undefined) {
    process.stderr.write(
      "mayfly migrate needs DATABASE_OWNER_URL: the role that owns the schema (deploy/postgres.sql).\n",
    );
    return 1;
  }
  const applied = await migrate(config.databaseOwnerUrl.reveal());
  process.stdout.write(applied.length === 0 ? "nothing to do\n" : `applied ${applied.join(", ")}\n`);
  return 0;
}

async function printAdminToken(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      tenant: { type: "string", default: "default" },
      subject: { type: "string", default: process.getuid?.() === undefined ? "cli" : `uid-${process.getuid()}` },
      role: { type: "string", multiple: true, default: ["admin"] },
    },
  });
  const wanted = values.role.filter(
    (role): role is Role => (roles as readonly string[]).includes(role) && role !== "agent",
  );
  if (wanted.length !== values.role.length) {
    process.stderr.write(
      `mayfly admin-token: --role is one of ${roles.filter((role) => role !== "agent").join(", ")}\n`,
    );
    return 2;
  }
  if (wanted.includes("operator") !== (values.tenant === "system")) {
    process.stderr.write("mayfly admin-token: operator is the role of --tenant system, and the only one there\n");
    return 2;
  }
  const config = loadConfig();
  await using broker = await openBroker(config, createLog("error"));
  const [tenant] = await broker.db.callAcrossTenants<{ id: Id<"tenant"> }>("tenant_by_name", [values.tenant]);
  if (tenant === undefined) {
    process.stderr.write(`mayfly admin-token: there is no tenant ${values.tenant}\n`);
    return 1;
  }
  await broker.record(tenant.id, {
    type: "admin_token.printed",
    actor: `mayfly-cli|${values.subject}`,
    data: { roles: wanted },
  });
  const issuer = { id: tenant.id, issuer: broker.issuerUrl(values.tenant) };
  process.stdout.write(`${await signAdminToken(broker.keys, issuer, values.subject, wanted, Date.now())}\n`);
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`mayfly: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
