import pg from "pg";
import { type Broker, openBroker } from "../../src/broker.ts";
import { loadConfig } from "../../src/config.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { type Wire, wire } from "../issuers/wire.ts";
import { appEnv } from "./app.ts";
import { type TestDatabase, testDatabase, testSuperuserUrl } from "./database.ts";
import { type PostgresTarget, postgresTarget } from "./postgres-target.ts";
import { type MayflyProcess, startMayfly } from "./processes.ts";
import { type Racer, someRacers } from "./racer.ts";
import { aTarget, type Seeded, seed } from "./seed.ts";
import { until } from "./until.ts";
import { type Workload, workload } from "./workload.ts";

/** What an API process answered; `undefined` when it died with the request. */
export type Answer = { readonly status: number; readonly body: any } | undefined;

/** Real Mayfly processes on one database, a Postgres target behind a wire that can hold messages, and the ledger to look at. */
export interface Fleet extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly env: Readonly<Record<string, string>>;
  /** For seeding and looking; runs neither API nor worker. */
  readonly broker: Broker;
  readonly target: PostgresTarget;
  readonly wire: Wire;
  readonly seeded: Seeded;
  readonly idp: Workload;
  start(...args: string[]): Promise<MayflyProcess>;
  /** Every process that was started, the dead ones too. */
  running(): readonly MayflyProcess[];
  call(
    api: MayflyProcess,
    who: string,
    method: string,
    path: string,
    body?: unknown,
    headers?: Readonly<Record<string, string>>,
  ): Promise<Answer>;
  /** Opens a task of the seeded agent. */
  openTask(api: MayflyProcess): Promise<Id<"task">>;
  /** Agents of their own, with a task each. Their `token` is the `who` of a call. */
  racers(count: number): Promise<Racer[]>;
  /** Asks for a login at the target `tickets-db`. */
  mint(api: MayflyProcess, taskId: string, ttlSeconds: number): Promise<Answer>;
  /** Runs SQL in Mayfly's own database as its superuser. */
  sql(text: string, values?: unknown[]): Promise<any[]>;
  /** A transaction that holds what `text` locks, until it is let go. */
  lock(text: string, values?: unknown[]): Promise<{ letGo(): Promise<void> }>;
  /** Resolves when a statement containing `text` waits for a lock in Mayfly's database. */
  waiting(text: string): Promise<void>;
  /**
   * The promise of every fault test: nothing is pending, active or on its way, nothing is left in the target, and each
   * credential tells its death exactly once. Answers the ledger.
   */
  assertAllDead(): Promise<{ readonly id: string; readonly state: string; readonly state_reason: string }[]>;
}

export async function startFleet(extra: Readonly<Record<string, string>> = {}): Promise<Fleet> {
  const database = await testDatabase();
  const env = appEnv(database, { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377", MAYFLY_LOG_LEVEL: "info", ...extra });
  const broker = await openBroker(loadConfig({ ...env, MAYFLY_QUEUE: "none" }), createLog("silent"));
  const idp = await workload("https://idp.test");
  const seeded = await seed(broker, idp);
  const target = await postgresTarget();
  const line = await wire(testSuperuserUrl());
  await broker.db.withTenant({ tenantId: seeded.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, broker, {
      tenantId: seeded.tenantId,
      ownerId: seeded.ownerId,
      name: "tickets-db",
      issuer: "postgres",
      config: { ...target.config, port: line.port },
      resources: { [seeded.resourceId]: { read: { roles: [target.readers] }, write: { roles: [target.writers] } } },
    }),
  );
  const superuser = new pg.Pool({ connectionString: database.superuserUrl, max: 4 });
  superuser.on("error", () => {});
  const processes: MayflyProcess[] = [];
  const sql = async (text: string, values: unknown[] = []): Promise<any[]> =>
    (await superuser.query(text, values)).rows;

  const fleet: Fleet = {
    database,
    env,
    broker,
    target,
    wire: line,
    seeded,
    idp,
    sql,
    async start(...args) {
      const started = await startMayfly(args, { env });
      processes.push(started);
      return started;
    },
    running: () => processes,
    async call(api, who, method, path, body, headers = {}) {
      const token = await idp.token(broker.issuerUrl("default"), { sub: who });
      const response = await fetch(`http://127.0.0.1:${String(api.ready["port"])}${path}`, {
        method,
        headers: {
          authorization: `Bearer ${token}`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      }).catch(() => undefined);
      return response === undefined
        ? undefined
        : { status: response.status, body: await response.json().catch(() => undefined) };
    },
    async openTask(api) {
      const opened = await fleet.call(api, "orchestrator", "POST", "/v1/tasks", {
        agent_id: seeded.agentId,
        purpose_id: seeded.purposeId,
        objective: "faults",
        initiated_by: { kind: "system", id: newId("event") },
        deadline: new Date(Date.now() + 3_600_000).toISOString(),
      });
      if (opened?.status !== 201) throw new Error(`no task: ${JSON.stringify(opened)}`);
      return opened.body.id;
    },
    racers: (count) => someRacers({ broker, token: async ({ sub }) => String(sub) }, seeded, count),
    mint: (api, taskId, ttlSeconds) =>
      fleet.call(api, seeded.agentSub, "POST", "/v1/credentials", {
        task_id: taskId,
        target: "tickets-db",
        actions: ["read"],
        resources: ["tickets"],
        ttl_seconds: ttlSeconds,
      }),
    async lock(text, values = []) {
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
    async waiting(text) {
      await until(`"${text}" waits for a lock`, async () => {
        const [row] = await sql(
          "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1 || '%'",
          [text],
        );
        return row.n > 0;
      });
    },
    async assertAllDead() {
      await until(
        "every credential has ended",
        async () => (await sql("select from mayfly.credentials where due_at is not null")).length === 0,
        90_000,
      );
      const roles = await target.roles();
      if (roles.length > 0) throw new Error(`left in the target: ${roles.join(", ")}`);
      const ledger = await sql("select id, state, state_reason, receipt from mayfly.credentials order by id");
      const told = await sql(
        "select credential_id, count(*)::int as n from mayfly.audit_events where type in ('credential.revoked', 'credential.expired', 'credential.failed') group by 1",
      );
      for (const row of ledger) {
        const deaths = told.find((one) => one.credential_id === row.id)?.n ?? 0;
        if (deaths !== 1 || row.receipt === null)
          throw new Error(`${row.id} is ${row.state} and has died ${deaths} times in the audit`);
      }
      return ledger;
    },
    async [Symbol.asyncDispose]() {
      for (const process of processes) await process[Symbol.asyncDispose]();
      await broker[Symbol.asyncDispose]();
      await line[Symbol.asyncDispose]();
      await superuser.end();
      await target[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
  return fleet;
}
