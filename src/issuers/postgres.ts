import { randomBytes } from "node:crypto";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { Secret } from "../lib/secret.ts";
import { deploymentPrefix } from "./deployment.ts";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "./issuer.ts";
import { connectPostgres, hasSqlState, type PostgresClient, TOO_LATE } from "./postgres-client.ts";
import { explainLogin, inspectPostgres } from "./postgres-inspect.ts";
import { byKeeper, MEET_KEEPER, readBefore } from "./postgres-keeper.ts";
import { revokeRole } from "./postgres-revoke.ts";
import { scramVerifier } from "./scram.ts";

const config = z.strictObject({
  /** As the agents reach it, too: it is in the secret that they get. */
  host: z.string().regex(/^[A-Za-z0-9._:-]{1,253}$/, "a host name or an IP address"),
  port: z.int().min(1).max(65_535).default(5432),
  database: z.string().regex(/^[^\0]{1,63}$/),
  user: z.string().regex(/^[^\0]{1,63}$/),
  password: z.string().min(1).max(1024),
  /** `disable` is for loopback and private networks: the password stays secret (SCRAM), the data does not. */
  tls: z.enum(["disable", "verify-full"]),
  /** PEM. Absent: the well-known authorities. */
  ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
  /** The prefix that tells this target's roles from all others on the server. Random unless given, so parse it once and store it. */
  deployment: deploymentPrefix(),
  /** Sessions that one credential may have at a time. */
  connection_limit: z.int().min(1).max(1000).default(5),
  /** PostgreSQL 14 and 15 are refused unless the admin has read why and says so (docs/issuers/postgres.md). */
  accept_before_16: z.boolean().default(false),
});

/** Predefined roles, credentials of ours, words of the grammar, and the administrators of managed servers. */
const RESERVED =
  /^(pg_|mfy_)|^(public|none|current_role|current_user|session_user|postgres|rds_superuser|rdsadmin|cloudsqlsuperuser|cloudsqladmin|azure_pg_admin|azuresu|alloydbsuperuser|alloydbadmin|supabase_admin)$/;

const access = z.strictObject({
  /** Group roles whose rights the credential gets. They hold the grants; a credential is given none of its own. */
  roles: z
    .array(
      z
        .string()
        .regex(/^[a-z_][a-z0-9_]{0,62}$/)
        .refine((name) => !RESERVED.test(name), "a reserved role"),
    )
    .min(1)
    .max(32),
});

const handle = z.strictObject({ role: z.string().regex(/^mfy_[a-z0-9]{1,8}_[0-9a-f]{32}$/) });

export type PostgresConfig = z.output<typeof config>;
export type PostgresAccess = z.output<typeof access>;
export type PostgresHandle = z.output<typeof handle>;

interface Target extends PostgresClient {
  readonly config: PostgresConfig;
}

const ANSWER_WITHIN_MS = 8_000;
/** VALID UNTIL comes a little after the end, so that a revoke in time is what ends it and the receipt says so. */
const BACKSTOP_SECONDS = 5;
const BOUNDS = {
  ttlSeconds: { min: 1, max: 86_400 },
  revocability: "immediate",
  backstopSeconds: BACKSTOP_SECONDS,
  effectiveBoundSeconds: 0,
} as const;

/**
 * A login role of PostgreSQL that lives as long as one credential: a member of the granted groups, with no grant of
 * its own, its password known to nobody but the agent.
 */
export const postgres = defineIssuer({
  kind: "postgres",
  config,
  access,
  handle,
  secretConfig: ["password"],
  identityConfig: ["host", "port", "database", "deployment"],
  bounds: () => BOUNDS,

  connect: (target: PostgresConfig): Promise<Target> => Promise.resolve({ ...connectPostgres(target), config: target }),

  name(credentialId, { deployment }) {
    const role = `mfy_${deployment}_${credentialId.slice(credentialId.indexOf("_") + 1)}`;
    return { downstreamName: role, handle: { role } };
  },

  issue,

  revoke: (target: Target, { role }, signal) =>
    target.revoke.use(signal, ANSWER_WITHIN_MS, (connection) => revokeRole(connection, role, signal)),

  probe,

  list: (target: Target, signal) =>
    target.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
      const roles = await connection.read<{ rolname: string }>(
        `select rolname from pg_roles where rolname ~ $1 order by rolname collate "C"`,
        [`^mfy_${target.config.deployment}_[0-9a-f]{32}$`],
      );
      return roles.map(({ rolname: role }) => ({
        downstreamName: role,
        credentialId: `crd_${role.slice(-32)}` as Id<"credential">,
        handle: { role },
      }));
    }),

  inspect: (target: Target, wanted, signal) =>
    target.revoke
      .use(signal, ANSWER_WITHIN_MS, (connection) => inspectPostgres(connection, target.config, wanted))
      .catch((error: unknown) => {
        throw explainLogin(error, target.config);
      }),
});

