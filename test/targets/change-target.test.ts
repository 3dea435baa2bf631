import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { targetSealContext } from "../../src/targets/target-clients.ts";
import { aCredential, aResource, aTarget, stateOf } from "../registry/builders.ts";
import { DEFAULT_TENANT, type Registry } from "../registry/harness.ts";
import type { PostgresTarget } from "../support/postgres-target.ts";
import { type Fixture, fixture } from "./fixture.ts";

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

const registered = () => f.registered();

describe("changing", () => {
  const patch = (at: string, given: object, ifMatch: string) =>
    r.ask("admin/eve", "PATCH", at, { body: given, ifMatch });

  test("a password is rotated by itself; what is not sent stays, secrets too", async () => {
    const { id, at, etag } = await registered();
    const got = await patch(at, { config: { connection_limit: 7 } }, etag);
    expect(got.status).toBe(200);
    expect(got.json.config.connection_limit).toBe(7);
    const [row] = await r.sql<{ config_sealed: Buffer }>("select config_sealed from targets where id = $1", [id]);
    const stored = JSON.parse(
      r.sealer.open(row?.config_sealed ?? Buffer.alloc(0), targetSealContext(DEFAULT_TENANT, id)),
    );
    expect(stored).toEqual({ ...far.config, connection_limit: 7, accept_before_16: false });
    expect((await r.events(id)).at(-1)).toMatchObject({
      type: "target.updated",
      actor: "eve",
      data: { config: { to: expect.objectContaining({ connection_limit: 7 }) } },
    });
  });

  test("even a change of nothing but a secret is in the audit, without the secret", async () => {
    const { id, at, etag } = await registered();
    const was = (await r.events(id)).length;
    const secret = "another-password";
    await far.asSuperuser(`alter role ${String(far.config["user"])} password '${secret}'`);
    const got = await patch(at, { config: { password: secret } }, etag);
    await far.asSuperuser(`alter role ${String(far.config["user"])} password '${String(far.config["password"])}'`);
    expect(got.status).toBe(200);
    const events = await r.events(id);
    expect(events.length).toBe(was + 1);
    expect(JSON.stringify(events)).not.toContain(secret);
    expect(got.text).not.toContain(secret);
  });

  test("which system it is never changes, and the answer says why", async () => {
    const { at, etag } = await registered();
    for (const [name, value] of Object.entries({
      host: "db.example.com",
      port: 6432,
      database: "other",
      deployment: "x",
    })) {
      const got = await patch(at, { config: { [name]: value } }, etag);
      expect([name, got.status, got.json.errors[0].pointer]).toEqual([name, 409, `/config/${name}`]);
      expect(got.json.detail).toContain("revoked there");
    }
    expect((await r.ask("admin", "GET", at)).etag).toBe(etag);
  });

  test("a configuration or access that fails its canary changes nothing, and mints go on", async () => {
    const { at, etag } = await registered();
    const before = await r.ask("admin", "GET", at);
    const resource = before.json.resources[0].resource;
    for (const given of [
      { config: { password: "wrong" } },
      { resources: [{ resource, access: { read: { roles: ["nobody_has_it"] } } }] },
    ]) {
      const got = await patch(at, { ...given, stuck_limit: 9 }, etag);
      expect([got.status, got.json.code]).toEqual([422, "target_refused"]);
    }
    expect((await r.ask("admin", "GET", at)).json).toEqual(before.json);
    expect(await far.roles()).toEqual([]);
  });

  test("what it reaches is replaced as a whole, each change one event", async () => {
    const { id, at, etag } = await registered();
    const [one] = (await r.ask("admin", "GET", at)).json.resources;
    const two = await aResource(r);
    const was = (await r.events(id)).length;
    const both = [
      { resource: one.resource, access: { ...one.access, write: { roles: [far.writers] } } },
      { resource: two, access: { read: { roles: [far.readers] } } },
    ];
    const got = await patch(at, { resources: both }, etag);
    expect(got.json.resources).toEqual(both.sort((a, b) => (a.resource < b.resource ? -1 : 1)));
    const less = await patch(
      at,
      { resources: [{ resource: two, access: { read: { roles: [far.readers] } } }] },
      got.etag ?? "",
    );
    expect(less.json.resources).toHaveLength(1);
    const types = (await r.events(id)).slice(was).map(({ type }) => type);
    expect(types.sort()).toEqual([
      "target.updated",
      "target.updated",
      "target_resource.created",
      "target_resource.deleted",
      "target_resource.updated",
    ]);
  });

  test("widening takes nothing back; narrowing takes back what was granted more", async () => {
    const { id, at, etag } = await registered();
    const [one] = (await r.ask("admin", "GET", at)).json.resources;
    const held = await aCredential(r, { targetId: id, resourceIds: [one.resource] });
    const elsewhere = await aCredential(r, { targetId: id, resourceIds: [await aResource(r)] });
    const wider = {
      resources: [{ resource: one.resource, access: { ...one.access, write: { roles: [far.writers] } } }],
    };
    const got = await patch(at, wider, etag);
    expect(await stateOf(r, "credentials", held)).toBe("active");
    const other = { resources: [{ resource: one.resource, access: { read: { roles: [far.writers] } } }] };
    expect((await patch(at, other, got.etag ?? "")).status).toBe(200);
    expect(await stateOf(r, "credentials", held)).toBe("revoking");
    expect(await stateOf(r, "credentials", elsewhere)).toBe("active");
  });

  test("of two changes at the same moment one wins and the other is 412", async () => {
    const { at, etag } = await registered();
    const race = [6, 7].map((stuck_limit) =>
      patch(at, { stuck_limit, config: { connection_limit: stuck_limit } }, etag),
    );
    const got = await Promise.all(race);
    expect(got.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 412]);
    const { json } = await r.ask("admin", "GET", at);
    expect(json.config.connection_limit).toBe(json.stuck_limit);
  });
});

