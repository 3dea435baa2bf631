import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { reconcileTarget } from "../../src/credentials/reconcile.ts";
import type { AnyIssuer } from "../../src/issuers/registry.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import type { Id } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { noWakeUps } from "../../src/queue/queue.ts";
import { reviewTarget } from "../../src/targets/review-target.ts";
import { aCredential } from "../registry/builders.ts";
import { DEFAULT_TENANT } from "../registry/harness.ts";
import { type Fixture, fixture, withIssuer } from "./fixture.ts";

const EVERY_SECONDS = 3600;

let f: Fixture;
beforeAll(async () => {
  f = await fixture();
});
afterAll(async () => {
  await f[Symbol.asyncDispose]();
});

const log = createLog("silent");
const review = (id: string) =>
  reviewTarget({ db: f.r.db, targets: f.r.targets, log }, DEFAULT_TENANT, id as Id<"target">, EVERY_SECONDS);
const reconcile = (id: string) =>
  reconcileTarget({ db: f.r.db, targets: f.r.targets, wakeUps: noWakeUps, log }, DEFAULT_TENANT, id as Id<"target">);
const timePasses = (id: string) =>
  f.r.sql(
    "update targets set canary_at = coalesce(canary_at, created_at) - interval '2 hours', created_at = created_at - interval '2 hours' where id = $1",
    [id],
  );
const seen = async (id: string) => (await f.r.ask("admin", "GET", `/v1/targets/${id}`)).json;

/** Counts the canaries that are made while `work` runs. */
async function canaries(work: () => Promise<unknown>, answer?: MayflyError): Promise<number> {
  let made = 0;
  const { issue } = (await import("../../src/issuers/postgres.ts")).postgres;
  const counting: AnyIssuer["issue"] = async (client, request) => {
    made += 1;
    if (answer !== undefined) throw answer;
    return issue(client as never, request);
  };
  await withIssuer({ issue: counting }, work);
  return made;
}

describe("an active target", () => {
  test("proves itself again when its last canary is old enough, once, whoever asks", async () => {
    const { id, etag } = await f.registered();
    expect(await canaries(() => review(id))).toBe(0);
    await timePasses(id);
    expect(await canaries(() => Promise.all([review(id), review(id), review(id)]))).toBe(1);
    expect(await canaries(() => review(id))).toBe(0);
    // Nothing about it has changed, for those who hold its ETag and for those who mint.
    expect((await f.r.ask("admin", "GET", `/v1/targets/${id}`)).etag).toBe(etag);
    expect(await f.far.roles()).toEqual([]);
  });

  test.each<["target_rejected" | "target_refused", string]>([
    ["target_rejected", "PostgreSQL refused (SQLSTATE 42501)"],
    ["target_refused", "the admin may not create roles"],
  ])("that answers %s is quarantined, with the reason, and back when it passes", async (code, detail) => {
    const { id } = await f.registered();
    await timePasses(id);
    expect(await canaries(() => review(id), new MayflyError(code, detail))).toBe(1);
    expect(await seen(id)).toMatchObject({ state: "quarantined", canary: { state: "failed", problem: detail } });
    expect((await f.r.events(id)).at(-1)).toMatchObject({ type: "target.updated", actor: "mayfly:canary" });
    await timePasses(id);
    await canaries(() => review(id), new MayflyError(code, detail));
    expect(await seen(id)).toMatchObject({ state: "quarantined" });
    await timePasses(id);
    await review(id);
    expect(await seen(id)).toMatchObject({ state: "active", canary: { state: "passed" } });
  });

  test("that does not answer stays, for it may be back in a second; it says why and since when, until it passes", async () => {
    const { id } = await f.registered();
    const before = Date.now();
    for (const problem of ["gone", "still gone"]) {
      await timePasses(id);
      expect(await canaries(() => review(id), new MayflyError("target_unavailable", problem))).toBe(1);
    }
    const { state, canary } = await seen(id);
    expect({ state, canary }).toEqual({
      state: "active",
      canary: { state: "unanswered", problem: "gone", since: expect.any(String) },
    });
    expect(Date.parse(canary.since)).toBeGreaterThanOrEqual(before);
    await timePasses(id);
    await review(id);
    expect(await seen(id)).toMatchObject({ state: "active", canary: { state: "passed" } });
    // One outage is two changes in the audit, however many canaries it meets.
    expect((await f.r.events(id)).filter(({ actor }) => actor === "mayfly:canary")).toHaveLength(2);
  });

  test("that refuses after it did not answer is quarantined all the same", async () => {
    const { id } = await f.registered();
    for (const code of ["target_unavailable", "target_rejected"] as const) {
      await timePasses(id);
      await canaries(() => review(id), new MayflyError(code, code));
    }
    expect(await seen(id)).toMatchObject({ state: "quarantined", canary: { state: "failed" } });
  });
});

test.each(["suspended", "retired"])("a target that is %s is left alone", async (state) => {
  const { id } = await f.registered();
  await f.r.sql("update targets set state = $2 where id = $1", [id, state]);
  await timePasses(id);
  expect(await canaries(() => review(id))).toBe(0);
});

test("a quarantined target waits for its last stuck credential", async () => {
  const { id } = await f.registered();
  await f.r.sql("update targets set state = 'quarantined' where id = $1", [id]);
  const credential = await aCredential(f.r, { targetId: id });
  await f.r.sql("update credentials set state = 'revoking', revoking_at = now(), stuck = true where id = $1", [
    credential,
  ]);
  await timePasses(id);
  expect(await canaries(() => review(id))).toBe(0);
  await f.r.sql("update credentials set stuck = false where id = $1", [credential]);
  await review(id);
  expect(await seen(id)).toMatchObject({ state: "active" });
});

test("no reconciler takes the canary of a target that proves itself again for an orphan", async () => {
  const { id } = await f.registered();
  await timePasses(id);
  const { probe } = (await import("../../src/issuers/postgres.ts")).postgres;
  let during: Awaited<ReturnType<typeof reconcile>> | undefined;
  const looking: AnyIssuer["probe"] = async (client, handle, signal) => {
    during ??= await reconcile(id);
    return probe(client as never, handle, signal);
  };
  await withIssuer({ probe: looking }, () => review(id));
  expect(during).toMatchObject({ listed: 1, orphansRemoved: 0 });
  expect(await seen(id)).toMatchObject({ state: "active" });
  expect((await f.r.events(id)).map(({ type }) => type)).not.toContain("orphan.removed");
});
