import { setTimeout as sleep } from "node:timers/promises";
import { MayflyError } from "../lib/errors.ts";
import { type Connection, hasSqlState } from "./postgres-client.ts";
import { AS_ITS_KEEPER, byKeeper, ITS_KEEPER, REACH_KEEPER } from "./postgres-keeper.ts";

/*
 * How a role dies, and why each step proves what it claims (measured on PostgreSQL 15 to 18; InitPostgres in
 * src/backend/utils/init/postinit.c has the order of events):
 *
 * 1. NOLOGIN, committed. It refuses new log-ins and does nothing to open sessions (reliability C3). A log-in that
 *    read pg_authid just before still becomes a session (C5), and not always soon: with post_auth_delay in its
 *    start-up options an agent stays out of pg_stat_activity for as long as it likes, up to 35 minutes.
 * 2. Terminate until none is left. A log-in runs in one transaction from before it authenticates until after it
 *    shows in pg_stat_activity, and reads pg_authid afresh once the password is proven. So whoever can have seen
 *    LOGIN is, once the NOLOGIN was answered, either a visible session or the holder of a virtual transaction id in
 *    pg_locks. Waiting for those few, and reading the sessions after, is a proof; two empty reads 250 ms apart are
 *    slower and, against post_auth_delay, none.
 * 3. Only then DROP: a session that outlives its role has no user name and, if it has run SET ROLE, still reads as
 *    that group (C4). Look once more by the role's oid, which stays on such a session.
 *
 * No advisory lock is taken: anyone who can connect could hold it and so keep a credential alive. Two revokes of one
 * role collide on catalog rows instead (C2): the loser reads what is there now and goes on from that.
 */

/** After this, a log-in that has not locked its database yet is one that waits for its client's password proof. */
const LOGIN_GRACE_MS = 250;
const SESSIONS_END_WITHIN_MS = 5_000;
const MAX_ROUNDS = 12;

/**
 * Takes a role's access away and drops it; that it returns is the proof. Succeeds when there is no such role, and
 * then has also waited for a create that is still on its way to commit. `residue` when the role had to stay: it
 * cannot log in, has no password and no memberships.
 */
export async function revokeRole(
  connection: Connection,
  role: string,
  signal: AbortSignal,
): Promise<{ readonly residue?: string }> {
  for (let round = 1; ; round += 1) {
    try {
      const [found] = await connection.read<{ oid: number; rolcanlogin: boolean; keeper: string | null }>(
        `select oid, rolcanlogin, ${ITS_KEEPER} as keeper from pg_roles r where rolname = $1`,
        [role],
      );
      if (found === undefined) {
        await connection.run(PROVE_ABSENT, { role });
        return {};
      }
      const dying = { role, oid: found.oid, keeper: found.keeper ?? "" };
      if (found.rolcanlogin) await connection.run(REFUSE_LOGINS, { role, keeper: dying.keeper });
      await endSessions(connection, dying, signal);
      return await drop(connection, dying, signal);
    } catch (error) {
      if (round === MAX_ROUNDS || !isCollision(error)) throw error;
      await sleep(Math.random() * 5 * round, undefined, { signal });
    }
  }
}

/**
 * Another revoke or a late create got in between: gone (42704, or 22023 from SET ROLE), there after all (42710, 23505),
 * changed (XX000), deadlock.
 */
function isCollision(error: unknown): boolean {
  return hasSqlState(error, "42704", "22023", "42710", "23505", "XX000", "40001", "40P01");
}

// Not flushed: whoever logs in from now on sees it, and the DROP that follows is flushed and flushes this with it.
const REFUSE_LOGINS = `begin
  set local synchronous_commit = off;
  ${REACH_KEEPER}
  ${byKeeper("format('alter role %I nologin', current_setting('mayfly.role'))")}
end`;

// A create that has not committed yet is invisible, but the unique index of pg_authid makes a second create of the
// name wait for it. So: create it, and take that back at once. Either it was there (42710, 23505), or it is not and
// no transaction that could still bring it is open.
const PROVE_ABSENT = `begin
  execute format('create role %I nologin', current_setting('mayfly.role'));
  raise exception sqlstate 'MF002';
exception when sqlstate 'MF002' then null;
end`;

const DROP_ROLE = `begin
  ${REACH_KEEPER}
  ${byKeeper("format('drop role %I', current_setting('mayfly.role'))")}
end`;

// What is left of a role that cannot be dropped: no password, no group.
const STRIP_ROLE = `declare membership record; begin
  ${AS_ITS_KEEPER}
  execute format('alter role %I password null', current_setting('mayfly.role'));
  for membership in
    select g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member
     where r.rolname = current_setting('mayfly.role') order by g.rolname
  loop
    execute format('revoke %I from %I', membership.rolname, current_setting('mayfly.role'));
  end loop;
end`;

// A log-in that is not in pg_stat_activity yet does not say whose it is, but a role may end its own and no other: so
// it is done as the role, and PostgreSQL tells them apart. The membership that this needs is never committed.
// Leaves in mayfly.others those that PostgreSQL refused to end, which proves that they are not the role's.
const END_LOGINS = `declare login int; others int[] := '{}'; begin
  begin
    ${AS_ITS_KEEPER}
    execute format('grant %I to current_user', current_setting('mayfly.role'));
    execute format('set local role %I', current_setting('mayfly.role'));
    if not has_function_privilege('pg_terminate_backend(int, bigint)', 'execute') then
      raise exception 'a refusal would prove nothing' using errcode = 'insufficient_privilege'; end if;
    foreach login in array current_setting('mayfly.logins')::int[] loop
      begin perform pg_terminate_backend(login);
      exception when insufficient_privilege then others := others || login; end;
    end loop;
    raise exception sqlstate 'MF002';
  exception when sqlstate 'MF002' then null; end;
  perform set_config('mayfly.others', array_to_json(others)::text, false);
end`;