async function issue(target: Target, request: IssueRequest<PostgresAccess, PostgresHandle>): Promise<Issued> {
  const password = new Secret(randomBytes(32).toString("base64url"));
  const started = performance.now();
  await target.mint.use(request.signal, Math.min(ANSWER_WITHIN_MS, request.createWithinMs), async (connection) => {
    // Sorted, so that two mints cannot wait for each other's groups.
    const groups = [...new Set(request.access.flatMap(({ roles }) => roles))].sort();
    const { role } = request.handle;
    // Not before there is a connection: a burst of mints would fill the thread pool, in which log-ins are proven, too.
    const [verifier, before] = await Promise.all([
      scramVerifier(password),
      readBefore(connection, { deployment: target.config.deployment, role, groups }),
    ]);
    const { keeper, make, admit } = before;
    const inputs = {
      role,
      keeper,
      make,
      admit,
      verifier,
      until: new Date(request.expiresAt.getTime() + BACKSTOP_SECONDS * 1000).toISOString(),
      limit: target.config.connection_limit,
      comment: `Mayfly credential ${request.credentialId}`,
      groups: `{${groups.join(",")}}`,
      // Counted from before the clock was read, so the limit errs on the early side.
      create_by: before.nowMs + request.createWithinMs - (performance.now() - started),
    };
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await connection.run(CREATE_ROLE, inputs);
      } catch (error) {
        // Other DDL on the same catalog rows (C1, C2): nothing was created, and the limit still guards the next try.
        if (attempt === 5 || !hasSqlState(error, "XX000", "40001", "40P01")) throw error;
      }
    }
  });
  const { host, port, database, tls } = target.config;
  const at = `${host.includes(":") ? `[${host}]` : host}:${port}/${encodeURIComponent(database)}`;
  const url = `postgres://${request.handle.role}:${password.reveal()}@${at}?sslmode=${tls}`;
  return { secret: { username: request.handle.role, password, host, port, database, url: new Secret(url) } };
}

const GUARD = `if extract(epoch from clock_timestamp()) * 1000 >= current_setting('mayfly.create_by')::float8 then
    raise exception 'too late' using errcode = '${TOO_LATE}'; end if;`;

// One transaction, and no secret in its text: the server logs statements that fail (C7). The clock that counts is the
// target's, and it is read again last of all, so a create held up on its way creates nothing (C8).
// The commit is not flushed: a role lost in a crash is a credential that stopped early, whereas waiting for the disk
// would bound the rate, because from PostgreSQL 16 on GRANT locks the group until the commit; so groups come last, too.
// SET FALSE: what a credential makes belongs to itself and is found, and no session of it can become the group, whose
// rights would outlive it (C4).
const CREATE_ROLE = `declare role_name text := current_setting('mayfly.role'); group_name text; begin
  set local synchronous_commit = off;
  ${GUARD}
  ${MEET_KEEPER}
  ${byKeeper(`format('create role %I login password %L valid until %L connection limit %s
      nosuperuser nocreatedb nocreaterole noreplication inherit', role_name, current_setting('mayfly.verifier'),
    current_setting('mayfly.until'), current_setting('mayfly.limit')::int)`)}
  ${byKeeper("format('comment on role %I is %L', role_name, current_setting('mayfly.comment'))")}
  foreach group_name in array current_setting('mayfly.groups')::text[] loop
    ${byKeeper(`format('grant %I to %I', group_name, role_name) ||
      case when current_setting('server_version_num')::int < 160000 then '' else ' with inherit true, set false' end`)}
  end loop;
  ${GUARD}
end`;

async function probe(target: Target, { role }: PostgresHandle, signal: AbortSignal): Promise<ProbeResult> {
  const by = "pg_catalog";
  try {
    return await target.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
      const [seen] = await connection.read<Seen>(
        `select pg_is_in_recovery() as standby, r.oid is not null as present, coalesce(r.rolcanlogin, false) as login,
           (select count(*) from pg_auth_members m where m.member = r.oid)::int as memberships,
           (select count(*) from pg_stat_activity a where a.usename = $1)::int as sessions
         from (select 1) one left join pg_roles r on r.rolname = $1`,
        [role],
      );
      if (seen === undefined || seen.standby) return { outcome: "unknown", by, detail: "a standby may be behind" };
      const { present, login, memberships, sessions } = seen;
      const dead = !login && memberships === 0 && sessions === 0;
      const state = !present ? "no role" : `role ${login ? "can" : "cannot"} log in, ${memberships} memberships`;
      return { outcome: dead ? "dead" : "alive", by, detail: `${state}, ${sessions} sessions` };
    });
  } catch (error) {
    const detail = error instanceof MayflyError ? error.detail : "PostgreSQL did not say";
    return { outcome: "unknown", by, detail };
  }
}

interface Seen {
  readonly standby: boolean;
  readonly present: boolean;
  readonly login: boolean;
  readonly memberships: number;
  readonly sessions: number;
}
