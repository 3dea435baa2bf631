import { setTimeout as sleep } from "node:timers/promises";
import type { BenchRedis } from "./redis.ts";
import type { Seeded } from "./seed.ts";
import type { Process } from "./server.ts";
import type { Ledger } from "./soak-invariants.ts";

interface Soaked {
  readonly api: Process;
  readonly workers: readonly [Process, Process];
  readonly ledger: Ledger;
  /** Where the queue is; undefined when it is in the ledger's database. */
  readonly redis: BenchRedis | undefined;
  readonly seeded: Pick<Seeded, "downstream">;
}

const LASTS_MS = 10_000;

/** What may happen to a deployment, one after the other. Each resolves when it is over. */
export function soakFaults({ api, workers: [first, second], ledger, redis, seeded }: Soaked): (() => Promise<void>)[] {
  const { admin } = seeded.downstream;
  const sql = async (text: string): Promise<void> => {
    // It may be one of the connections that a fault has cut.
    await ledger.run(text).catch(async () => ledger.run(text));
  };
  const during = async (begin: string, end: string): Promise<void> => {
    await sql(begin);
    await sleep(LASTS_MS);
    await sql(end);
  };
  const cut = (role: string): string =>
    `select pg_terminate_backend(pid) from pg_stat_activity where usename = '${role}' and pid <> pg_backend_pid()`;
  // The admin's, and those of its keepers, which would go on without it.
  const rights = (attribute: string): string =>
    `do $$ declare name text; begin for name in select rolname from pg_roles
       where rolname = '${admin}' or rolname ~ '^mfy_bench_keeper_' loop
       execute format('alter role %I ${attribute}', name); end loop; end $$`;
  return [
    () => first.killAndStart(),
    () => api.killAndStart(),
    async () => {
      await Promise.all([first.killAndStart(), second.killAndStart()]);
    },
    () => sql(cut("mayfly_app")),
    () => second.pause(LASTS_MS),
    () => during(rights("nocreaterole"), rights("createrole")),
    async () => {
      await sql(`alter role ${admin} connection limit 0`);
      await during(cut(admin), `alter role ${admin} connection limit -1`);
    },
    ...(redis === undefined
      ? [
          () =>
            sql(
              "do $$ declare t text; begin for t in select tablename from pg_tables where schemaname = 'bullmq' and tablename like '%job%' loop execute format('truncate bullmq.%I cascade', t); end loop; end $$",
            ),
        ]
      : [() => redis.flush(), () => redis.lose(LASTS_MS), () => redis.pause(LASTS_MS)]),
    () => ledger.lock(3_000),
    async () => {
      await Promise.all([first.pause(LASTS_MS), second.pause(LASTS_MS), api.pause(3_000)]);
    },
  ];
}
