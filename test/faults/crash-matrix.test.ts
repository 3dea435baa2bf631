import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { downstreamIssuer } from "../../src/issuers/registry.ts";
import { countShown, type FaultRun, nothing, tellRun } from "../support/fault-runs.ts";
import { type Fleet, startFleet } from "../support/fleet.ts";
import { aTarget } from "../support/seed.ts";
import { type Direction, type StepWire, stepWire } from "../support/step-wire.ts";
import { until } from "../support/until.ts";
import { type FarSide, farSides } from "./far-sides.ts";

/** `kill -9` at one step of one conversation with one far side, which a target of its own has. */
interface Cell {
  readonly target: string;
  readonly wire: StepWire;
  readonly step: string;
}

/** What was stopped of one kind in a call, and how long that took. `over`: how what was not stopped came to its end. */
interface Ran {
  readonly kind: string;
  readonly steps: readonly string[];
  readonly over: readonly (number | string | undefined)[];
  readonly ms: number;
}

/** The one kind that is looked at, if not all are. */
const only = process.env["TEST_FAULTS_ISSUER"];
const directions: readonly Direction[] = ["asked", "answered"];

let fleet: Fleet;
const sides = new Map<string, FarSide>();
const wires: StepWire[] = [];
/** What works of each kind and was told already. */
const left = new Map<string, number>();
/** Processes whose output was looked at. */
let lookedAt = 0;
let targets = 0;

beforeAll(async () => {
  fleet = await startFleet({ MAYFLY_MINT_TIMEOUT_SECONDS: "10" });
  for (const [kind, start] of Object.entries(farSides))
    if (only === undefined || kind === only) sides.set(kind, await start());
}, 120_000);
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
  for (const wire of wires) await wire[Symbol.asyncDispose]();
  for (const side of sides.values()) await side[Symbol.asyncDispose]();
});

/** A target of the kind that is reached over a wire of its own. */
async function wired(side: FarSide): Promise<{ readonly target: string; readonly wire: StepWire }> {
  const wire = await stepWire(side.at);
  wires.push(wire);
  const target = `${side.issuer}-${(targets += 1)}`;
  const { broker, seeded } = fleet;
  await broker.db.withTenant({ tenantId: seeded.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, broker, {
      tenantId: seeded.tenantId,
      ownerId: seeded.ownerId,
      name: target,
      issuer: side.issuer,
      config: side.config(wire.port),
      resources: { [seeded.resourceId]: { read: side.access } },
    }),
  );
  return { target, wire };
}

/** A target for each step of a conversation like the one that `wire` has seen since `before`. */
async function cellsOf(side: FarSide, wire: StepWire, before: Readonly<Record<Direction, number>>): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const direction of directions) {
    for (let number = 1; number <= wire.said(direction) - before[direction]; number += 1) {
      const cell = await wired(side);
      cells.push({ ...cell, step: `${direction} ${number}` });
    }
  }
  return cells;
}

function stopThere({ wire, step }: Cell): void {
  const [direction, number] = step.split(" ");
  wire.stopAt(direction as Direction, Number(number));
}

const mint = (api: Awaited<ReturnType<Fleet["start"]>>, taskId: string, target: string) =>
  fleet.call(api, fleet.seeded.agentSub, "POST", "/v1/credentials", {
    task_id: taskId,
    target,
    actions: ["read"],
    resources: ["tickets"],
  });

/** What the ledger says of the credentials of a kind that never were active. */
async function neverHandedOut(kind: string): Promise<number> {
  return (await fleet.sql("select from mayfly.credentials where issuer = $1 and activated_at is null", [kind])).length;
}

/** Admin's secrets of this side that processes printed which nobody has looked at yet. */
function printed(side: FarSide): number {
  const config = side.config(side.at.port) as Record<string, unknown>;
  const secrets = (downstreamIssuer(side.issuer)?.secretConfig ?? []).map((name) => config[name]);
  const output = fleet.running().slice(lookedAt);
  return countShown(secrets, output.map((process) => process.output()).join("\n"));
}

async function expectNothingLeft(call: FaultRun["call"], ran: readonly Ran[]): Promise<void> {
  const ledger = await fleet.assertAllDead().catch((error: unknown) => error);
  const seen: object[] = [];
  for (const { kind, steps, ms } of ran) {
    const side = sides.get(kind);
    if (side === undefined) throw new Error(`no far side of ${kind}`);
    // What nobody has taken back (because the test has failed by then) is no orphan.
    const active = (await fleet.sql("select from mayfly.credentials where issuer = $1 and state = 'active'", [kind]))
      .length;
    const most = active + (side.knownByItsAnswer === true ? await neverHandedOut(kind) : 0);
    const alive = Math.max(0, (await side.alive()) - most);
    const orphans = Math.max(0, alive - (left.get(kind) ?? 0));
    left.set(kind, alive);
    const dying = (await fleet.sql("select from mayfly.credentials where issuer = $1 and due_at is not null", [kind]))
      .length;
    // Nobody can say at which step it was: it is told with the first.
    const all = { orphans, falseRevoked: Math.max(0, orphans - dying), leaks: printed(side) };
    for (const [index, step] of steps.entries()) {
      const here = index === 0 ? all : nothing;
      tellRun({ issuer: kind, call, fault: `kill -9 at ${step}`, ms: ms / steps.length, ...here });
    }
    seen.push({ kind, ...all });
  }
  lookedAt = fleet.running().length;
  expect(ledger).toEqual(expect.arrayContaining([expect.objectContaining({ state: expect.any(String) })]));
  expect(seen).toEqual(ran.map(({ kind }) => ({ kind, ...nothing })));
  // A conversation may come in fewer pieces than the first one did.
  expect(ran.filter(({ steps, over }) => steps.length <= over.length)).toEqual([]);
}

