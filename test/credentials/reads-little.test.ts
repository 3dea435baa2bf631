import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { sql } from "kysely";
import pg from "pg";
import { takeBack, type WhichCredentials } from "../../src/credentials/take-back.ts";
import { type Db, openDatabase, type Tx } from "../../src/db/database.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { DEFAULT_TENANT } from "../registry/harness.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";

/** Ended credentials of one tenant: what a month of work leaves behind, made small. */
const ENDED = 20_000;
const LIVE = 120;
const SPREAD = 40;
/** What another tenant has due, and for longer. */
const OTHERS = 1_000;

let database: TestDatabase;
let superuser: pg.Client;
let db: Db;
let live: Id<"credential">[];

/** `state` of credentials of forty agents with an owner, a task, a purpose and a target each, all due. */
async function ledger(
  ids: readonly string[],
  state: "active" | "pending" | "revoked",
  { selfContained = false, tenantId = DEFAULT_TENANT } = {},
) {
  await superuser.query(
    `insert into mayfly.credentials (tenant_id, id, agent_id, owner_id, task_id, purpose_id, target_id, decision_id,
       issuer, self_contained, revocability, environment, data_class, binding, actions, resource_ids, access,
       requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, create_by, expires_at,
       state, state_by, state_reason, due_at, ended_at, receipt, status_list, status_index)
     select $1, c.id, 'agt' || c.nth % $4, 'own' || c.nth % $4, 'tsk' || c.nth % $4, 'pur' || c.nth % $4, 'tgt' || c.nth % $4, 'dec', 'postgres',
       $5, 'immediate', 'staging', 'internal', 'bearer', '{read}', '{}', '[]', 300, 300, 'request', 'mfy', 'x', 'test',
       now() + interval '1 hour', now(), $3, 'test', 'test', case when $3 <> 'revoked' then now() end,
       case when $3 = 'revoked' then now() end, case when $3 = 'revoked' then '{}'::jsonb end,
       case when $5 then 'list' end, case when $5 then c.nth end
     from unnest($2::text[]) with ordinality as c (id, nth)`,
    [tenantId, ids, state, SPREAD, selfContained],
  );
}

/** Rows of credentials that were fetched by what `work` did, found or not. */
async function reads(work: (tx: Tx) => Promise<unknown>): Promise<number> {
  return db.withTenant({ tenantId: DEFAULT_TENANT, actor: "test" }, async (tx) => {
    const fetched = async (): Promise<number> =>
      (
        await sql<{ n: number }>`select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int as n
          from pg_stat_xact_user_tables where relname like 'credentials%'`.execute(tx)
      ).rows[0]?.n ?? Number.NaN;
    const before = await fetched();
    await work(tx);
    return (await fetched()) - before;
  });
}

const items = (ids: readonly string[], rest: object): string => JSON.stringify(ids.map((id) => ({ id, ...rest })));

async function claim(tx: Tx, count: number): Promise<string[]> {
  const { rows } = await sql<{
    id: string;
  }>`select id from mayfly.claim_due(${DEFAULT_TENANT}, ${count}, '25 seconds', '{}')`.execute(tx);
  expect(rows).toHaveLength(count);
  return rows.map(({ id }) => id);
}

