import pg from "pg";
import { MayflyError } from "../lib/errors.ts";
import { grantGroupSql, grantSignalSql } from "./postgres-admin.ts";
import { type Connection, hasSqlState } from "./postgres-client.ts";

interface Admin {
  readonly version: number;
  readonly standby: boolean;
  readonly pid: number;
  readonly user: string;
  readonly superuser: boolean;
  readonly createrole: boolean;
  readonly signals: boolean;
}

interface Group {
  readonly name: string;
  readonly present: boolean;
  readonly admin_option: boolean;
  /** Whether who is in it may connect to the database. */
  readonly connects: boolean;
  /** Roles in reach of the group, itself included, that are more than a group of grants. */
  readonly powerful: readonly string[];
}

/** Predefined roles that lead out of the database, or to the admin's own sessions. */
const DANGEROUS = [
  "pg_execute_server_program",
  "pg_read_server_files",
  "pg_write_server_files",
  "pg_signal_backend",
  "pg_create_subscription",
];

/**
 * Whether Mayfly can mint and take back on this target, and do no more than that. Throws `target_refused` with the
 * one statement that puts it right.
 */
export async function inspectPostgres(
  connection: Connection,
  config: { readonly user: string; readonly database: string; readonly accept_before_16: boolean },
  access: readonly { readonly roles: readonly string[] }[],
): Promise<void> {
  const [admin] = await connection.read<Admin>(
    `select current_setting('server_version_num')::int as version, pg_is_in_recovery() as standby,
       pg_backend_pid() as pid, current_user::text as user, r.rolsuper as superuser, r.rolcreaterole as createrole,
       pg_has_role('pg_signal_backend', 'USAGE') as signals
     from pg_roles r where r.rolname = current_user`,
  );
  if (admin === undefined) throw refused("PostgreSQL does not say who is logged in");
  checkServer(connection, config, admin);
  checkAdmin(admin);
  const before16 = admin.version < 160_000;
  const groups = await readGroups(connection, access);
  for (const group of groups) checkGroup(group, admin.user, before16);
  const barred = new Set(groups.flatMap(({ connects, name }) => (connects ? [] : [name])));
  const [first] = access.find(({ roles }) => roles.every((role) => barred.has(role)))?.roles ?? [];
  if (first === undefined) return;
  const [database, group] = [config.database, first].map((name) => pg.escapeIdentifier(name));
  throw refused(`who is in ${group} may not connect: GRANT CONNECT ON DATABASE ${database} TO ${group};`);
}

/** What to do when the admin cannot log in, for the error of a connection; any other error comes back as it is. */
export function explainLogin(error: unknown, config: { readonly user: string; readonly database: string }): unknown {
  const [user, database] = [config.user, config.database].map((name) => pg.escapeIdentifier(name));
  const { cause } = error instanceof MayflyError ? error : { cause: undefined };
  if (hasSqlState(cause, "42501"))
    return refused(`the admin may not connect: GRANT CONNECT ON DATABASE ${database} TO ${user};`);
  if (hasSqlState(cause, "28000"))
    return refused(`the admin may not log in, if pg_hba.conf has a line for it: ALTER ROLE ${user} LOGIN;`);
  return error;
}

function checkServer(
  { announcedPid }: Connection,
  config: { readonly user: string; readonly accept_before_16: boolean },
  admin: Admin,
): void {
  // C16: behind a pooler, sessions of a credential run on shared server connections that no revoke finds.
  if (admin.user !== config.user || admin.pid !== announcedPid) {
    throw refused("a pooler stands between Mayfly and PostgreSQL: register the server's own host and port");
  }
  if (admin.standby) throw refused("this is a standby: register the primary");
  if (admin.version < 140_000) throw refused("PostgreSQL 16 or newer is needed");
  if (admin.version < 160_000 && !config.accept_before_16) {
    throw refused(
      "before PostgreSQL 16 a CREATEROLE admin can take over almost every role of the server; upgrade, or set accept_before_16 to accept that",
    );
  }
}

function checkAdmin({ user, superuser, createrole, signals }: Admin): void {
  const admin = pg.escapeIdentifier(user);
  if (superuser) throw refused(`the admin must not be a superuser: ALTER ROLE ${admin} NOSUPERUSER CREATEROLE;`);
  if (!createrole) throw refused(`the admin cannot create roles: ALTER ROLE ${admin} CREATEROLE;`);
  if (!signals) throw refused(`the admin cannot end sessions: ${grantSignalSql(user)}`);
}

async function readGroups(
  connection: Connection,
  access: readonly { readonly roles: readonly string[] }[],
): Promise<Group[]> {
  const names = [...new Set(access.flatMap(({ roles }) => roles))].sort();
  return connection.read<Group>(
    `with recursive reach(start, oid) as (
       select rolname, oid from pg_roles where rolname = any($1)
       union
       select reach.start, m.roleid from reach join pg_auth_members m on m.member = reach.oid
     )
     select wanted.name, g.oid is not null as present,
       coalesce(pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION'), false) as admin_option,
       coalesce(has_database_privilege(g.oid, current_database(), 'CONNECT'), false) as connects,
       array(select r.rolname::text from reach join pg_roles r on r.oid = reach.oid
         where reach.start = wanted.name and (r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication
           or r.rolbypassrls or r.rolname = any($2))
         order by 1) as powerful
     from unnest($1::text[]) as wanted(name) left join pg_roles g on g.rolname = wanted.name`,
    [names, DANGEROUS],
  );
}

function checkGroup({ name, present, admin_option, powerful }: Group, user: string, before16: boolean): void {
  const group = pg.escapeIdentifier(name);
  if (!present) throw refused(`there is no group ${group}: CREATE ROLE ${group} NOLOGIN;`);
  const [first] = powerful;
  if (first === name) {
    throw refused(
      `group ${group} is more than a set of grants: ALTER ROLE ${group} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;`,
    );
  }
  if (first !== undefined) {
    throw refused(`group ${group} reaches beyond its grants: REVOKE ${pg.escapeIdentifier(first)} FROM ${group};`);
  }
  if (!admin_option) throw refused(`the admin cannot hand out ${group}: ${grantGroupSql(user, name, before16)}`);
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