interface Login {
  readonly pid: number;
  readonly login: string;
  /** It has locked its database, so its password is proven and its role is known, though not to us. */
  readonly proven: boolean;
}

interface Dying {
  readonly role: string;
  readonly oid: number;
  /** Who made it; empty when the admin did. */
  readonly keeper: string;
}

/** Ends the sessions of a role that cannot log in any more; returns when none is left and none can still appear. */
async function endSessions(connection: Connection, dying: Dying, signal: AbortSignal): Promise<void> {
  const started = performance.now();
  // Who starts to log in after the first look reads NOLOGIN; only those seen then are waited for.
  let unsettled = await loggingIn(connection);
  for (let pause = 2; ; pause = Math.min(pause * 2, 50)) {
    // The order matters: who is logging in is known from before; now, in a statement of its own, who is there.
    const sessions = await connection.read(
      "select pg_terminate_backend(pid) from pg_stat_activity where usesysid = $1",
      [dying.oid],
    );
    const elapsed = performance.now() - started;
    const pending = unsettled.filter(({ proven }) => proven || elapsed < LOGIN_GRACE_MS);
    if (sessions.length === 0 && pending.length === 0) return;
    if (elapsed > SESSIONS_END_WITHIN_MS) throw stillThere(sessions.length, pending.length);
    await sleep(pause, undefined, { signal });
    if (pending.length === 0) continue;
    const now = await loggingIn(connection);
    unsettled = now.filter(({ login }) => pending.some((before) => before.login === login));
    // Most log-ins are through by now. Those that are not may be hiding.
    const hiding = unsettled.filter(({ proven }) => proven);
    if (hiding.length === 0) continue;
    const others = await endLogins(connection, dying, hiding);
    unsettled = unsettled.filter(({ pid }) => !others.includes(pid));
  }
}

/** Log-ins of anyone that are under way and not visible as sessions yet. */
function loggingIn(connection: Connection): Promise<Login[]> {
  return connection.read<Login>(
    `select l.pid, l.pid || ' ' || l.virtualtransaction as login,
       exists (select from pg_locks d where d.virtualtransaction = l.virtualtransaction
         and d.locktype = 'object' and d.classid = 'pg_database'::regclass) as proven
     from pg_locks l
     where l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock' and l.granted and l.pid <> pg_backend_pid()
       and not exists (select from pg_stat_activity a
         where a.pid = l.pid and (a.usesysid is not null or a.datid is not null))`,
  );
}

/** Ends those that are the role's; returns the process ids of those that are not and need no waiting for. */
async function endLogins(
  connection: Connection,
  { role, keeper }: Dying,
  logins: readonly Login[],
): Promise<readonly number[]> {
  await connection.run(END_LOGINS, { role, keeper, logins: `{${logins.map(({ pid }) => pid).join(",")}}` });
  const [answer] = await connection.read<{ others: number[] }>(
    "select current_setting('mayfly.others')::json as others",
  );
  return answer?.others ?? [];
}

async function drop(
  connection: Connection,
  { role, oid, keeper }: Dying,
  signal: AbortSignal,
): Promise<{ readonly residue?: string }> {
  try {
    await connection.run(DROP_ROLE, { role, keeper });
  } catch (error) {
    // 2BP01: it owns something or is named in a grant (C18). 55P03: somebody's open or prepared transaction is about
    // to name it. Neither is access, and waiting for a person to clean up would leave the credential alive meanwhile.
    if (!hasSqlState(error, "2BP01", "55P03")) throw error;
    await connection.run(STRIP_ROLE, { role, keeper });
    const left = await connection.read("select from pg_auth_members where member = $1", [oid]);
    if (left.length > 0) {
      throw new MayflyError("target_rejected", "the role has a membership that the admin may not revoke", {
        cause: error,
      });
    }
    const why = hasSqlState(error, "2BP01") ? "objects or grants depend on it" : "a transaction holds it";
    return { residue: `role ${role} stays, without login, password and memberships: ${why}` };
  }
  await endGhosts(connection, oid, signal);
  return {};
}

// By the proof above there is nothing to find. If there is, the proof has a hole, so one empty look is not enough.
async function endGhosts(connection: Connection, oid: number, signal: AbortSignal): Promise<void> {
  const started = performance.now();
  let lastSeen: number | undefined;
  for (;;) {
    const ghosts = await connection.read(
      "select pg_terminate_backend(pid) from pg_stat_activity where usesysid = $1 and usename is null",
      [oid],
    );
    const now = performance.now();
    if (ghosts.length > 0) lastSeen = now;
    if (lastSeen === undefined || now - lastSeen > LOGIN_GRACE_MS) return;
    if (now - started > SESSIONS_END_WITHIN_MS) throw stillThere(ghosts.length, 0);
    await sleep(25, undefined, { signal });
  }
}

function stillThere(sessions: number, logins: number): MayflyError {
  const detail = `${sessions} sessions of the role and ${logins} log-ins on their way have not ended yet`;
  return new MayflyError("target_unavailable", detail);
}