describe("states", () => {
  const state = (at: string, to: string) => r.ask("admin/eve", "POST", `${at}/state`, { body: { state: to } });
  const legal: Readonly<Record<string, readonly string[]>> = {
    active: ["active", "suspended", "retired"],
    suspended: ["active", "suspended", "retired"],
    quarantined: ["active", "suspended", "retired"],
    retired: ["retired"],
  };
  test.each(Object.keys(legal))("from %s it goes where it may, and nowhere else", async (from) => {
    for (const to of ["active", "suspended", "retired"]) {
      const id = await aTarget(r);
      await r.sql("update targets set state = $2 where id = $1", [id, from]);
      const got = await state(`/v1/targets/${id}`, to);
      const may = legal[from]?.includes(to) === true;
      expect([from, to, got.status]).toEqual([from, to, may ? 200 : 409]);
      expect(await stateOf(r, "targets", id)).toBe(may ? to : from);
    }
    expect((await state(`/v1/targets/${await aTarget(r)}`, "quarantined")).status).toBe(400);
  });

  test("activating takes a canary that passes; one that fails is kept for the reader, and the target stays shut", async () => {
    const { id, at } = await registered();
    await state(at, "suspended");
    await far.asSuperuser(`revoke ${far.readers} from ${String(far.config["user"])} cascade`);
    const refused = await state(at, "active");
    await far.asSuperuser(
      `grant ${far.readers} to ${String(far.config["user"])} with admin true, inherit false, set false`,
    );
    expect([refused.status, refused.json.code]).toEqual([422, "target_refused"]);
    expect(await stateOf(r, "targets", id)).toBe("suspended");
    const shown = await r.ask("admin", "GET", at);
    expect(shown.json.canary).toEqual({ state: "failed", problem: refused.json.detail });
    const opened = await state(at, "active");
    expect(opened.json).toMatchObject({ state: "active", canary: { state: "passed" } });
    expect(await far.roles()).toEqual([]);
  });

  test("a retired target never changes again", async () => {
    const id = await aTarget(r);
    const got = await state(`/v1/targets/${id}`, "retired");
    const patched = await r.ask("admin", "PATCH", `/v1/targets/${id}`, { body: { stuck_limit: 3 }, ifMatch: got.etag });
    expect([patched.status, patched.json.code]).toEqual([409, "conflict"]);
  });
});

test("a reader sees how many credentials are alive and stuck, and the ETag says when that has changed", async () => {
  const { id, at, etag } = await registered();
  await aCredential(r, { targetId: id });
  const stuck = await aCredential(r, { targetId: id });
  await r.sql("update credentials set state = 'revoking', stuck = true where id = $1", [stuck]);
  const got = await r.ask("auditor", "GET", at, { headers: { "if-none-match": etag } });
  expect([got.status, got.json.live, got.json.stuck]).toEqual([200, 2, 1]);
  expect(got.etag).not.toBe(etag);
  // The row itself has not changed: whoever read it before may still change it.
  expect((await r.ask("admin", "PATCH", at, { body: { stuck_limit: 3 }, ifMatch: etag })).status).toBe(200);
  const removed = await r.ask("admin", "DELETE", at, { ifMatch: (await r.ask("admin", "GET", at)).etag });
  expect([removed.status, removed.json.detail]).toMatchObject([
    409,
    expect.stringMatching(/^credentials still refer to this target/),
  ]);
});