// The planner knows nothing of a table until it was analyzed: each month's begins so, and so does each new deployment.
describe.each([
  ["that was never analyzed", "select"],
  ["that was analyzed", "analyze mayfly.credentials"],
])("what is read of a ledger %s does not grow with what has ended, nor with what others have", (_, statistics) => {
  beforeAll(async () => {
    database = await testDatabase();
    superuser = new pg.Client({ connectionString: database.superuserUrl });
    await superuser.connect();
    await superuser.query("set session_replication_role = replica");
    await ledger(
      Array.from({ length: ENDED }, () => newId("credential")),
      "revoked",
    );
    await ledger(
      Array.from({ length: OTHERS }, () => newId("credential")),
      "active",
      { tenantId: newId("tenant") },
    );
    await superuser.query(statistics);
    db = openDatabase({ connectionString: database.runtimeUrl, log: createLog("silent") });
  });
  afterAll(async () => {
    await db[Symbol.asyncDispose]();
    await superuser.end();
    await database[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    live = Array.from({ length: LIVE }, () => newId("credential"));
    await ledger(live, "active");
  });
  afterEach(async () => {
    await superuser.query("delete from mayfly.credentials where id = any ($1)", [live]);
  });

  // Eight times: a function's first five plans are made for their arguments, and those after for any.
  const often = async (work: () => Promise<void>): Promise<void> => {
    for (let nth = 0; nth < 8; nth += 1) await work();
  };

  test("to claim what is due, to finish it, and to try it again", () =>
    often(async () => {
      let claimed: string[] = [];
      expect(
        await reads(async (tx) => {
          claimed = await claim(tx, 8);
        }),
      ).toBeLessThanOrEqual(3 * 8);
      const finish = items(claimed.slice(0, 4), { state: "revoked", receipt: {} });
      expect(
        await reads(async (tx) => {
          const { rows } = await sql<{
            outcome: string;
          }>`select * from mayfly.finish_revocations(${DEFAULT_TENANT}, ${finish})`.execute(tx);
          expect(rows.map(({ outcome }) => outcome)).toEqual(["done", "done", "done", "done"]);
        }),
      ).toBeLessThanOrEqual(3 * 4);
      const retry = items(claimed.slice(4), { after_ms: 600_000, error: "x" });
      expect(
        await reads((tx) => sql`select * from mayfly.retry_revocations(${DEFAULT_TENANT}, ${retry})`.execute(tx)),
      ).toBeLessThanOrEqual(3 * 4);
    }));

  test("to see who has something due", async () => {
    expect(await reads((tx) => sql`select * from mayfly.due_tenants()`.execute(tx))).toBeLessThanOrEqual(4);
  });

  test("to activate what was minted", () =>
    often(async () => {
      const pending = [newId("credential"), newId("credential")];
      await ledger(pending, "pending");
      live.push(...pending);
      const activate = items(pending, {});
      expect(
        await reads(async (tx) => {
          const { rows } = await sql<{
            outcome: string;
          }>`select * from mayfly.mint_activate(${DEFAULT_TENANT}, ${activate})`.execute(tx);
          expect(rows.map(({ outcome }) => outcome)).toEqual(["active", "active"]);
        }),
      ).toBeLessThanOrEqual(3 * 2);
    }));

  test("to expire tokens that have run out", () =>
    often(async () => {
      const tokens = [newId("credential"), newId("credential")];
      await ledger(tokens, "active", { selfContained: true });
      live.push(...tokens);
      expect(
        await reads(async (tx) => {
          const { rows } = await sql<{
            expire_due: number;
          }>`select mayfly.expire_due(${DEFAULT_TENANT}, 2000)`.execute(tx);
          expect(rows).toEqual([{ expire_due: 2 }]);
        }),
      ).toBeLessThanOrEqual(2 * LIVE);
    }));

  test.each<[string, WhichCredentials, number]>([
    ["one credential", (query) => query.where("id", "=", live[0] as Id<"credential">), 1],
    ["a task", (query) => query.where("task_id", "=", "tsk1" as Id<"task">), 3],
    ["an agent", (query) => query.where("agent_id", "=", "agt1" as Id<"agent">), 3],
    ["a target", (query) => query.where("target_id", "=", "tgt1" as Id<"target">), 3],
    ["a purpose", (query) => query.where("purpose_id", "=", "pur1" as Id<"purpose">), 3],
    ["an owner", (query) => query.where("owner_id", "=", "own1" as Id<"owner">), 3],
  ])("to take back what belongs to %s", async (_kind, which, count) => {
    expect(
      await reads(async (tx) => {
        const taken = await takeBack(tx, which, { tenantId: DEFAULT_TENANT, by: "test", reason: "killed" });
        expect(taken).toBe(count);
      }),
    ).toBeLessThanOrEqual(5 * LIVE);
  });
});
