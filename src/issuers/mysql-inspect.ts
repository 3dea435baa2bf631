import { MayflyError } from "../lib/errors.ts";
import { readServer, type Server } from "./mysql-account.ts";
import { type Connection, hasErrno, quote } from "./mysql-client.ts";
import { isWritable } from "./mysql-revoke.ts";

/**
 * Whether Mayfly can mint and take back on this target, and whether the roles are no more than sets of grants. Throws
 * `target_refused` with the one statement that puts it right.
 */
export async function inspectMysql(
  connection: Connection,
  config: { readonly user: string },
  access: readonly { readonly roles: readonly string[] }[],
): Promise<void> {
  const server = await readServer(connection);
  const admin = await readAdmin(connection);
  checkServer(connection, server, config, admin);
  await checkAdmin(connection, server, admin);
  if (server.mariadb && access.some(({ roles }) => roles.length > 1)) {
    throw refused("MariaDB has one default role for an account: make a role of the roles, and list that one alone");
  }
  const roles = [...new Set(access.flatMap((one) => one.roles))].sort();
  const granted = await readGrantedRoles(connection);
  for (const role of roles) {
    if (granted.get(role) !== true) throw refused(`the admin cannot hand out ${role}: ${grantRoleSql(role, admin)}`);
    checkRole(server, role, await readGrants(connection, server, role));
  }
}

interface Admin {
  readonly user: string;
  /** As statements name it. */
  readonly account: string;
  readonly connection: number;
  readonly readOnly: unknown;
}

async function readAdmin(connection: Connection): Promise<Admin> {
  const [row] = await connection.read<{ account: string; connection: number; read_only: unknown }>(
    "select current_user() as account, connection_id() as connection, @@global.read_only as read_only",
  );
  if (row === undefined) throw refused("MySQL does not say who is logged in");
  const at = row.account.lastIndexOf("@");
  const user = row.account.slice(0, at);
  const name = (text: string): string => `'${text.replaceAll("'", "''")}'`;
  return {
    user,
    account: `${name(user)}@${name(row.account.slice(at + 1))}`,
    connection: row.connection,
    readOnly: row.read_only,
  };
}

function checkServer(connection: Connection, server: Server, config: { readonly user: string }, admin: Admin): void {
  // C16: behind a proxy, sessions of a credential run on shared server connections that no revoke finds.
  if (admin.user !== config.user || admin.connection !== connection.announcedId) {
    throw refused("a proxy stands between Mayfly and MySQL: register the server's own host and port");
  }
  if (!isWritable(admin.readOnly)) throw refused("this server is read-only: register the primary");
  if (server.version < (server.mariadb ? 10_006_000 : 8_000_017))
    throw refused("MySQL 8.0.17 or MariaDB 10.6 is needed");
}

async function checkAdmin(connection: Connection, server: Server, { account }: Admin): Promise<void> {
  const rights = await connection.read<{ right: string; grantable: string }>(
    `select PRIVILEGE_TYPE as ${quote("right")}, IS_GRANTABLE as grantable from information_schema.USER_PRIVILEGES
     where GRANTEE = ?`,
    [account],
  );
  const has = (right: string): boolean => rights.some((one) => one.right === right);
  const grant = (right: string): string => `GRANT ${right} ON *.* TO ${account};`;
  if (has("SUPER") || rights.some(({ grantable }) => grantable === "YES")) {
    throw refused(`the admin must not be a superuser: REVOKE ALL PRIVILEGES, GRANT OPTION FROM ${account};`);
  }
  if (!has("CREATE USER")) throw refused(`the admin cannot make accounts: ${grant("CREATE USER")}`);
  if (!has("PROCESS")) throw refused(`the admin cannot see sessions: ${grant("PROCESS")}`);
  const kill = server.mariadb ? "CONNECTION ADMIN" : "CONNECTION_ADMIN";
  if (!has(kill)) throw refused(`the admin cannot end sessions: ${grant(kill)}`);
  try {
    await connection.read("select User, Host from mysql.user limit 1");
  } catch (error) {
    if (!hasErrno(error, TABLE_DENIED, COLUMN_DENIED)) throw error;
    throw refused(`the admin cannot see accounts: GRANT SELECT (User, Host) ON mysql.user TO ${account};`);
  }
  if (!server.mariadb) return;
  const writes = await connection.read(
    `select 1 from information_schema.SCHEMA_PRIVILEGES
     where GRANTEE = ? and TABLE_SCHEMA = 'mysql' and PRIVILEGE_TYPE = 'UPDATE'`,
    [account],
  );
  if (writes.length === 0) {
    throw refused(`the admin cannot make a role an account's default: GRANT UPDATE ON mysql.* TO ${account};`);
  }
}