describe("kill -9 at every step of every conversation with every kind of far side (reliability F1)", () => {
  test("of the API in a mint: no secret of it gets out, and nothing of it is left", async () => {
    const tasks: string[] = [];
    const ran: Ran[] = [];
    for (const side of sides.values()) {
      const startedAt = performance.now();
      const api = await fleet.start("api");
      const taskId = await fleet.openTask(api);
      tasks.push(taskId);
      const whole = await wired(side);
      const answer = await mint(api, taskId, whole.target);
      expect([side.issuer, answer?.status, answer?.body.detail]).toEqual([side.issuer, 201, undefined]);
      const cells = await cellsOf(side, whole.wire, { asked: 0, answered: 0 });
      for (const cell of cells) stopThere(cell);
      const answers = cells.map((cell) => mint(api, taskId, cell.target));
      const settled = new Set<number>();
      for (const [index, one] of answers.entries()) void one.then(() => settled.add(index));
      await until(`${side.issuer}: every mint is stopped, or over`, () =>
        cells.every(({ wire }, index) => wire.stopped() || settled.has(index)),
      );
      const stopped = cells.map(({ wire }) => wire.stopped());
      await api.kill();
      for (const { wire } of cells) wire.letGo();
      for (const [index, one] of answers.entries())
        if (stopped[index] === true && !settled.has(index)) expect(await one).toBeUndefined();
      const steps = cells.filter((_, index) => stopped[index]).map(({ step }) => step);
      const settledAnswers = await Promise.all(answers.filter((_, index) => stopped[index] !== true));
      const over = settledAnswers.map((one) => one?.body?.detail ?? one?.status);
      ran.push({ kind: side.issuer, steps, over, ms: performance.now() - startedAt });
    }
    await fleet.start("worker");
    const api = await fleet.start("api");
    for (const taskId of tasks)
      await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "cancelled" });
    await expectNothingLeft("mint", ran);
  }, 400_000);

  test("of the worker in a revoke: another one ends it, once, with proof", async () => {
    for (const process of fleet.running()) await process.kill();
    const api = await fleet.start("api");
    const ran: Ran[] = [];
    for (const side of sides.values()) {
      const startedAt = performance.now();
      const worker = await fleet.start("worker");
      const whole = await wired(side);
      const first = await fleet.openTask(api);
      expect([side.issuer, (await mint(api, first, whole.target))?.status]).toEqual([side.issuer, 201]);
      const before = { asked: whole.wire.said("asked"), answered: whole.wire.said("answered") };
      await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${first}/end`, { outcome: "completed" });
      await until(
        `${side.issuer}: the first one is dead`,
        async () =>
          (await fleet.sql("select from mayfly.credentials where due_at is not null and task_id = $1", [first]))
            .length === 0,
        60_000,
      );
      const cells = await cellsOf(side, whole.wire, before);
      const taskId = await fleet.openTask(api);
      for (const { target } of cells)
        expect([side.issuer, (await mint(api, taskId, target))?.status]).toEqual([side.issuer, 201]);
      for (const cell of cells) stopThere(cell);
      await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
      const alive = async (): Promise<string[]> =>
        (
          await fleet.sql(
            "select t.name from mayfly.credentials c join mayfly.targets t on t.id = c.target_id where c.due_at is not null",
          )
        ).map(({ name }) => name);
      await until(`${side.issuer}: every revoke is stopped, or over`, async () => {
        const living = await alive();
        return cells.every(({ wire, target }) => wire.stopped() || !living.includes(target));
      });
      const steps = cells.filter(({ wire }) => wire.stopped()).map(({ step }) => step);
      const over = cells.filter(({ wire }) => !wire.stopped()).map(({ step }) => step);
      await worker.kill();
      for (const { wire } of cells) wire.letGo();
      ran.push({ kind: side.issuer, steps, over, ms: performance.now() - startedAt });
    }
    await fleet.start("worker");
    await expectNothingLeft("revoke", ran);
    const told = await fleet.sql(
      "select state, count(*)::int as n from mayfly.credentials where activated_at is not null group by 1",
    );
    expect(told).toEqual([{ state: "revoked", n: expect.any(Number) }]);
  }, 400_000);
});
