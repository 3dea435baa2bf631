import { randomBytes } from "node:crypto";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { Secret } from "../lib/secret.ts";
import { deploymentPrefix } from "./deployment.ts";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "./issuer.ts";
import { createStatements, readServer } from "./mysql-account.ts";
import { connectMysql, type MysqlClient } from "./mysql-client.ts";
import { inspectMysql } from "./mysql-inspect.ts";
import { LOCK_WAIT_SECONDS, look, revokeAccount } from "./mysql-revoke.ts";
import { isLoopback } from "./target-url.ts";

const ADDRESS = /^[0-9.]+$|:/;

const config = z
  .strictObject({
    /** As the agents reach it, too: it is in the secret that they get. */
    host: z.string().regex(/^[A-Za-z0-9._:-]{1,253}$/, "a host name or an IP address"),
    port: z.int().min(1).max(65_535).default(3306),
    user: z.string().regex(/^[A-Za-z0-9_.-]{1,32}$/),
    password: z.string().min(1).max(1024),
    /** `disable` is for a server on this machine: some log-ins give the password to whoever answers. */
    tls: z.enum(["disable", "verify-full"]),
    /** PEM. Absent: the well-known authorities. */
    ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
    /** The prefix that tells this target's accounts from all others on the server. Random unless given, so parse it once and store it. */
    deployment: deploymentPrefix(4),
    /** From where the credentials may be used: the host part of their account names. */
    account_host: z
      .string()
      .regex(/^[A-Za-z0-9._%:/-]{1,60}$/)
      .default("%"),
    /** Sessions that one credential may have at a time. */
    connection_limit: z.int().min(1).max(1000).default(5),
  })
  .refine(({ tls, host }) => tls !== "disable" || isLoopback(host), {
    path: ["tls"],
    error: "disable is for a server on this machine alone: use verify-full",
  })
  // The driver checks an address against no name at all (mysql2).
  .refine(({ tls, host }) => tls !== "verify-full" || !ADDRESS.test(host), {
    path: ["host"],
    error: "verify-full needs a host name, not an IP address",
  });

/** Roles of the servers themselves, administrators of managed servers, credentials of ours, and words of the grammar. */
const RESERVED =
  /^(none|all|default|public|current_user|current_role|root|mysql|mariadb|admin|rds_superuser_role|rdsadmin|rdsrepladmin|cloudsqlsuperuser|cloudsqladmin|azure_superuser|azure_pg_admin|awsrole.*|aws_.*|mysql_.*|mariadb_.*|sys|information_schema|performance_schema|m[a-z0-9]{1,4}_[0-7][0-9a-v]{25})$/;

const access = z.strictObject({
  /** Roles whose rights the credential gets. They hold the grants; a credential is given none of its own. MariaDB takes one. */
  roles: z
    .array(
      z
        .string()
        .regex(/^[a-z_][a-z0-9_]{0,31}$/)
        .refine((name) => !RESERVED.test(name), "a reserved role"),
    )
    .min(1)
    .max(32),
});

const handle = z.strictObject({
  user: z.string().regex(/^m[a-z0-9]{1,4}_[0-7][0-9a-v]{25}$/),
  host: z.string().regex(/^[A-Za-z0-9._%:/-]{1,60}$/),
});

export type MysqlConfig = z.output<typeof config>;
export type MysqlAccess = z.output<typeof access>;
export type MysqlHandle = z.output<typeof handle>;

interface Target extends MysqlClient {
  readonly config: MysqlConfig;
}

const ANSWER_WITHIN_MS = 8_000;
const BOUNDS = {
  ttlSeconds: { min: 1, max: 86_400 },
  revocability: "immediate",
  // Neither server has an end for an account; a password's is counted in days.
  backstopSeconds: undefined,
  effectiveBoundSeconds: 0,
} as const;

