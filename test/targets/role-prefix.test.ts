import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { reconcileTarget } from "../../src/credentials/reconcile.ts";
import type { Id } from "../../src/lib/ids.ts";
import { newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { noWakeUps } from "../../src/queue/queue.ts";
import { DEFAULT_TENANT } from "../registry/harness.ts";
import { type Fixture, fixture } from "./fixture.ts";

let f: Fixture;
beforeAll(async () => {
  f = await fixture();
});
afterAll(async () => {
  await f[Symbol.asyncDispose]();
});

/** A target registered without a prefix, and a role there that no ledger knows: another installation's. */
async function withRole() {
  const { id, at, etag } = await f.registered({ config: { ...f.far.config, deployment: undefined } });
  const targetId = id as Id<"target">;
  const { issuer, client, config } = await f.r.targets.connect(DEFAULT_TENANT, targetId);
  const credentialId = newId("credential");
  const name = issuer.name(credentialId, config);
  await issuer.issue(client, {
    credentialId,
    ...name,
    access: [{ roles: [f.far.readers] }],
    expiresAt: new Date(Date.now() + 60_000),
    createWithinMs: 10_000,
    signal: AbortSignal.timeout(10_000),
    keep: async () => undefined,
  });
  return {
    at,
    etag,
    name,
    listed: () => issuer.list?.(client, AbortSignal.timeout(10_000)),
    prefix: async () => (await f.r.ask("admin", "GET", at)).json.config.deployment as string,
    exists: async () => (await issuer.probe(client, name.handle, AbortSignal.timeout(10_000))).outcome === "alive",
    reconcile: () =>
      reconcileTarget(
        { db: f.r.db, targets: f.r.targets, wakeUps: noWakeUps, log: createLog("silent") },
        DEFAULT_TENANT,
        targetId,
      ),
  };
}

test("two targets on one server whose prefix nobody chose neither see nor remove each other's roles", async () => {
  const [one, two] = [await withRole(), await withRole()];
  for (const { listed, name } of [one, two]) expect(await listed()).toEqual([expect.objectContaining(name)]);
  expect(await one.reconcile()).toEqual({ listed: 1, orphansRemoved: 1, missingClosed: 0 });
  expect([await one.exists(), await two.exists()]).toEqual([false, true]);
  await two.reconcile();
  expect(await two.exists()).toBe(false);
});

test("a prefix that nobody chose outlives every change, so that what was minted before is still found", async () => {
  const { at, etag, prefix, listed, name, reconcile } = await withRole();
  const before = await prefix();
  expect(before).toMatch(/^[a-z0-9]{8}$/);
  const patch = (config: object, ifMatch = etag) => f.r.ask("admin", "PATCH", at, { body: { config }, ifMatch });
  const changed = await patch({ connection_limit: 7 });
  expect([changed.status, changed.json.config.deployment]).toEqual([200, before]);
  for (const deployment of [null, "main"]) {
    const got = await patch({ deployment }, changed.etag);
    expect([got.status, got.json.errors[0].pointer]).toEqual([409, "/config/deployment"]);
  }
  expect(await prefix()).toBe(before);
  expect(await listed()).toEqual([expect.objectContaining(name)]);
  await reconcile();
});

test("a prefix may be chosen, and the longest leaves a name that PostgreSQL does not cut", async () => {
  const deployment = "longest8";
  const { at } = await f.registered({ config: { ...f.far.config, deployment } });
  expect((await f.r.ask("admin", "GET", at)).json.config.deployment).toBe(deployment);
  const { issuer, config } = await f.r.targets.connect(DEFAULT_TENANT, at.slice("/v1/targets/".length));
  const { downstreamName } = issuer.name(newId("credential"), config);
  expect(downstreamName.startsWith(`mfy_${deployment}_`)).toBe(true);
  expect(Buffer.byteLength(downstreamName)).toBeLessThanOrEqual(63);
});
