import { afterAll, afterEach, beforeAll, expect, test } from "@jest/globals";
import { type KeyPurpose, keyPurposeNames } from "../../src/keys/key-purpose.ts";
import { rotateDueKeys } from "../../src/keys/rotate.ts";
import { SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { startWorker } from "../../src/worker.ts";
import { until } from "../support/until.ts";
import { aPair, type Pair } from "./harness.ts";

const DAY = 86_400;

let pair: Pair;
beforeAll(async () => {
  pair = await aPair();
});
afterAll(async () => {
  await pair[Symbol.asyncDispose]();
});

/** As a worker does, with the ages of production. */
const rotate = (at = pair.app): Promise<number> => rotateDueKeys(at.broker, at.broker.keyAges);

const keysOf = (purpose: KeyPurpose): Promise<{ kid: string; state: string; erased: boolean }[]> =>
  pair.sql(
    `select kid, state, private_sealed is null as erased from mayfly.signing_keys
      where tenant_id = $1 and purpose = $2 order by created_at`,
    [pair.s.tenantId, purpose],
  );
const statesOf = async (purpose: KeyPurpose) => (await keysOf(purpose)).map(({ state }) => state);

// Each test leaves a pair whose keys are new, all of them active.
afterEach(async () => {
  await pair.sql("truncate mayfly.signing_keys");
  await pair.sql("update mayfly.generations set generation = generation + 1");
  await pair.published(pair.app);
});

test("a key lives through its states at the ages of production, each step once, and is erased when it signs no more", async () => {
  expect(await rotate()).toBe(0);
  await pair.passTime(29 * DAY - 1);
  expect(await rotate()).toBe(0);
  await pair.passTime(1);
  expect(await rotate()).toBe(keyPurposeNames.length);
  expect(await rotate()).toBe(0);
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["active", "pending"]);
  await pair.passTime(DAY - 60);
  expect(await rotate()).toBe(0);
  await pair.passTime(60);
  expect(await rotate()).toBe(keyPurposeNames.length);
  expect(await rotate()).toBe(0);
  for (const purpose of keyPurposeNames)
    expect((await keysOf(purpose)).map(({ state, erased }) => [state, erased])).toEqual([
      ["retiring", true],
      ["active", false],
    ]);
  await pair.passTime(900 + 61);
  expect(await rotate()).toBe(1);
  expect(await statesOf("admin_token")).toEqual(["gone", "active"]);
  await pair.passTime(DAY);
  expect(await rotate()).toBe(keyPurposeNames.length - 1);
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["gone", "active"]);
});

test("any number of workers at once take each step once", async () => {
  const workers = [...pair.both, ...pair.both, ...pair.both, ...pair.both];
  await pair.passTime(29 * DAY);
  await Promise.all(workers.map(rotate));
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["active", "pending"]);
  await pair.passTime(DAY);
  await Promise.all(workers.map(rotate));
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["retiring", "active"]);
  const told = await pair.sql(
    `select e.type, count(*)::int as n from mayfly.audit_events e join mayfly.signing_keys k on k.kid = e.subject_id
      where k.tenant_id = $1 group by 1 order by 1`,
    [pair.s.tenantId],
  );
  // The first keys began as active, the second ones became it.
  expect(told).toEqual([
    { type: "signing_key.active", n: 2 * keyPurposeNames.length },
    { type: "signing_key.pending", n: keyPurposeNames.length },
    { type: "signing_key.retiring", n: keyPurposeNames.length },
  ]);
});

test("a step that is due no longer when its turn at the gate comes is not taken", async () => {
  await pair.passTime(29 * DAY);
  await rotate();
  await pair.passTime(DAY);
  const held = await pair.holding("select pg_advisory_xact_lock(mayfly.gate($1))", [pair.s.tenantId]);
  const late = rotate();
  await pair.waiting("pg_advisory_xact_lock(mayfly.gate");
  // As if others had replaced the active keys meanwhile.
  await pair.sql(`begin; set local session_replication_role = replica;
    update mayfly.signing_keys set activated_at = now() where state = 'active'; commit;`);
  const before = await keysOf("access_token");
  await held.letGo();
  await late;
  expect(await keysOf("access_token")).toEqual(before);
});

test("a worker that dies in the middle of a step has done nothing, and the next one finishes", async () => {
  await pair.passTime(29 * DAY);
  await rotate();
  await pair.passTime(DAY);
  const before = await keysOf("access_token");
  // It has retired the active key and is about to let the next one sign.
  const [next] = before.filter(({ state }) => state === "pending");
  const held = await pair.holding("select from mayfly.signing_keys where kid = $1 for update", [next?.kid]);
  const dying = rotate();
  await pair.waiting('update "signing_keys"');
  const killed = await pair.sql(
    `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock' and query like '%update "signing_keys"%'`,
  );
  expect(killed).toHaveLength(1);
  await dying;
  await held.letGo();
  expect(await keysOf("access_token")).toEqual(before);
  // Mints go on meanwhile.
  expect((await pair.mint(pair.other)).status).toBe(201);
  await rotate(pair.other);
  expect(await statesOf("access_token")).toEqual(["retiring", "active"]);
});

test("a worker that was away through several steps finishes them one after another", async () => {
  await pair.passTime(100 * DAY);
  // The next key was never published, so it cannot sign yet, however late it is.
  await rotate();
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["active", "pending"]);
  expect(await rotate()).toBe(0);
  await pair.passTime(360);
  await rotate();
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["retiring", "active"]);
});

test("a worker rotates by itself", async () => {
  await pair.passTime(29 * DAY);
  const worker = await startWorker(pair.other.broker);
  try {
    await until("the next keys are published", async () => (await statesOf("status_list")).includes("pending"));
  } finally {
    await worker.stop();
  }
});

test("what breaks one tenant's rotation stops no other's, and is due again", async () => {
  await pair.app.call(null, "GET", "/t/system/.well-known/jwks.json");
  await pair.passTime(29 * DAY);
  await pair.sql(`create function mayfly.broken() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
    create trigger broken before insert on mayfly.signing_keys
      for each row when (new.tenant_id = '${pair.s.tenantId}') execute function mayfly.broken()`);
  await rotate();
  await pair.sql("drop function mayfly.broken() cascade");
  const rows = await pair.sql("select distinct tenant_id from mayfly.signing_keys where state = 'pending'");
  expect(rows).toEqual([{ tenant_id: SYSTEM_TENANT }]);
  await rotate();
  for (const purpose of keyPurposeNames) expect(await statesOf(purpose)).toEqual(["active", "pending"]);
});