const TABLE_DENIED = 1142;
const COLUMN_DENIED = 1143;

function grantRoleSql(role: string, { account }: Admin): string {
  return `CREATE ROLE IF NOT EXISTS ${quote(role)}; GRANT ${quote(role)} TO ${account} WITH ADMIN OPTION;`;
}

/** The roles that were granted to us, and whether we may hand them on. Those that come with another role are not. */
async function readGrantedRoles(connection: Connection): Promise<ReadonlyMap<string, boolean>> {
  const rows = await connection.read<{ role: string; grantable: string; grantee: string; me: string }>(
    `select ROLE_NAME as role, IS_GRANTABLE as grantable, GRANTEE as grantee, current_user() as me
     from information_schema.APPLICABLE_ROLES`,
  );
  // MariaDB says user@host, MySQL the user alone.
  const own = rows.filter(({ grantee, me }) => grantee === me || grantee === me.slice(0, me.lastIndexOf("@")));
  return new Map(own.map(({ role, grantable }) => [role, grantable === "YES"]));
}

/** The GRANT statements that make up a role and those that it has. MySQL names the admin's own with them. */
async function readGrants(connection: Connection, server: Server, role: string): Promise<readonly string[]> {
  const texts = (rows: readonly object[]): string[] => rows.map((row) => String(Object.values(row)[0]));
  if (!server.mariadb) {
    const own = texts(await connection.read("show grants"));
    const both = texts(await connection.read(`show grants for current_user() using ${quote(role)}`));
    return both.filter((grant) => !own.includes(grant));
  }
  try {
    await connection.run([`SET ROLE ${quote(role)}`]);
    return texts(await connection.read("show grants for current_role"));
  } finally {
    await connection.run(["SET ROLE NONE"]);
  }
}

/** A grant on something, as SHOW GRANTS writes it: rights, on what, of which database, to whom. */
const GRANT_ON =
  /^GRANT (.+?) ON ((?:(?:TABLE|FUNCTION|PROCEDURE|PACKAGE|PACKAGE BODY) )?(\*|`(?:[^`]|``)*`)\.(?:\*|`(?:[^`]|``)*`)) TO (\S+)/;
/** Of a role to a role, whose own grants are listed as well. */
const GRANT_ROLE = /^GRANT (\S+) TO (\S+)/;

function checkRole(server: Server, role: string, grants: readonly string[]): void {
  // MySQL lists the grants of a role as if they were the admin's.
  const of = (grantee: string): string => (server.mariadb ? grantee : quote(role));
  for (const grant of grants) {
    const on = GRANT_ON.exec(grant);
    if (on === null) {
      const [, inner = "", grantee = ""] = GRANT_ROLE.exec(grant) ?? [];
      if (inner === "") throw refused(`role ${role} has a grant that Mayfly does not know`);
      if (grant.endsWith(" WITH ADMIN OPTION")) {
        const names = `${inner} FROM ${of(grantee)}; GRANT ${inner} TO ${of(grantee)};`;
        throw refused(`role ${role} can be handed on by who has it: REVOKE ${names}`);
      }
      continue;
    }
    const [, rights = "", what = "", database = "", grantee = ""] = on;
    const revoke = (right: string): string => `REVOKE ${right} ON ${what} FROM ${of(grantee)};`;
    if (grant.endsWith(" WITH GRANT OPTION")) {
      throw refused(`role ${role} can be handed on by who has it: ${revoke("GRANT OPTION")}`);
    }
    if (database === "*" && rights !== "USAGE") {
      throw refused(`role ${role} reaches beyond databases: ${revoke(rights)}`);
    }
    if (database !== "*" && reachesMysql(database.slice(1, -1).replaceAll("``", "`"))) {
      throw refused(`role ${role} reaches the server's own tables: ${revoke(rights)}`);
    }
  }
}

/** Whether a database's name, which may be a pattern as of LIKE, is that of the accounts. */
function reachesMysql(pattern: string): boolean {
  const literal = (text: string): string => text.replace(/[^A-Za-z0-9]/g, "\\$&");
  const source = pattern.replace(/\\(.)|([%_])|(.)/gs, (_, escaped?: string, wild?: string, plain?: string) => {
    if (wild !== undefined) return wild === "%" ? ".*" : ".";
    return literal(escaped ?? plain ?? "");
  });
  return new RegExp(`^${source}$`, "is").test("mysql");
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
