import { expect, test } from "@jest/globals";
import { createLocalJWKSet, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from "jose";
import { keyPurposeNames } from "../../src/keys/key-purpose.ts";
import { rotateDueKeys } from "../../src/keys/rotate.ts";
import type { App } from "../support/app.ts";
import { until } from "../support/until.ts";
import { aPair } from "./harness.ts";

const MAX_AGE = 300;
const STEP = 100;
// Nothing ahead of time: a key signs the moment that everybody can know it.
const ages = { rotateSeconds: 1_000, aheadSeconds: 0, publishSeconds: 360 };
const STEPS = 80;
const LANES = 2;

/** A verifier that uses its copy of the key set for as long as it may, on the test's clock, and not a second longer. */
function verifier(at: App, now: () => number) {
  let copy: { readonly set: JSONWebKeySet; readonly etag: string; readonly fetchedAt: number } | undefined;
  let unchanged = 0;
  const keySet = async (): Promise<JSONWebKeySet> => {
    if (copy !== undefined && now() - copy.fetchedAt < MAX_AGE) return copy.set;
    const fetchedAt = now();
    const headers = copy === undefined ? {} : { "if-none-match": copy.etag };
    const answer = await at.call(null, "GET", "/t/default/.well-known/jwks.json", undefined, headers);
    if (answer.status === 304) unchanged += 1;
    const set = answer.status === 304 && copy !== undefined ? copy.set : answer.body;
    copy = { set, etag: answer.headers.get("etag") ?? "", fetchedAt };
    return set;
  };
  return {
    unchanged: () => unchanged,
    async verify(token: string): Promise<void> {
      const keys = createLocalJWKSet(await keySet());
      await jwtVerify(token, keys, { issuer: at.broker.issuerUrl("default"), audience: "https://tickets.test/api" });
    },
  };
}

test("T-8.1: through several rotations, every token of two APIs verifies by every copy of the key set that may be in use", async () => {
  await using pair = await aPair();
  let now = 0;
  const minted: { readonly token: string; readonly kid: string; readonly at: number }[] = [];
  const firstSeen = new Map<string, number>();
  const firstUsed = new Map<string, number>();
  const observe = async (): Promise<void> => {
    const at = now;
    for (const kid of await pair.published(pair.app)) if (!firstSeen.has(kid)) firstSeen.set(kid, at);
  };
  await observe();
  const first = new Set(firstSeen.keys());

  // Of different phases: each fetches when its own copy is too old.
  const verifiers = pair.both.flatMap((at) => [verifier(at, () => now), verifier(at, () => now)]);
  let running = true;
  const failures: unknown[] = [];
  const lane = async (at: App, number: number): Promise<void> => {
    for (let turn = number; running; turn += 1) {
      try {
        const answer = await pair.mint(at);
        expect(answer.status).toBe(201);
        const token: string = answer.body.secret.access_token;
        const { kid = "" } = decodeProtectedHeader(token);
        if (!firstUsed.has(kid)) firstUsed.set(kid, now);
        minted.push({ token, kid, at: now });
        await verifiers[turn % verifiers.length]?.verify(token);
      } catch (error) {
        failures.push(error);
        running = false;
      }
    }
  };
  const lanes = pair.both.flatMap((at, index) => Array.from({ length: LANES }, (_, n) => lane(at, index * LANES + n)));
  try {
    for (let step = 0; step < STEPS && running; step += 1) {
      now += STEP;
      await pair.passTime(STEP);
      await Promise.all(pair.both.map(({ broker }) => rotateDueKeys(broker, ages)));
      await observe();
      const so = minted.length;
      await until("mints on both sides of every step", () => !running || minted.length >= so + 4);
      // What was minted a while ago is alive still, and so must its key be known.
      for (const { token } of minted.filter(({ at }) => at > now - MAX_AGE && at <= now - 2 * STEP).slice(-6))
        for (const each of verifiers) await each.verify(token);
    }
  } finally {
    running = false;
    await Promise.all(lanes);
  }
  expect(failures).toEqual([]);

  expect(minted.length).toBeGreaterThan(STEPS * 4);
  expect(firstUsed.size).toBeGreaterThanOrEqual(5);
  for (const [kid, used] of firstUsed)
    if (!first.has(kid)) expect(used - (firstSeen.get(kid) ?? Number.NaN)).toBeGreaterThanOrEqual(MAX_AGE);
  expect(verifiers.reduce((sum, each) => sum + each.unchanged(), 0)).toBeGreaterThan(0);

  // Two workers rotated at once, all the time: one active key, and no more keys than turns.
  const states = await pair.sql(
    "select purpose, state, count(*)::int as n from mayfly.signing_keys where tenant_id = $1 group by 1, 2",
    [pair.s.tenantId],
  );
  for (const purpose of keyPurposeNames) {
    expect(states).toContainEqual({ purpose, state: "active", n: 1 });
    const turns = Math.floor((STEPS * STEP) / ages.rotateSeconds);
    const all = states.filter((row) => row.purpose === purpose).reduce((sum, row) => sum + row.n, 0);
    expect(all).toBeLessThanOrEqual(turns + 2);
  }

  // When nothing that the old keys signed can be alive, they go; the private parts went before.
  await pair.passTime(86_400 + 3_600);
  await rotateDueKeys(pair.app.broker, { ...ages, rotateSeconds: 1e9 });
  const left = await pair.sql(
    "select state, private_sealed is null as erased from mayfly.signing_keys where tenant_id = $1",
    [pair.s.tenantId],
  );
  expect(left.filter(({ state }) => state === "retiring")).toEqual([]);
  expect(left.filter(({ state }) => state === "gone").length).toBeGreaterThanOrEqual(4 * keyPurposeNames.length);
  for (const { state, erased } of left) expect([state, erased]).toEqual([state, state === "gone"]);
  const published = await pair.published(pair.other);
  expect(published).toHaveLength(left.filter(({ state }) => state !== "gone").length);
}, 600_000);
