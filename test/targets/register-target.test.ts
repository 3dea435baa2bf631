import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { reconcileTarget } from "../../src/credentials/reconcile.ts";
import { type AnyIssuer, downstreamIssuer } from "../../src/issuers/registry.ts";
import type { Id } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { noWakeUps } from "../../src/queue/queue.ts";
import { targetSealContext } from "../../src/targets/target-clients.ts";
import { anOwner, aResource, fresh } from "../registry/builders.ts";
import { DEFAULT_TENANT, type Registry } from "../registry/harness.ts";
import type { PostgresTarget } from "../support/postgres-target.ts";
import { type Fixture, fixture, withIssuer } from "./fixture.ts";

let f: Fixture;
let r: Registry;
let far: PostgresTarget;
beforeAll(async () => {
  f = await fixture();
  ({ r, far } = f);
});
afterAll(async () => {
  await f[Symbol.asyncDispose]();
});

const register = (changes: object = {}) => f.register(changes);
const registered = (changes: object = {}) => f.registered(changes);
const withConfig = (changes: object) => ({ config: { ...far.config, ...changes } });
const counts = async () =>
  (
    await r.sql(
      "select (select count(*)::int from targets) as targets, (select count(*)::int from target_resources) as resources",
    )
  )[0];

const { probe, revoke } = downstreamIssuer("postgres") as AnyIssuer;

