import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { post, tokenFor } from "./support/call.ts";
import type { BenchOptions } from "./support/options.ts";
import { startRedis } from "./support/redis.ts";
import { round, table } from "./support/report.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { type Process, type Server, startProcess, startServer } from "./support/server.ts";
import { soakFaults } from "./support/soak-faults.ts";
import { openLedger, prepareInvariants, violationsOf } from "./support/soak-invariants.ts";

const LANES = 4;
/** Credentials of one task. */
const BUDGET = 2;
const FAULT_EVERY_MS = 20_000;
const LOOK_EVERY_MS = 60_000;
/** Longer than any fault and the longest retry after it, so that everything has died by then or will not. */
const DRAIN_MS = 180_000;

/**
 * Lifecycles of tasks and their credentials for so many minutes, with a fault every 20 s: processes killed and stopped, the
 * database's connections cut, the queue emptied, the target's admin without its rights or locked out, the ledger locked. The
 * invariants are looked at each minute, and once more when everything had time to die. Two API processes and two workers.
 */
export async function benchSoak(options: BenchOptions): Promise<object> {
  const minutes = options.minutes;
  await using redis = options.queue === "redis" ? await startRedis() : undefined;
  await using server = await startServer({ ...options, command: "api", sweepSeconds: 2, redisUrl: redis?.url });
  const seeded = await seed(server);
  await using api = await startProcess(server, "api");
  await using first = await startProcess(server, "worker");
  await using second = await startProcess(server, "worker");
  const pool = new pg.Pool({ connectionString: seeded.ledgerUrl, max: 4 });
  pool.on("error", () => undefined);
  pool.on("connect", (client) => client.on("error", () => undefined));
  const ledger = openLedger(pool);
  await prepareInvariants(ledger);
  const faults = soakFaults({ api, workers: [first, second], ledger, redis, seeded });
  const endsAt = performance.now() + minutes * 60_000;
  const load = startLoad(server, api, seeded, endsAt);
  const problems: string[] = [];
  const rows: (string | number)[][] = [];
  const look = async (over: boolean): Promise<void> => {
    problems.push(...(await violationsOf(ledger, over)));
    const { live, connections, jobs } = await ledger.figures();
    const all = [server, api, first, second];
    const descriptors = await Promise.all(all.map((one) => one.descriptors()));
    rows.push([
      round((minutes * 60_000 - (endsAt - performance.now())) / 60_000, 1),
      load.minted(),
      live,
      connections,
      redis === undefined ? jobs : await redis.keys(),
      descriptors.reduce((sum, one) => sum + one, 0),
      ...(await Promise.all(all.map((one) => one.megabytes()))),
      problems.length + load.violations().length,
    ]);
  };
  let told = 0;
  let nextFault = performance.now();
  let nextLook = nextFault + LOOK_EVERY_MS;
  while (performance.now() < endsAt) {
    nextFault += FAULT_EVERY_MS;
    await sleep(Math.max(0, Math.min(nextFault, endsAt) - performance.now()));
    if (performance.now() < endsAt) {
      await faults[told % faults.length]?.();
      told += 1;
    }
    if (performance.now() >= nextLook) {
      nextLook += LOOK_EVERY_MS;
      await look(false);
    }
  }
  await load.ended();
  await ledger.drained(DRAIN_MS);
  await look(true);
  table(
    [
      "minute",
      "minted",
      "live",
      "connections",
      redis === undefined ? "jobs" : "keys",
      "files",
      "api MB",
      "api MB",
      "worker MB",
      "worker MB",
      "violations",
    ],
    rows,
  );
  problems.push(...load.violations());
  for (const problem of new Set(problems)) console.log(problem);
  const orphans = await ledger.roles();
  await pool.end();
  return {
    bench: "soak",
    minutes,
    credentials: load.minted(),
    faults: told,
    orphans: orphans.length,
    violations: problems.length,
  };
}

/**
 * Tasks that are opened, minted for, and ended, given back or left to their end: a token, and a login that every other
 * time is minted from it; one more than the task's budget must be refused. What fails in a fault is tried no more.
 */
function startLoad(server: Server, api: Process, seeded: Seeded, endsAt: number) {
  let minted = 0;
  const violations: string[] = [];
  const attempt = async <Body>(at: { readonly url: string }, token: string, path: string, body: object) =>
    post<Body>(at, token, path, body).catch(() => undefined);
  const lane = async (index: number): Promise<void> => {
    for (let turn = index; performance.now() < endsAt; turn += 1) {
      const at = turn % 2 === 0 ? server : api;
      const caller = seeded.callers[turn % seeded.callers.length];
      if (caller === undefined) throw new Error("nobody was seeded");
      const orchestrator = tokenFor(seeded, seeded.orchestratorSub);
      const task = await attempt<{ id: string }>(at, orchestrator, "/v1/tasks", {
        agent_id: caller.agentId,
        purpose_id: caller.purposeId,
        objective: "soak",
        initiated_by: { kind: "system", id: "soak" },
        deadline: new Date(Date.now() + 120_000).toISOString(),
        budget: { max_credentials: BUDGET },
      });
      if (task === undefined) {
        await sleep(200);
        continue;
      }
      const agent = tokenFor(seeded, caller.sub);
      const mint = async (target: string, more: object): Promise<Minted | undefined> =>
        attempt<Minted>(at, agent, "/v1/credentials", {
          task_id: task.id,
          target,
          actions: ["read"],
          resources: [seeded.resource],
          ttl_seconds: 5 + ((turn * 7) % 55),
          ...more,
        });
      const token = await mint(seeded.targets.jwt, { delegation: { max_depth: 1, allowed: [] } });
      const from = turn % 3 === 0 && token !== undefined ? { parent_credential_id: token.credential.id } : {};
      const login = await mint(seeded.targets.postgres, from);
      const made = [token, login].filter((one) => one !== undefined);
      minted += made.length;
      if (token !== undefined && outlives(token))
        violations.push(`I19: ${token.credential.id} lives longer than its row`);
      // What is minted from another is charged to the chain's task, too: here it is the same one.
      if (made.length === BUDGET && (await mint(seeded.targets.jwt, {})) !== undefined)
        violations.push(`I10: ${task.id} was given more than its budget`);
      await sleep(100);
      if (turn % 2 === 0) await attempt(at, orchestrator, `/v1/tasks/${task.id}/end`, { outcome: "completed" });
      else if (turn % 3 === 0 && token !== undefined)
        await attempt(at, agent, `/v1/credentials/${token.credential.id}/release`, {});
    }
  };
  const lanes = Promise.all(Array.from({ length: LANES }, (_, index) => lane(index)));
  return { minted: () => minted, violations: (): readonly string[] => violations, ended: () => lanes };
}

interface Minted {
  readonly credential: { readonly id: string; readonly expires_at: string };
  readonly secret: { readonly access_token?: string };
}

function outlives({ credential, secret }: Minted): boolean {
  const [, payload = ""] = (secret.access_token ?? "").split(".");
  const { exp } = JSON.parse(Buffer.from(payload, "base64url").toString()) as { exp?: number };
  return exp === undefined || exp * 1000 > Date.parse(credential.expires_at);
}