/** An account of MySQL or MariaDB that lives as long as one credential: it has roles, no right of its own, and a password known to nobody but the agent. */
export const mysql = defineIssuer({
  kind: "mysql",
  config,
  access,
  handle,
  secretConfig: ["password"],
  identityConfig: ["host", "port", "deployment", "account_host"],
  bounds: () => BOUNDS,

  connect: (target: MysqlConfig): Promise<Target> => Promise.resolve({ ...connectMysql(target), config: target }),

  name(credentialId, { deployment, account_host: host }) {
    const user = `m${deployment}_${toBase32(credentialId.slice(credentialId.indexOf("_") + 1))}`;
    return { downstreamName: user, handle: { user, host } };
  },

  issue,

  revoke: (target: Target, account, signal) =>
    target.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
      await revokeAccount(connection, account, signal);
      return {};
    }),

  probe,

  list: (target: Target, signal) =>
    target.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
      const { deployment, account_host: host } = target.config;
      const accounts = await connection.read<{ user: string }>(
        "select User as user from mysql.user where User like ? escape '|' and Host = ? order by User",
        [`m${deployment}|_%`, host],
      );
      const ours = accounts.filter(({ user }) => handle.safeParse({ user, host }).success);
      return ours.map(({ user }) => ({
        downstreamName: user,
        credentialId: `crd_${fromBase32(user.slice(-26))}` as Id<"credential">,
        handle: { user, host },
      }));
    }),

  inspect: (target: Target, wanted, signal) =>
    target.revoke.use(signal, ANSWER_WITHIN_MS, (connection) => inspectMysql(connection, target.config, wanted)),
});

/** 32 hexadecimal digits as 26 of base 32, because an account's name has 32 characters in all. */
function toBase32(hex: string): string {
  return BigInt(`0x${hex}`).toString(32).padStart(26, "0");
}

function fromBase32(text: string): string {
  const value = [...text].reduce((sum, digit) => sum * 32n + BigInt(Number.parseInt(digit, 32)), 0n);
  return value.toString(16).padStart(32, "0");
}

async function issue(target: Target, request: IssueRequest<MysqlAccess, MysqlHandle>): Promise<Issued> {
  const password = new Secret(randomBytes(32).toString("base64url"));
  const started = performance.now();
  // Counted from before the clock was read, and less what the last statement may wait: so the limit errs on the early side.
  const createWithinMs = request.createWithinMs - LOCK_WAIT_SECONDS * 1000;
  await target.mint.use(request.signal, Math.min(ANSWER_WITHIN_MS, request.createWithinMs), async (connection) => {
    const server = await readServer(connection);
    const [made] = await connection.run<{ done: unknown }>(
      createStatements(server, {
        account: request.handle,
        password,
        roles: [...new Set(request.access.flatMap(({ roles }) => roles))].sort(),
        connectionLimit: target.config.connection_limit,
        requireTls: target.config.tls !== "disable",
        createByMicros: Math.floor(server.nowMicros + (createWithinMs - (performance.now() - started)) * 1000),
      }),
    );
    if (made?.done !== 1) {
      throw new MayflyError(
        "target_unavailable",
        "the request reached MySQL after its create-by time; nothing that works was created",
      );
    }
  });
  const { user } = request.handle;
  const { host, port, tls } = target.config;
  const at = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  const url = `mysql://${user}:${password.reveal()}@${at}/${tls === "disable" ? "" : "?ssl-mode=VERIFY_IDENTITY"}`;
  return { secret: { username: user, password, host, port, url: new Secret(url) } };
}

async function probe(target: Target, account: MysqlHandle, signal: AbortSignal): Promise<ProbeResult> {
  const by = "mysql.user";
  try {
    return await target.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
      const { present, sessions, creates, readOnly } = await look(connection, account);
      if (readOnly) return { outcome: "unknown", by, detail: "a read-only server may be behind" };
      if (creates > 0) return { outcome: "unknown", by, detail: "a create is under way" };
      const dead = !present && sessions === 0;
      return { outcome: dead ? "dead" : "alive", by, detail: `${present ? "an" : "no"} account, ${sessions} sessions` };
    });
  } catch (error) {
    return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : "MySQL did not say" };
  }
}
