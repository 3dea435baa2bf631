import { MayflyError } from "../lib/errors.ts";
import type { Secret } from "../lib/secret.ts";
import { type Connection, quote } from "./mysql-client.ts";
import { cachingSha2Password, nativePassword } from "./mysql-password.ts";
import { type Account, accountSql, createLock, LOCK_WAIT } from "./mysql-revoke.ts";

/** Which of the two it is, how new, and what its clock says. */
export interface Server {
  readonly mariadb: boolean;
  /** Such as 8.0.17 as 8000017 and 10.11.6 as 10011006. */
  readonly version: number;
  /** Microseconds since 1970. */
  readonly nowMicros: number;
}

// Not UNIX_TIMESTAMP(NOW(6)): that is ambiguous for an hour each autumn.
const CLOCK = "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))";

/** Asks the server what it is and what time it has. */
export async function readServer(connection: Connection): Promise<Server> {
  const [row] = await connection.read<{ version: unknown; now: unknown }>(
    `select version() as version, ${CLOCK} as now`,
  );
  const version = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})/.exec(String(row?.version));
  if (version === null || typeof row?.now !== "number") {
    throw new MayflyError("target_unavailable", "MySQL did not tell its version and its time");
  }
  return {
    mariadb: /mariadb/i.test(String(row.version)),
    version: Number(version[1]) * 1_000_000 + Number(version[2]) * 1000 + Number(version[3]),
    nowMicros: row.now,
  };
}

interface Wanted {
  readonly account: Account;
  readonly password: Secret;
  readonly roles: readonly string[];
  readonly connectionLimit: number;
  readonly requireTls: boolean;
  readonly createByMicros: number;
}

/**
 * The statements of a create, for one packet. The last answers `done` = 1, or 0 when it came too late. Accounts know no
 * transaction, so it is made locked and unlocked last of all: what a crash leaves half made lets nobody in. Throws
 * `target_rejected` for more roles than the server can make default.
 *
 * Each statement runs only while the server's own clock is before the limit (C8). A named lock tells a revoke that a create is
 * under way, even one whose client has gone.
 */
export function createStatements(server: Server, wanted: Wanted): string[] {
  const { account, createByMicros } = wanted;
  const lock = quote(createLock(account));
  return [
    LOCK_WAIT,
    `SET @mayfly_on = get_lock(${lock}, 0)`,
    ...effects(server, wanted).flatMap((effect) => [
      `SET @mayfly_on = @mayfly_on = 1 AND ${CLOCK} < ${createByMicros}`,
      `SET @mayfly_do = if(@mayfly_on, ${quote(effect)}, 'DO 0')`,
      "PREPARE mayfly FROM @mayfly_do",
      "EXECUTE mayfly",
    ]),
    "DEALLOCATE PREPARE mayfly",
    `DO release_lock(${lock})`,
    "SELECT @mayfly_on AS done",
  ];
}

function effects({ mariadb }: Server, wanted: Wanted): string[] {
  const account = accountSql(wanted.account);
  const tls = wanted.requireTls ? " REQUIRE SSL" : "";
  const limit = ` WITH MAX_USER_CONNECTIONS ${wanted.connectionLimit}`;
  const roles = wanted.roles.map((role) => quote(role)).join(", ");
  if (mariadb && wanted.roles.length !== 1) {
    throw new MayflyError(
      "target_rejected",
      "MariaDB has one default role for an account: grant one role in each task",
    );
  }
  const proof = mariadb
    ? `VIA mysql_native_password USING ${quote(nativePassword(wanted.password))}`
    : `WITH caching_sha2_password AS 0x${Buffer.from(cachingSha2Password(wanted.password)).toString("hex")}`;
  return [
    `CREATE USER ${account} IDENTIFIED ${proof}${tls}${limit} ACCOUNT LOCK`,
    `GRANT ${roles} TO ${account}`,
    mariadb ? `SET DEFAULT ROLE ${roles} FOR ${account}` : `SET DEFAULT ROLE ${roles} TO ${account}`,
    `ALTER USER ${account} ACCOUNT UNLOCK`,
  ];
}
