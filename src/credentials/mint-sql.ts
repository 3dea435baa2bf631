import { sql } from "kysely";
import type { Db } from "../db/database.ts";
import type { MintFacts } from "./mint-facts.ts";
import { createKeptFacts, createReadFacts, type KeptFacts, loadItem, type ReadFacts } from "./read-facts.ts";

/** Reads what a mint is judged by, and commits its intent: what a decision needs of the database. */
export interface IntentSql {
  /** Whether this runs inside a transaction, where nobody may wait for a far side. */
  readonly inTransaction: boolean;
  readonly facts: ReadFacts;
  commit(tenantId: string, item: object): Promise<{ readonly outcome: "committed" | "changed" | "blocked" }>;
}

/** The statements of a mint (migrations/0004). Those of requests that arrive together travel together. */
export interface MintSql extends IntentSql {
  readonly kept: KeptFacts;
  activate(tenantId: string, item: object): Promise<{ readonly outcome: "active" | "gone" }>;
  deny(tenantId: string, item: object): Promise<unknown>;
  /**
   * Runs `work` in one transaction in which the registry stands still, so that what it reads cannot change before it
   * commits. Registry changes wait for it, and only one runs at a time in a process: for the mint that would otherwise
   * be overtaken again and again.
   */
  standingStill<Result>(tenantId: string, work: (sql: IntentSql) => Promise<Result>): Promise<Result>;
}

/** The statements over one process's pools, and what that process keeps of their answers. */
export function mintSql(db: Db): MintSql {
  let turn: Promise<unknown> = Promise.resolve();
  const kept = createKeptFacts();
  const commit = db.batched<object, { outcome: "committed" | "changed" | "blocked"; now_ms: string }>("mint_commit");
  return {
    inTransaction: false,
    kept,
    facts: createReadFacts(db, kept),
    async commit(tenantId, item) {
      const done = await commit(tenantId, item);
      kept.clock(Number(done.now_ms));
      return done;
    },
    activate: db.batched("mint_activate"),
    deny: db.batched("record_denial"),
    standingStill(tenantId, work) {
      const run = () =>
        db.withTenant({ tenantId, actor: "mayfly:mint" }, async (tx) => {
          await sql`select pg_advisory_xact_lock_shared(mayfly.gate(${tenantId}))`.execute(tx);
          const one = async <Row>(name: "mint_load" | "mint_commit", item: object): Promise<Row> => {
            const call = sql<Row>`select * from ${sql.id("mayfly", name)}(${tenantId}, ${JSON.stringify([item])}::jsonb)`;
            return (await call.execute(tx)).rows[0] as Row;
          };
          return work({
            inTransaction: true,
            async facts(_, agentId, request) {
              return (await one<{ facts: MintFacts }>("mint_load", loadItem(agentId, request))).facts;
            },
            commit: (_, item) => one("mint_commit", item),
          });
        });
      const mine = turn.then(run, run);
      turn = mine;
      return mine;
    },
  };
}
