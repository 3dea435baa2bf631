import pg from "pg";
import type { KeyPurpose } from "../../src/keys/key-purpose.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

/** Two API processes' worth of Mayfly on one database: two pools, two caches. Neither runs a worker. */
export interface Pair extends AsyncDisposable {
  readonly app: App;
  readonly other: App;
  readonly both: readonly [App, App];
  readonly database: TestDatabase;
  readonly s: Seeded;
  /** The seeded agent's token. */
  readonly agent: string;
  readonly admin: string;
  readonly taskId: string;
  mint(at: App, ttlSeconds?: number): Promise<Answer>;
  introspect(at: App, token: string): Promise<Answer>;
  compromise(at: App, kid: string): Promise<Answer>;
  /** The kids of the key set that this process answers. */
  published(at: App): Promise<string[]>;
  activeKid(purpose: KeyPurpose): Promise<string>;
  /** Runs SQL as the superuser of Mayfly's database. */
  sql(text: string, values?: unknown[]): Promise<any[]>;
  /** Makes every key older: what was to come in so many seconds is now. */
  passTime(seconds: number): Promise<void>;
  /** A connection that is in a transaction in which it has run this. */
  holding(text: string, values?: unknown[]): Promise<{ letGo(): Promise<void> }>;
  /** Resolves when so many statements that contain `text` wait for a lock. */
  waiting(text: string, number?: number): Promise<void>;
}

export async function aPair(): Promise<Pair> {
  const database = await testDatabase();
  const app = await startApp({ database, worker: false, env: { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" } });
  const other = await startApp({ database, worker: false, env: app.env });
  const s = await seed(app.broker, app.idp);
  const superuser = new pg.Pool({ connectionString: database.superuserUrl, max: 4 });
  superuser.on("error", () => undefined);
  const sql = async (text: string, values: unknown[] = []): Promise<any[]> =>
    (await superuser.query(text, values)).rows;
  const agent = await app.token({ sub: s.agentSub });
  const orchestrator = await app.token({ sub: "orchestrator" });
  const admin = await app.token({ sub: "admin" });
  const opened = await app.call(orchestrator, "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "keys",
    initiated_by: { kind: "human", id: "alice" },
    deadline: new Date(Date.now() + 7_200_000).toISOString(),
  });
  // The first look at the key set makes the keys.
  await app.call(null, "GET", "/t/default/.well-known/jwks.json");
  return {
    app,
    other,
    both: [app, other],
    database,
    s,
    agent,
    admin,
    taskId: opened.body.id,
    sql,
    mint: (at, ttlSeconds = 300) =>
      at.call(agent, "POST", "/v1/credentials", {
        task_id: opened.body.id,
        target: "tickets-api",
        actions: ["read"],
        resources: ["tickets"],
        ttl_seconds: ttlSeconds,
      }),
    introspect: (at, token) =>
      at.call(orchestrator, "POST", "/oauth/introspect", new URLSearchParams({ token }).toString(), {
        "content-type": "application/x-www-form-urlencoded",
      }),
    compromise: (at, kid) =>
      at.call(admin, "POST", `/v1/signing-keys/${kid}/compromised`, { reason: "found in a log" }),
    async published(at) {
      const { body } = await at.call(null, "GET", "/t/default/.well-known/jwks.json");
      return body.keys.map((key: { kid: string }) => key.kid);
    },
    async activeKid(purpose) {
      const [row] = await sql(
        "select kid from mayfly.signing_keys where tenant_id = $1 and purpose = $2 and state = 'active'",
        [s.tenantId, purpose],
      );
      return row.kid;
    },
    async passTime(seconds) {
      const client = await superuser.connect();
      try {
        await client.query("begin");
        // Past the triggers: to these, what a key is never changes.
        await client.query("set local session_replication_role = replica");
        const columns = ["created_at", "activated_at", "retired_at", "published_until", "ended_at"];
        const earlier = columns.map((column) => `${column} = ${column} - make_interval(secs => $1)`);
        await client.query(`update mayfly.signing_keys set ${earlier.join(", ")}`, [seconds]);
        await client.query("commit");
      } finally {
        client.release();
      }
    },
    async holding(text, values = []) {
      const client = await superuser.connect();
      await client.query("begin");
      await client.query(text, values);
      return {
        async letGo() {
          await client.query("rollback");
          client.release();
        },
      };
    },
    async waiting(text, number = 1) {
      await until(`${number} of "${text}" wait for a lock`, async () => {
        const [row] = await sql(
          "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1 || '%'",
          [text],
        );
        return row.n >= number;
      });
    },
    async [Symbol.asyncDispose]() {
      await superuser.end();
      await other[Symbol.asyncDispose]();
      await app[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}
