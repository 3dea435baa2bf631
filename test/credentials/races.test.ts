import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { sql } from "kysely";
import { type App, startApp } from "../support/app.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";
import { type Racer, someRacers } from "../support/racer.ts";
import { type Seeded, seed } from "../support/seed.ts";

const ROUNDS = 1_000;
const LANES = 8;
/** Racers that are made in one transaction. */
const AT_A_TIME = 100;

let database: TestDatabase;
let app: App;
let other: App;
let s: Seeded;

// Two brokers on one database: two pools, two batchers, two caches, as two API processes have.
beforeAll(async () => {
  database = await testDatabase();
  app = await startApp({ database, env: { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" } });
  other = await startApp({ database, worker: false, env: { ...app.env, MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" } });
  s = await seed(app.broker, app.idp);
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

// A fresh one each time: these races outlive a token.
const closeAs = async (sub: string, at: App, path: string, body?: object) =>
  at.call(await app.token({ sub }), "POST", path, body);

const mint = (at: App, racer: Racer) =>
  at.call(racer.token, "POST", "/v1/credentials", {
    task_id: racer.taskId,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
  });

async function liveOf(racer: Racer): Promise<number> {
  const { rows } = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    sql<{
      n: number;
    }>`select count(*)::int as n from credentials where agent_id = ${racer.agentId} and state in ('pending', 'active')`.execute(
      tx,
    ),
  );
  return rows[0]?.n ?? -1;
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Races mints on both APIs against `close` for many rounds; answers how the mints ended, to show that both sides win sometimes. */
async function race(close: (at: App, racer: Racer) => Promise<{ status: number; text: string }>) {
  let minted = 0;
  let refused = 0;
  // Made before the race: their making takes the tenant's gate alone, which every mint would wait for.
  const racers: Racer[] = [];
  while (racers.length < ROUNDS) racers.push(...(await someRacers(app, s, AT_A_TIME)));
  // Turns of the event loop that the mints have ahead, or behind: more for the side that lost both, so that the race stays
  // near the moment at which either may win.
  let ahead = 0;
  // One row of them for all lanes: who is free takes the next.
  const waiting = racers.entries();
  const lane = async (): Promise<void> => {
    for (const [round, racer] of waiting) {
      const closing = async () => {
        await turns(ahead);
        const closed = await close(round % 2 === 0 ? app : other, racer);
        // One that is refused proves nothing.
        expect([200, 204]).toContain(closed.status);
        return closed;
      };
      const minting = (at: App) => async () => {
        await turns(-ahead);
        return mint(at, racer);
      };
      const contenders = [minting(app), closing, minting(other)];
      // Each order in turn, so that no side is always first on the wire.
      const turned = [...contenders.slice(round % 3), ...contenders.slice(0, round % 3)];
      let won = 0;
      for (const answer of await Promise.all(turned.map((start) => start()))) {
        if (answer.status === 201) won += 1;
        else if (answer.status === 403 || answer.status === 401 || answer.status === 404) refused += 1;
        else expect([200, 204]).toContain(answer.status);
      }
      minted += won;
      if (won === 0) ahead += 1;
      else if (won === 2) ahead -= 1;
      expect(await liveOf(racer)).toBe(0);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  expect(minted + refused).toBe(2 * ROUNDS);
  // A race that one side always wins proves nothing.
  expect(minted).toBeGreaterThan(0);
  expect(refused).toBeGreaterThan(0);
}

describe("invariant 1: a mint commits before and is taken back, or is refused", () => {
  test(
    "racing the end of its task",
    () => race((at, racer) => closeAs("orchestrator", at, `/v1/tasks/${racer.taskId}/end`, { outcome: "cancelled" })),
    300_000,
  );
  test(
    "racing the suspension of its agent",
    () => race((at, racer) => closeAs("admin", at, `/v1/agents/${racer.agentId}/state`, { state: "suspended" })),
    300_000,
  );
  test(
    "racing the departure of its owner",
    () => race((at, racer) => closeAs("admin", at, `/v1/owners/${racer.ownerId}/depart`)),
    300_000,
  );
  test(
    "racing the kill switch",
    () =>
      race((at, racer) =>
        closeAs("admin", at, "/v1/revocations", { selector: { agent_id: racer.agentId }, reason: "race" }),
      ),
    300_000,
  );
});
