import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Answer, type Fleet, startFleet } from "../support/fleet.ts";
import type { MayflyProcess } from "../support/processes.ts";
import type { Racer } from "../support/racer.ts";
import { until } from "../support/until.ts";

/** A token, what was minted from it, and what was minted from that, each of another agent. */
interface Tree {
  readonly root: string;
  readonly ids: readonly string[];
  readonly holder: Racer;
}

const mint = async (fleet: Fleet, api: MayflyProcess, by: Racer, body: object): Promise<string> => {
  const asked = { task_id: by.taskId, actions: ["read"], resources: ["tickets"], ttl_seconds: 600, ...body };
  const answer = await fleet.call(api, by.token, "POST", "/v1/credentials", asked);
  if (answer?.status !== 201) throw new Error(`no mint: ${JSON.stringify(answer)}`);
  return answer.body.credential.id;
};

async function aTree(fleet: Fleet, api: MayflyProcess): Promise<Tree> {
  const [holder, child, grandchild] = (await fleet.racers(3)) as [Racer, Racer, Racer];
  const allowed = [{ sub: child.agentId }, { sub: grandchild.agentId }];
  const api_ = { target: "tickets-api" };
  const root = await mint(fleet, api, holder, { ...api_, delegation: { max_depth: 2, allowed } });
  const middle = await mint(fleet, api, child, {
    ...api_,
    parent_credential_id: root,
    delegation: { max_depth: 1, allowed },
  });
  const logins = [
    await mint(fleet, api, child, { target: "tickets-db", parent_credential_id: root }),
    await mint(fleet, api, grandchild, { target: "tickets-db", parent_credential_id: middle }),
    await mint(fleet, api, holder, { target: "tickets-db", parent_credential_id: root }),
  ];
  return { root, ids: [root, middle, ...logins], holder };
}

/** What ends a tree from its root. */
const ends: Readonly<Record<string, (tree: Tree) => readonly [path: string, body?: object]>> = {
  "of a revoke of the parent": ({ root }) => [`/v1/credentials/${root}/revoke`],
  "of the end of its task": ({ holder }) => [`/v1/tasks/${holder.taskId}/end`, { outcome: "failed" }],
  "of a suspension of its agent": ({ holder }) => [`/v1/agents/${holder.agentId}/state`, { state: "suspended" }],
  "of the departure of its owner": ({ holder }) => [`/v1/owners/${holder.ownerId}/depart`],
  "of a kill switch": ({ holder }) => [
    "/v1/revocations",
    { selector: { agent_id: holder.agentId }, reason: "the worst", block_seconds: 1 },
  ],
};

describe("kill -9 of the API in a cascade (reliability CP15)", () => {
  let fleet: Fleet;
  beforeAll(async () => {
    fleet = await startFleet();
  }, 60_000);
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  const states = async ({ ids }: Tree): Promise<string[]> =>
    (await fleet.sql("select distinct state from mayfly.credentials where id = any($1) order by 1", [ids])).map(
      ({ state }) => state,
    );

  describe.each(Object.entries(ends))("%s", (_name, how) => {
    test("between the parent and a child: none is taken back, nothing says so, and who asks again ends them all, once", async () => {
      const first = await fleet.start("api");
      const tree = await aTree(fleet, first);
      const [path, body] = how(tree);
      const lock = await fleet.lock("select from mayfly.credentials where id = $1 for update", [tree.ids.at(-1)]);
      const lost = fleet.call(first, "admin", "POST", path, body);
      await fleet.waiting("with chosen as");
      await first.kill();
      await lock.letGo();
      expect(await lost).toBeUndefined();
      await until("its transaction is over", async () => (await busy(fleet)) === 0);
      expect(await states(tree)).toEqual(["active"]);
      const told = "select from mayfly.audit_events where credential_id = any($1) and type like 'credential.revok%'";
      expect(await fleet.sql(told, [tree.ids])).toEqual([]);

      await using api = await fleet.start("api");
      await using _worker = await fleet.start("worker");
      expect((await fleet.call(api, "admin", "POST", path, body))?.status).toBe(200);
      await fleet.assertAllDead();
      expect(await states(tree)).toEqual(["revoked"]);
    }, 120_000);

    test("after its commit: a worker that nobody told of it ends them all", async () => {
      const api = await fleet.start("api");
      const tree = await aTree(fleet, api);
      const [path, body] = how(tree);
      const asked: Promise<Answer> = fleet.call(api, "admin", "POST", path, body);
      await until("it is committed", async () => (await states(tree)).includes("revoking"));
      await api.kill();
      await asked;
      expect(await states(tree)).toEqual(["revoked", "revoking"]);
      await using _worker = await fleet.start("worker");
      await fleet.assertAllDead();
      expect(await states(tree)).toEqual(["revoked"]);
    }, 120_000);
  });
});

