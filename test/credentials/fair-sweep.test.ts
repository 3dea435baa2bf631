import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { createSweeper, type Sweeper } from "../../src/credentials/sweep.ts";
import { newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { DEFAULT_TENANT, type Registry, registry } from "../registry/harness.ts";
import { until } from "../support/until.ts";

/** At one target. */
const AT_ONCE = 3;

/** Far sides that answer when they are told to, and what was asked of them. */
class FarSides {
  /** In the order in which they were begun. */
  readonly begun: { readonly id: string; readonly tenantId: string; readonly targetId: string }[] = [];
  /** Seconds that were left of the claim, of each that was begun. */
  readonly left: Promise<number>[] = [];
  readonly hanging = new Set<string>();
  #letGo: (() => void)[] = [];

  readonly connect = async (tenantId: string, targetId: string) => ({
    client: { async [Symbol.asyncDispose]() {} },
    config: {},
    issuer: {
      bounds: () => ({ backstopSeconds: undefined }),
      handle: { parse: (handle: unknown) => handle },
      revoke: async (_client: unknown, { id }: { id: string }, signal: AbortSignal) => {
        this.begun.push({ id, tenantId, targetId });
        this.left.push(leftOfClaim(id));
        if (this.hanging.has(targetId))
          await new Promise<void>((resolve, reject) => {
            this.#letGo.push(resolve);
            signal.addEventListener("abort", () => reject(signal.reason), { once: true });
          });
        return {};
      },
      probe: async () => ({ outcome: "dead", by: "test", detail: "" }),
    },
  });

  begunAt = (targetId: string): number => this.begun.filter((one) => one.targetId === targetId).length;

  letGo(): void {
    this.hanging.clear();
    for (const resolve of this.#letGo.splice(0)) resolve();
  }
}

let r: Registry;
let far: FarSides;
let sweeper: Sweeper;

beforeEach(async () => {
  r = await registry();
  far = new FarSides();
  const targets = { connect: far.connect, config: undefined, async [Symbol.asyncDispose]() {} };
  sweeper = createSweeper({
    db: r.db,
    log: createLog("silent"),
    // The far side is nobody's: what is looked at is who is asked, when, and how many at once.
    targets: targets as never,
    handles: { seal: () => Buffer.alloc(0), open: (_, id) => JSON.stringify({ id }) },
    quiescenceMs: 0,
    endDueTasks: async () => undefined,
  });
});
afterEach(async () => {
  far.letGo();
  await sweeper.stop();
  await r[Symbol.asyncDispose]();
});

/** Credentials that have been due for so long. */
async function due(tenantId: string, targetIds: readonly string[], each: number, seconds = 1): Promise<void> {
  await r.sql(
    "insert into tenants (id, name, display_name) values ($1, replace($1, '_', '-'), 'Test') on conflict do nothing",
    [tenantId],
  );
  const all = targetIds.flatMap((targetId) => Array.from({ length: each }, () => targetId));
  await r.sql(
    `insert into credentials (tenant_id, id, agent_id, owner_id, task_id, purpose_id, target_id, decision_id,
       issuer, self_contained, revocability, environment, data_class, binding, actions, resource_ids, access,
       requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, create_by, expires_at,
       state, state_by, state_reason, revoking_at, due_at, activated_at)
     select $1, c.id, 'agt', 'own', 'tsk', 'pur', c.target_id, 'dec', 'postgres', false, 'immediate', 'staging', 'internal', 'bearer',
       '{read}', '{}', '[]', 300, 300, 'request', 'mfy', 'x', 'test', now(), now(), 'revoking', 'test', 'revoked', now(),
       now() - make_interval(secs => $4), now()
     from unnest($2::text[], $3::text[]) as c (id, target_id)`,
    [tenantId, all.map(() => newId("credential")), all, seconds],
  );
}

const left = async (targetId: string): Promise<number> =>
  (await r.sql("select from credentials where target_id = $1 and state = 'revoking'", [targetId])).length;

async function leftOfClaim(id: string): Promise<number> {
  const text = "select extract(epoch from due_at - clock_timestamp())::float8 as left from credentials where id = $1";
  const [row] = await r.sql<{ left: number }>(text, [id]);
  return row?.left ?? 0;
}

describe("whoever is slow, or has much to take back, delays nobody else", () => {
  test("a target that hangs, with all that was due first, holds up itself alone", async () => {
    const [slow, fast] = [newId("target"), newId("target")];
    far.hanging.add(slow);
    await due(DEFAULT_TENANT, [slow], 200, 60);
    await due(DEFAULT_TENANT, [fast], 40);
    await sweeper.sweep();
    await until("all of the other target is proven dead", async () => (await left(fast)) === 0);
    expect(far.begunAt(slow)).toBe(AT_ONCE);
    far.letGo();
    await until("it is well again, and all of it dies", async () => (await left(slow)) === 0);
    expect(far.begunAt(slow)).toBe(200);
  });

  test("a tenant with thousands, at hundreds of targets, has its turns between those of the others", async () => {
    const big = newId("tenant");
    const targets = Array.from({ length: 100 }, () => newId("target"));
    await due(big, targets, 10, 60);
    const small = Array.from({ length: 12 }, () => newId("tenant"));
    for (const tenantId of small) await due(tenantId, [newId("target")], 1);
    await sweeper.sweep();
    await sweeper.settled();
    const last = Math.max(...small.map((id) => far.begun.findIndex(({ tenantId }) => tenantId === id)));
    expect(last).toBeGreaterThanOrEqual(0);
    // One turn of the big one's is 64.
    expect(last).toBeLessThan(64 + small.length);
    await until("the big one is done, too", () => far.begun.length === 1_012);
  });

  test("what has piled up in an outage is not all begun at once, and is all done in the end", async () => {
    const targets = Array.from({ length: 200 }, () => newId("target"));
    for (const targetId of targets) far.hanging.add(targetId);
    await due(DEFAULT_TENANT, targets, AT_ONCE);
    const swept = sweeper.sweep();
    await until("as many as may are under way", () => far.begun.length >= 512);
    // Each is a turn in which more could be claimed.
    for (let turn = 0; turn < 100; turn += 1) await r.sql("select");
    expect(far.begun.length).toBeLessThan(512 + 64);
    far.letGo();
    await swept;
    await until("all are done", () => far.begun.length === 200 * AT_ONCE);
  });
});

/** Of so many that are due at a target that hangs. */
async function someUnderWay(count: number): Promise<string> {
  const slow = newId("target");
  far.hanging.add(slow);
  await due(DEFAULT_TENANT, [slow], count);
  await sweeper.sweep();
  await until("as many as may are under way", () => far.begun.length === AT_ONCE);
  return slow;
}

/** Asks the sweeper to stop, and lets the far sides answer only then. */
async function stop(): Promise<void> {
  const stopped = sweeper.stop();
  far.letGo();
  await stopped;
}

describe("a claim", () => {
  test("leaves each attempt its whole time, however long it has waited: nobody else tries the same one", async () => {
    const slow = newId("target");
    far.hanging.add(slow);
    await due(DEFAULT_TENANT, [slow], 200);
    await sweeper.sweep();
    // Each is given up on after ten seconds.
    await until("the third have their turn", () => far.begun.length >= 3 * AT_ONCE);
    // Ten, less what a busy machine takes to look. Without giving back, the third would have five.
    for (const seconds of await Promise.all(far.left)) expect(seconds).toBeGreaterThan(7);
  });

  test("that is not used is given back when its process stops, and counts for nothing", async () => {
    const slow = await someUnderWay(200);
    await r.sql("update credentials set last_error = 'of the last try' where target_id = $1", [slow]);
    await stop();
    expect(far.begun).toHaveLength(AT_ONCE);
    expect(await left(slow)).toBe(200 - AT_ONCE);
    const text = `select from credentials where target_id = $1 and state = 'revoking' and attempts = 0
      and due_at <= now() and last_error = 'of the last try'`;
    expect(await r.sql(text, [slow])).toHaveLength(200 - AT_ONCE);
  });

  test("that another worker has by now is not given back by who had it before", async () => {
    const slow = await someUnderWay(20);
    await r.sql("update credentials set attempts = 2, due_at = now() + interval '25 seconds' where target_id = $1", [
      slow,
    ]);
    await stop();
    const text =
      "select from credentials where target_id = $1 and state = 'revoking' and attempts = 2 and due_at > now()";
    expect(await r.sql(text, [slow])).toHaveLength(20 - AT_ONCE);
  });
});
