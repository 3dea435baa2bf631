import pg from "pg";

interface AdminSetup {
  /** The role that Mayfly logs in as. */
  readonly admin: string;
  /** The group roles whose membership Mayfly may hand out. They must exist. */
  readonly groups: readonly string[];
  /** A SCRAM verifier (`scramVerifier`). Without one the role gets no password: set it with `\password` in psql. */
  readonly passwordVerifier?: string;
  /** For PostgreSQL 14 and 15, whose GRANT knows neither INHERIT nor SET. */
  readonly before16?: boolean;
}

/** Everything that a superuser must run on a target, once, and no right more. The documentation shows this very text. */
export function adminSetupSql({ admin, groups, passwordVerifier, before16 = false }: AdminSetup): string {
  const password = passwordVerifier === undefined ? "" : ` PASSWORD ${pg.escapeLiteral(passwordVerifier)}`;
  return [
    `CREATE ROLE ${pg.escapeIdentifier(admin)} LOGIN CREATEROLE${password};`,
    grantSignalSql(admin),
    ...groups.map((group) => grantGroupSql(admin, group, before16)),
    "",
  ].join("\n");
}

/** Lets the admin end the sessions of roles that are not superusers. */
export function grantSignalSql(admin: string): string {
  return `GRANT pg_signal_backend TO ${pg.escapeIdentifier(admin)};`;
}

/** Lets the admin hand out a group without using it: from PostgreSQL 16 on it gets none of the group's rights itself. */
export function grantGroupSql(admin: string, group: string, before16 = false): string {
  const options = before16 ? "ADMIN OPTION" : "ADMIN TRUE, INHERIT FALSE, SET FALSE";
  return `GRANT ${pg.escapeIdentifier(group)} TO ${pg.escapeIdentifier(admin)} WITH ${options};`;
}
