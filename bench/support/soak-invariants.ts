import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";

/** The database of a deployment as its superuser sees it, the far side's roles included: both are in one server. */
export interface Ledger {
  run(text: string): Promise<void>;
  /** Holds the credentials so that nobody can write them, for so long. */
  lock(ms: number): Promise<void>;
  /** The roles of credentials that are there. */
  roles(): Promise<string[]>;
  /** Resolves when nothing is alive any more, or after so long. */
  drained(withinMs: number): Promise<void>;
  figures(): Promise<{ readonly live: number; readonly connections: number; readonly jobs: number }>;
  count(text: string): Promise<number>;
}

export function openLedger(pool: pg.Pool): Ledger {
  const rows = async <Row extends pg.QueryResultRow>(text: string): Promise<Row[]> =>
    (await pool.query<Row>(text)).rows;
  const count = async (text: string): Promise<number> =>
    (await rows<{ n: number }>(`select count(*)::int as n from (${text}) x`))[0]?.n ?? 0;
  return {
    count,
    async run(text) {
      await pool.query(text);
    },
    async lock(ms) {
      const client = await pool.connect();
      await client.query("begin; lock table mayfly.credentials in exclusive mode");
      await sleep(ms);
      await client.query("rollback");
      client.release();
    },
    async roles() {
      return (
        await rows<{ rolname: string }>("select rolname from pg_roles where rolname ~ '^mfy_bench_[0-9a-f]{32}$'")
      ).map(({ rolname }) => rolname);
    },
    async drained(withinMs) {
      const giveUpAt = performance.now() + withinMs;
      while ((await count("select from mayfly.credentials where due_at is not null")) > 0) {
        if (performance.now() > giveUpAt) return;
        await sleep(500);
      }
    },
    async figures() {
      const [row] = await rows<{ live: number; connections: number }>(
        `select (select count(*)::int from mayfly.credentials where due_at is not null) as live,
           (select count(*)::int from pg_stat_activity where usename in ('mayfly_app', 'mayfly_admin')) as connections`,
      );
      const tables = await rows<{ name: string }>(
        "select format('bullmq.%I', tablename) as name from pg_tables where schemaname = 'bullmq' and tablename like '%job%'",
      );
      let jobs = 0;
      for (const { name } of tables) jobs += await count(`select from ${name}`);
      return { live: row?.live ?? 0, connections: row?.connections ?? 0, jobs };
    },
  };
}

/** A role at the far side that is nobody's credential, and what has ended, to see that it stays so. */
const SET_UP = `
  create role mfy_elsewhere_${"0".repeat(32)} login;
  create schema soak;
  create unlogged table soak.ended (id text primary key, state text not null)`;
const REMEMBER = `insert into soak.ended select id, state from mayfly.credentials where due_at is null on conflict do nothing`;

/** Longer than a fault lasts. Nothing may be later than this because of one. */
const GRACE = "interval '60 seconds'";

/** Each counts what must not be (reliability §3.5). */
const invariants: Readonly<Record<string, string>> = {
  "I2: active past its end": `select from mayfly.credentials where state = 'active' and expires_at < now() - ${GRACE}`,
  "I3: revoked, and its role is there": `select from mayfly.credentials c join pg_roles r on r.rolname = c.downstream_name
    where c.state in ('revoked', 'expired', 'failed') and r.rolcanlogin`,
  "I1: a role without a living credential": `select from pg_roles r where r.rolname ~ '^mfy_bench_[0-9a-f]{32}$' and not exists (
    select from mayfly.credentials c where c.downstream_name = r.rolname and c.due_at is not null)
    and not exists (select from mayfly.targets t where t.canary_name = r.rolname)`,
  "I4: dead, and not told of exactly once": `select from mayfly.credentials c where c.due_at is null and (
    select count(*) from mayfly.audit_events e where e.tenant_id = c.tenant_id and e.credential_id = c.id
      and e.type in ('credential.revoked', 'credential.expired', 'credential.failed')) <> 1`,
  "I6: dead without a receipt": "select from mayfly.credentials where due_at is null and receipt is null",
  "I7: a session past its end": `select from pg_stat_activity a join mayfly.credentials c on c.downstream_name = a.usename
    where c.expires_at < now() - ${GRACE}`,
  "I8: ended, and then something else":
    "select from soak.ended e join mayfly.credentials c using (id) where c.state <> e.state",
  "I9: more than what it was minted from": `select from mayfly.credentials c join mayfly.credentials p on p.tenant_id = c.tenant_id
    and p.id = c.parent_id where c.expires_at > p.expires_at or not c.actions <@ p.actions or not c.resource_ids <@ p.resource_ids
    or cardinality(c.ancestors) > 5`,
  "I10: more than the task's budget": `select from mayfly.tasks t join mayfly.task_meters m on m.tenant_id = t.tenant_id and m.task_id = t.id
    where m.issued > t.max_credentials or (select count(*) from mayfly.credentials c
      where c.tenant_id = t.tenant_id and c.task_id = t.id) > t.max_credentials`,
  "I13: active, and what it was minted from has ended": `select from mayfly.credentials c join mayfly.credentials p
    on p.tenant_id = c.tenant_id and p.id = c.parent_id
    where c.state in ('pending', 'active') and p.ended_at < now() - interval '10 seconds'`,
  "I15: of another agent than its task": `select from mayfly.credentials c left join mayfly.tasks t on t.tenant_id = c.tenant_id
    and t.id = c.task_id and t.agent_id = c.agent_id and t.purpose_id = c.purpose_id where t.id is null`,
  "I20: somebody else's role is gone": `select where not exists (
    select from pg_roles where rolname = 'mfy_elsewhere_${"0".repeat(32)}' and rolcanlogin)`,
  "I13: active for a task that has ended": `select from mayfly.credentials c join mayfly.tasks t on t.tenant_id = c.tenant_id
    and t.id = c.task_id where c.state in ('pending', 'active') and t.ended_at < now() - interval '10 seconds'`,
  "I14: not tried again soon":
    "select from mayfly.credentials where state = 'revoking' and due_at > now() + interval '16 minutes'",
  "I16: outlives its task": `select from mayfly.credentials c join mayfly.tasks t on t.tenant_id = c.tenant_id and t.id = c.task_id
    where c.expires_at > t.deadline`,
};
/** What everything that had time to die must satisfy besides. */
const inTheEnd: Readonly<Record<string, string>> = {
  "alive after everything had time to die": "select from mayfly.credentials where due_at is not null",
  "a role that is left": "select from pg_roles where rolname ~ '^mfy_bench_[0-9a-f]{32}$'",
};

/** Before the load: what the invariants compare with. */
export function prepareInvariants(ledger: Ledger): Promise<void> {
  return ledger.run(SET_UP);
}

/** What is wrong, one line each. A role is looked for before its row is, so what is just being made or taken back is asked for twice. */
export async function violationsOf(ledger: Ledger, over: boolean): Promise<string[]> {
  const found: string[] = [];
  await ledger.run(REMEMBER);
  for (const [name, text] of Object.entries({ ...invariants, ...(over ? inTheEnd : {}) })) {
    if ((await ledger.count(text)) === 0) continue;
    await sleep(1_000);
    const again = await ledger.count(text);
    if (again > 0) found.push(`${name}: ${again}`);
  }
  return found;
}
