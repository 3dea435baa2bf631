import { expect } from "@jest/globals";
import type { Id } from "../../src/lib/ids.ts";
import { type Answer, type Fleet, startFleet } from "../support/fleet.ts";
import type { MayflyProcess } from "../support/processes.ts";
import type { Racer } from "../support/racer.ts";
import { aTarget } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { type FarSide, farSides } from "./far-sides.ts";
import { aShortLife, atOnce, type Doomed, everything, type Way } from "./ways-to-end.ts";

/** How one credential ended: all of it that is the same in every run. */
interface End {
  readonly state: string;
  readonly reason: string;
  readonly by: string;
  /** The receipt: who ended it, what was looked at, and what else it tells. */
  readonly receipt: { readonly ended_by: string; readonly probe: string; readonly tells: readonly string[] };
  /** Its audit events in their order, each with who did it. */
  readonly told: readonly string[];
}

/** Ways at once: more keep a busy machine from answering in time. */
const LANES = 4;

type Targets = ReadonlyMap<string, Id<"target">>;

/** What a far side's receipts tell beside who ended it and what was looked at. */
const tells = ["attempts", "due_at", "lag_ms", "observed", "proven_at", "reason", "took_ms"];

/** What is looked at to prove a credential of each kind dead, and what its receipts tell. */
const proofs: Readonly<Record<string, Pick<End["receipt"], "probe" | "tells">>> = {
  jwt: { probe: "introspection", tells: ["due_at", "lag_ms", "observed", "proven_at"] },
  postgres: { probe: "pg_catalog", tells },
  mysql: { probe: "mysql.user", tells },
  redis: { probe: "acl_and_clients", tells },
  vault: { probe: "vault_lookup", tells },
  kubernetes: { probe: "bound_object", tells },
  "aws-sts": { probe: "iam_policy", tells: [...tells, "residue"].sort() },
  "github-app": { probe: "use_of_token", tells },
  oauth: { probe: "introspection", tells },
};

/** By way and kind. */
type Ends = Readonly<Record<string, Readonly<Record<string, End>>>>;

/** How everything ends, whatever the queue. */
export function expectedEnds(): Ends {
  const kinds = ["jwt", ...Object.keys(farSides)];
  return mapValues({ ...aShortLife, ...atOnce, ...everything }, (way) =>
    Object.fromEntries(kinds.map((kind) => [kind, expectedEnd(kind, way)])),
  );
}

function expectedEnd(kind: string, { reason, by }: Way): End {
  const proof = proofs[kind] ?? { probe: "?", tells: [] };
  if (kind !== "jwt") {
    const lived = ["credential.pending by its agent", "credential.issued by its agent"];
    const told = [...lived, `credential.revoking by ${by}`, `credential.revoked by ${by}`];
    return { state: "revoked", reason, by, receipt: { ended_by: "mayfly", ...proof }, told };
  }
  // Nobody has to do anything about a token that has run out.
  const [state, ended_by] = reason === "ttl" ? (["expired", "expiry"] as const) : (["revoked", "mayfly"] as const);
  const told = ["credential.issued by its agent", `credential.${state} by ${by}`];
  return { state, reason, by, receipt: { ended_by, ...proof }, told };
}

/**
 * Mints one credential of each kind for each way there is to end one, and ends them, over a queue that is configured like
 * this. Answers how each ended, when nothing is alive at any far side, and how many tables the queue had in Postgres.
 */
export async function everyEnd(
  queue: Readonly<Record<string, string>>,
): Promise<{ readonly ends: Ends; readonly tables: number }> {
  const sides = await Promise.all(Object.values(farSides).map((start) => start()));
  try {
    await using fleet = await startFleet({ MAYFLY_MINT_TIMEOUT_SECONDS: "10", ...queue });
    const [api] = await Promise.all([fleet.start("api"), fleet.start("worker")]);
    const shared = await register(fleet, sides, "shared");
    const ended: { readonly way: string; readonly doomed: Doomed }[] = [];
    const live = async (ways: Readonly<Record<string, Way>>): Promise<void> => {
      const cast = await fleet.racers(2 * Object.keys(ways).length);
      const waiting = Object.entries(ways).map(([name, way], index) => ({ name, way, index }));
      const lane = async (): Promise<void> => {
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
          const { name, way, index } = next;
          const [agent, parent] = cast.slice(2 * index) as [Racer, Racer];
          const targets = way.ownTargets === true ? await register(fleet, sides, `own-${index}`) : shared;
          const doomed = await mintOfEach(fleet, api, { way, agent, parent, targets });
          ended.push({ way: name, doomed });
          for (const answer of (await way.end?.(doomed)) ?? [])
            expect(`${name}: ${answer?.status} ${answer?.body?.detail ?? ""}`).toMatch(/: 20[04] $/);
        }
      };
      await Promise.all(Array.from({ length: LANES }, lane));
    };
    // Those that end by themselves last, when every far side has been met: the first time takes long.
    await live(atOnce);
    await live(aShortLife);
    await fleet.assertAllDead();
    await live(everything);
    await fleet.assertAllDead();
    for (const side of sides) expect([side.issuer, await side.alive()]).toEqual([side.issuer, 0]);
    const ends = await Promise.all(ended.map(async ({ way, doomed }) => [way, await endsOf(fleet, doomed)] as const));
    const tables = await fleet.sql("select from pg_tables where schemaname = 'bullmq'");
    return { ends: Object.fromEntries(ends), tables: tables.length };
  } finally {
    for (const side of sides) await side[Symbol.asyncDispose]();
  }
}