/** Sessions of Mayfly that are in a statement that takes back. */
async function busy(fleet: Fleet): Promise<number> {
  const text = `select count(*)::int as n from pg_stat_activity
    where datname = current_database() and usename = 'mayfly_app' and xact_start is not null and query like '%with chosen as%'`;
  return (await fleet.sql(text))[0].n;
}

describe("kill -9 of the worker in a cascade (reliability CP15)", () => {
  test("that ends a task without a heartbeat, between its credentials: another one ends the task and all of it, once", async () => {
    await using fleet = await startFleet();
    const api = await fleet.start("api");
    const tree = await aTree(fleet, api);
    const { taskId } = tree.holder;
    const lock = await fleet.lock("select from mayfly.credentials where id = $1 for update", [tree.ids.at(-1)]);
    await fleet.sql("update mayfly.task_meters set heartbeat_due_at = now() where task_id = $1", [taskId]);
    const first = await fleet.start("worker");
    await fleet.waiting("with chosen as");
    await first.kill();
    await lock.letGo();
    await until("its transaction is over", async () => (await busy(fleet)) === 0);
    expect(await fleet.sql("select state from mayfly.tasks where id = $1", [taskId])).toEqual([{ state: "open" }]);
    await fleet.start("worker");
    await until("the task has ended", async () => {
      const [task] = await fleet.sql("select outcome from mayfly.tasks where id = $1", [taskId]);
      return task.outcome === "heartbeat_lost";
    });
    for (const row of await fleet.assertAllDead())
      expect(row).toMatchObject({ state: "revoked", state_reason: "task_ended" });
    const ended = await fleet.sql("select from mayfly.audit_events where type = 'task.ended' and task_id = $1", [
      taskId,
    ]);
    expect(ended).toHaveLength(1);
  }, 120_000);

  test("in the middle of a batch of the sweep: what it ended stays ended, what it held and what it had not taken yet is ended by another", async () => {
    await using fleet = await startFleet();
    const api = await fleet.start("api");
    const taskId = await fleet.openTask(api);
    const minted = await Promise.all(Array.from({ length: 9 }, () => fleet.mint(api, taskId, 600)));
    const ids = minted.map((answer) => answer?.body.credential.id);
    await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/pause`);
    const lock = await fleet.lock("select from mayfly.credentials where id = any($1) for update", [ids.slice(0, 3)]);
    const held = fleet.wire.hold("drop role");
    const first = await fleet.start("worker");
    await held;
    const told = async (): Promise<Record<string, number>> => {
      const rows = await fleet.sql("select state, attempts, count(*)::int as n from mayfly.credentials group by 1, 2");
      return Object.fromEntries(rows.map(({ state, attempts, n }) => [`${state}, tried ${attempts}`, n]));
    };
    const middle = { "revoking, tried 0": 3, "revoking, tried 1": 1, "revoked, tried 1": 5 };
    await until("it is in the middle", async () => (await told())["revoked, tried 1"] === 5);
    await first.kill();
    expect(await told()).toEqual(middle);
    await lock.letGo();
    await fleet.start("worker");
    const ledger = await fleet.assertAllDead();
    expect(ledger.map(({ state, state_reason }) => [state, state_reason])).toEqual(
      Array.from({ length: 9 }, () => ["revoked", "task_paused"]),
    );
    expect(await told()).toEqual({ "revoked, tried 1": 8, "revoked, tried 2": 1 });
  }, 120_000);
});