describe("registering", () => {
  test("a target that passes its canary is active, and of the canary nothing is left there", async () => {
    const got = await register();
    expect(got.status).toBe(201);
    expect(got.json).toMatchObject({
      state: "active",
      canary: { state: "passed", revoke_probe: expect.any(String), observed: expect.any(String) },
    });
    expect(await far.roles()).toEqual([]);
    expect(await far.sessions()).toBe(0);
  });

  test("its secrets are sealed, and shown nowhere: not in a reply, a list, the audit, the log or a column in the clear", async () => {
    const password = String(far.config["password"]);
    const got = await register();
    const { json } = got;
    const list = await r.ask("auditor", "GET", `/v1/targets?name=${json.name}`);
    const [row] = await r.sql<{ config_sealed: Buffer }>("select * from targets where id = $1", [json.id]);
    const audit = await r.sql("select * from audit_events");
    for (const text of [got.everything, list.everything, JSON.stringify(row), JSON.stringify(audit), r.logged.join()])
      expect(text).not.toContain(password);
    expect(json.config).toEqual({ ...far.config, password: undefined, connection_limit: 5, accept_before_16: false });
    const opened = r.sealer.open(row?.config_sealed ?? Buffer.alloc(0), targetSealContext(DEFAULT_TENANT, json.id));
    expect(JSON.parse(opened).password).toBe(password);
    expect(() =>
      r.sealer.open(row?.config_sealed ?? Buffer.alloc(0), targetSealContext(DEFAULT_TENANT, "another")),
    ).toThrow();
  });

  test.each([
    ["a wrong password", () => withConfig({ password: "wrong" })],
    ["a port where nobody listens", () => withConfig({ port: 1 })],
    ["a database that is not there", () => withConfig({ database: "nowhere" })],
    ["a server without TLS", () => withConfig({ tls: "verify-full" })],
  ] as const)("%s: 422 that says what is missing, and nothing is left, here or there", async (_what, changes) => {
    const before = await counts();
    const got = await register(changes());
    expect([got.status, got.json.code]).toEqual([422, "target_refused"]);
    expect(got.json.detail.length).toBeGreaterThan(10);
    expect(got.text).not.toContain('wrong"');
    expect(await counts()).toEqual(before);
    expect(await far.roles()).toEqual([]);
  });

  test("rights that are missing are named with the statement that gives them", async () => {
    const before = await counts();
    const group = `extra_${far.config.deployment}`;
    await far.asSuperuser(`create role ${group}`);
    const resource = await aResource(r);
    const got = await register({
      resources: [{ resource, access: { read: { roles: [far.readers] }, write: { roles: [group] } } }],
    });
    await far.asSuperuser(`drop role ${group}`);
    expect(got.status).toBe(422);
    expect(got.json.detail).toContain(`GRANT "${group}" TO`);
    expect(await counts()).toEqual(before);
    // The evidence of the attempt stays.
    const events = await r.sql<{ type: string }>(
      "select type from audit_events where actor = 'eve' order by recorded_at desc, id desc limit 2",
    );
    expect(events.map(({ type }) => type).sort()).toEqual(["target.deleted", "target_resource.deleted"]);
  });

  test("with a name that is taken touches no far side", async () => {
    const name = fresh("db");
    await registered({ name });
    let touched = false;
    const issue: AnyIssuer["issue"] = () => {
      touched = true;
      throw new Error("touched");
    };
    const got = await withIssuer({ issue }, () => register({ name }));
    expect([got.status, got.json.errors[0].pointer, touched]).toEqual([409, "/name", false]);
  });

  test("an owner who departs while the canary runs leaves nothing behind", async () => {
    const before = await counts();
    const owner_id = await anOwner(r);
    const departing: AnyIssuer["probe"] = async (...given) => {
      await r.ask("admin", "POST", `/v1/owners/${owner_id}/depart`);
      return probe(...given);
    };
    const got = await withIssuer({ probe: departing }, () => register({ owner_id }));
    expect([got.status, got.json.code]).toEqual([409, "conflict"]);
    expect(await counts()).toEqual(before);
    expect(await far.roles()).toEqual([]);
  });

  test("a canary that cannot be proven dead keeps its target, suspended, until reconciliation has removed it", async () => {
    const failing = { revoke: async () => Promise.reject(new Error("no")) };
    const got = await withIssuer(failing as Partial<AnyIssuer>, () => register());
    expect([got.status, got.json.code]).toEqual([422, "target_refused"]);
    const [left] = await far.roles();
    expect(got.json.reasons).toEqual([{ code: "canary_left", detail: left }]);
    const id = /tgt_[0-9a-f]{32}/.exec(got.json.detail)?.[0] as Id<"target">;
    const at = `/v1/targets/${id}`;
    const kept = await r.ask("admin", "GET", at);
    expect(kept.json).toMatchObject({ state: "suspended", canary: { state: "failed", left } });
    expect((await r.ask("admin", "DELETE", at, { ifMatch: kept.etag })).status).toBe(409);

    const deps = { db: r.db, targets: r.targets, wakeUps: noWakeUps, log: createLog("silent") };
    expect(await reconcileTarget(deps, DEFAULT_TENANT, id)).toMatchObject({ orphansRemoved: 1 });
    expect(await far.roles()).toEqual([]);
    expect((await r.ask("admin", "DELETE", at, { ifMatch: kept.etag })).status).toBe(204);
  });

  test("no reconciler takes the canary of a target that is being registered for an orphan", async () => {
    const interval = "1 hour";
    const due = async () =>
      (await r.db.callAcrossTenants<{ target_id: string }>("targets_to_reconcile", [interval])).map(
        (row) => row.target_id,
      );
    let seen: string[] | undefined;
    let during: string | undefined;
    const looking: AnyIssuer["probe"] = async (...given) => {
      const [row] = await r.sql<{ id: string }>("select id from targets where canary ->> 'state' = 'running'");
      during = row?.id;
      seen = await due();
      return probe(...given);
    };
    const got = await withIssuer({ probe: looking }, () => register());
    expect(during).toBe(got.json.id);
    expect(seen).not.toContain(during);
    expect(await due()).toContain(during);
  });

  test.each([
    ["an issuer that nobody knows", { issuer: "oracle" }, "/issuer"],
    ["a member that the issuer does not know", { config: { host: "h", sslmode: "off" } }, "/config/"],
    ["a lifetime beyond the issuer's", { max_ttl_seconds: 86_401 }, "/max_ttl_seconds"],
    ["no resource", { resources: [] }, "/resources"],
    [
      "an action class that there is not",
      { resources: [{ resource: "x", access: { peek: { roles: ["r"] } } }] },
      "/resources/0/access/peek",
    ],
    ["access that grants nothing", { resources: [{ resource: "x", access: {} }] }, "/resources/0/access"],
    [
      "access that the issuer does not understand",
      { resources: [{ resource: "x", access: { read: { scope: ["a"] } } }] },
      "/resources/0/access/read",
    ],
    [
      "a reserved role",
      { resources: [{ resource: "x", access: { read: { roles: ["postgres"] } } }] },
      "/resources/0/access/read/roles/0",
    ],
  ])("%s is refused before anything is tried", async (_what, changes, pointer) => {
    const got = await register(changes);
    expect([got.status, got.json.errors?.[0].pointer.startsWith(pointer)]).toEqual([400, true]);
    expect(got.text).not.toContain(String(far.config["password"]));
  });

  test("a resource is reached once, by whatever it is called", async () => {
    const name = fresh("tickets");
    const resource = await aResource(r, { name });
    const access = { read: { roles: [far.readers] } };
    const got = await register({
      resources: [
        { resource, access },
        { resource: name, access },
      ],
    });
    expect([got.status, got.json.errors[0].pointer]).toEqual([400, "/resources/1/resource"]);
    const byName = await register({ resources: [{ resource: name, access }] });
    expect(byName.json.resources).toEqual([{ resource, access }]);
    const referred = await r.ask("admin", "DELETE", `/v1/resources/${resource}`, { ifMatch: '"1"' });
    expect([referred.status, referred.json.detail]).toEqual([
      409,
      `targets still refer to this resource: ${byName.json.id}`,
    ]);
  });
});

test("revoke is never left out: the canary of every registration was taken back by the issuer itself", async () => {
  let revoked = 0;
  const counting: AnyIssuer["revoke"] = (...given) => {
    revoked += 1;
    return revoke(...given);
  };
  await withIssuer({ revoke: counting }, () => registered());
  expect(revoked).toBe(1);
});
