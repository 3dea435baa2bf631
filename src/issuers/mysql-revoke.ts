import { setTimeout as sleep } from "node:timers/promises";
import { MayflyError } from "../lib/errors.ts";
import { type Connection, hasErrno, quote } from "./mysql-client.ts";

/** An account of ours, as both servers tell accounts apart. */
export interface Account {
  readonly user: string;
  readonly host: string;
}

/*
 * How an account dies, and why each step proves what it claims (measured on MariaDB 10.11):
 *
 * 1. A create that is still under way on the server holds a named lock; its connection is killed until nobody does. A lock that
 *    somebody else took by that name is passed over: it cannot be a create's.
 * 2. ACCOUNT LOCK refuses new log-ins and does nothing to open sessions. A log-in that has read the account before the lock and
 *    holds back its password proof gets in after it. But a log-in gives its name before the account is read, and is in
 *    PROCESSLIST under it from then on: so whoever can have seen the account unlocked is found there after the lock.
 * 3. Kill until nobody of that name is left. Killing only marks: it is gone when it is no longer listed.
 * 4. Only then DROP: a session that outlives its account keeps the rights that it had. Look at both once more.
 */

const SESSIONS_END_WITHIN_MS = 5_000;
/** Between two looks that must both find nobody. */
const SECOND_LOOK_MS = 10;

/** As SQL writes it. Both parts were validated. */
export function accountSql({ user, host }: Account): string {
  return `${quote(user)}@${quote(host)}`;
}

/** The name of the lock that a create of this account holds while it runs. At most 64 characters. */
export function createLock({ user }: Account): string {
  return `mayfly ${user}`;
}

/** Takes an account's access away and drops it; that it returns is the proof. Succeeds when there is none. */
export async function revokeAccount(connection: Connection, account: Account, signal: AbortSignal): Promise<void> {
  // Also whether sessions can be seen at all: what is dropped blindly lives on in them.
  await look(connection, account);
  // A create comes first, or it could unlock the account again.
  await killAll(connection, () => creators(connection, account), 1, signal);
  await connection.run([LOCK_WAIT, `ALTER USER IF EXISTS ${accountSql(account)} ACCOUNT LOCK`]);
  await killAll(connection, () => sessionIds(connection, account), 2, signal);
  await connection.run([LOCK_WAIT, `DROP USER IF EXISTS ${accountSql(account)}`]);
  const seen = await look(connection, account);
  if (seen.present || seen.sessions > 0 || seen.creates > 0) {
    throw new MayflyError("target_unavailable", "after its drop the account is there again, or a session of it is");
  }
}

/** Seconds that a statement about accounts waits for a lock that somebody else has, such as a backup's. */
export const LOCK_WAIT_SECONDS = 1;
export const LOCK_WAIT = `SET SESSION lock_wait_timeout = ${LOCK_WAIT_SECONDS}`;

/** What a server says of an account. */
export interface Seen {
  readonly present: boolean;
  readonly sessions: number;
  /** Creates of it that are under way. */
  readonly creates: number;
  /** A replica, or a primary that has stepped down: what it says may be old. */
  readonly readOnly: boolean;
}

const CREATORS = "ID = is_used_lock(?) and USER = substring_index(current_user(), '@', 1)";

/** Looks at the account, its sessions and its creates in one statement. */
export async function look(connection: Connection, account: Account): Promise<Seen> {
  const { user, host } = account;
  const [row] = await connection.read<Record<"accounts" | "sessions" | "creates" | "sees_all" | "read_only", unknown>>(
    `select (select count(*) from mysql.user where User = ? and Host = ?) as accounts,
       (select count(*) from information_schema.PROCESSLIST where USER = ?) as sessions,
       (select count(*) from information_schema.PROCESSLIST where ${CREATORS}) as creates,
       (select count(*) from information_schema.USER_PRIVILEGES where PRIVILEGE_TYPE = 'PROCESS'
         and GRANTEE = concat('''', replace(current_user(), '@', '''@'''), '''')) as sees_all,
       @@global.read_only as read_only`,
    [user, host, user, createLock(account)],
  );
  const { accounts, sessions, creates, sees_all, read_only } = row ?? {};
  if (!isCount(accounts) || !isCount(sessions) || !isCount(creates)) {
    throw new MayflyError("target_unavailable", "MySQL did not say whether the account is there");
  }
  // Without it the list of sessions is that of one's own, and says nothing of anybody else's.
  if (sees_all !== 1) throw new MayflyError("target_rejected", "the admin may not see sessions any more (PROCESS)");
  return { present: accounts > 0, sessions, creates, readOnly: !isWritable(read_only) };
}

/** What `@@global.read_only` says when a server takes writes. */
export function isWritable(readOnly: unknown): boolean {
  return readOnly === 0 || readOnly === "0" || readOnly === "OFF";
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}

async function sessionIds(connection: Connection, { user }: Account): Promise<number[]> {
  const found = await connection.read<{ id: number }>(
    "select ID as id from information_schema.PROCESSLIST where USER = ?",
    [user],
  );
  return found.map(({ id }) => id);
}

async function creators(connection: Connection, account: Account): Promise<number[]> {
  const found = await connection.read<{ id: number }>(
    `select ID as id from information_schema.PROCESSLIST where ${CREATORS}`,
    [createLock(account)],
  );
  return found.map(({ id }) => id);
}

/** Kills what is found until nothing was, so many times in a row. */
async function killAll(
  connection: Connection,
  find: () => Promise<readonly number[]>,
  looks: number,
  signal: AbortSignal,
): Promise<void> {
  const started = performance.now();
  for (let pause = 2, empty = 0; ; pause = Math.min(pause * 2, 50)) {
    const found = await find();
    empty = found.length === 0 ? empty + 1 : 0;
    if (empty === looks) return;
    if (performance.now() - started > SESSIONS_END_WITHIN_MS) {
      throw new MayflyError("target_unavailable", `${found.length} sessions of the account have not ended yet`);
    }
    for (const id of found) await kill(connection, id);
    await sleep(empty > 0 ? SECOND_LOOK_MS : pause, undefined, { signal });
  }
}

async function kill(connection: Connection, id: unknown): Promise<void> {
  if (typeof id !== "number" || !Number.isSafeInteger(id)) {
    throw new MayflyError("target_unavailable", "MySQL listed a session without a number");
  }
  try {
    await connection.run([`KILL CONNECTION ${id}`]);
  } catch (error) {
    if (!hasErrno(error, NO_SUCH_THREAD)) throw error;
  }
}

const NO_SUCH_THREAD = 1094;