function mapValues<From, To>(of: Readonly<Record<string, From>>, to: (value: From) => To): Record<string, To> {
  return Object.fromEntries(Object.entries(of).map(([name, value]) => [name, to(value)]));
}

/** A target of each kind with all that it needs, called `<kind>-<name>`. By kind. */
async function register(fleet: Fleet, sides: readonly FarSide[], name: string): Promise<Targets> {
  const { broker, seeded } = fleet;
  const { tenantId, ownerId, resourceId } = seeded;
  const kinds = [
    { issuer: "jwt", config: { audience: "https://tickets.test/api" }, access: {} },
    ...sides.map((side) => ({ issuer: side.issuer, config: side.config(side.at.port), access: side.access })),
  ];
  return broker.db.withTenant({ tenantId, actor: "test" }, async (tx) => {
    const made = new Map<string, Id<"target">>();
    for (const { issuer, config, access } of kinds)
      made.set(
        issuer,
        await aTarget(tx, broker, {
          tenantId,
          ownerId,
          name: `${issuer}-${name}`,
          issuer,
          config,
          resources: { [resourceId]: { read: access as object } },
        }),
      );
    return made;
  });
}

interface Cast {
  readonly way: Way;
  readonly agent: Racer;
  readonly parent: Racer;
  readonly targets: Targets;
}

async function mintOfEach(fleet: Fleet, api: MayflyProcess, { way, agent, parent, targets }: Cast): Promise<Doomed> {
  // Each of them changes its row for the first time.
  const call = (who: string, method: string, path: string, body?: object): Promise<Answer> =>
    fleet.call(api, who, method, path, body, method === "DELETE" ? { "if-match": '"1"' } : {});
  const mint = async (by: Racer, body: object): Promise<string> => {
    const asked = { task_id: by.taskId, actions: ["read"], resources: ["tickets"], ...body };
    // On a busy machine a far side may not answer in time; whoever is told `retryable` asks again.
    const minted = await until(`a mint of ${JSON.stringify(asked)}`, async () => {
      const answer = await call(by.token, "POST", "/v1/credentials", asked);
      if (answer?.status !== 201 && answer?.body?.retryable !== true)
        throw new Error(`no mint: ${JSON.stringify(answer)}`);
      return answer.status === 201 && answer;
    });
    return minted.body.credential.id;
  };
  const taskId = way.heartbeatSeconds === undefined ? agent.taskId : await openTask(call, agent, way.heartbeatSeconds);
  const lifeOf = (ttl: number | undefined) => (ttl === undefined ? {} : { ttl_seconds: ttl });
  const parentId =
    way.fromParent === undefined
      ? undefined
      : await mint(parent, {
          target: targets.get("jwt"),
          delegation: { max_depth: 1, allowed: [{ sub: agent.agentId }] },
          ...lifeOf(way.fromParent.ttlSeconds),
        });
  const ids = await Promise.all(
    [...targets.values()].map((target) =>
      mint(agent, {
        task_id: taskId,
        target,
        ...lifeOf(way.ttlSeconds),
        ...(parentId === undefined ? {} : { parent_credential_id: parentId }),
      }),
    ),
  );
  return { agent, parent, parentId, taskId, ids, targetIds: [...targets.values()], call };
}

async function openTask(call: Doomed["call"], agent: Racer, heartbeatSeconds: number): Promise<string> {
  const opened = await call("orchestrator", "POST", "/v1/tasks", {
    agent_id: agent.agentId,
    purpose_id: agent.purposeId,
    objective: "to be forgotten",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
    heartbeat_seconds: heartbeatSeconds,
  });
  if (opened?.status !== 201) throw new Error(`no task: ${JSON.stringify(opened)}`);
  return opened.body.id;
}

/** By kind. */
async function endsOf(fleet: Fleet, { ids, agent, parent }: Doomed): Promise<Readonly<Record<string, End>>> {
  const names = new Map([
    [agent.agentId as string, "its agent"],
    [parent.agentId as string, "its parent's agent"],
    [agent.token, "its agent"],
    [parent.token, "its parent's agent"],
  ]);
  // A human is called by the trust source and the subject.
  const called = (actor: string): string => names.get(actor) ?? actor.replace(/^trs_\w+\|/, "");
  const rows = await fleet.sql(
    `select c.issuer, c.state, c.state_reason, c.state_by, c.receipt,
        (select array_agg(e.type || ' by ' || e.actor order by e.id) from mayfly.audit_events e where e.credential_id = c.id) as told
       from mayfly.credentials c where c.id = any($1)`,
    [ids],
  );
  return Object.fromEntries(
    rows.map(({ issuer, state, state_reason, state_by, receipt, told }) => {
      const { ended_by, probe, ...others } = receipt;
      return [
        issuer,
        {
          state,
          reason: state_reason,
          by: called(state_by),
          receipt: { ended_by, probe, tells: Object.keys(others).sort() },
          told: (told as string[]).map((event) => event.replace(/(?<= by ).*/, called)),
        },
      ];
    }),
  );
}
