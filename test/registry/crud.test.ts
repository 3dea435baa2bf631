import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { bodies, fresh } from "./builders.ts";
import { type Registry, registry } from "./harness.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

interface Kind {
  readonly path: string;
  readonly word: string;
  readonly prefix: string;
  body(): Promise<Record<string, unknown>>;
  /** A change, when there are any. */
  readonly patch?: () => Record<string, unknown>;
  /** What the reply says beside what was sent. */
  readonly also?: Readonly<Record<string, unknown>>;
}

const kinds: readonly Kind[] = [
  { path: "/v1/teams", word: "team", prefix: "tea", body: () => bodies.team(), patch: () => ({ name: fresh("team") }) },
  {
    path: "/v1/owners",
    word: "owner",
    prefix: "own",
    body: () => bodies.owner(),
    patch: () => ({ email: null, subject: "trs_x|carol" }),
    also: { status: "active", departed_at: null, team_id: null, subject: null },
  },
  {
    path: "/v1/agents",
    word: "agent",
    prefix: "agt",
    body: () => bodies.agent(r),
    patch: () => ({ environment: "production" }),
    also: { state: "proposed" },
  },
  {
    path: "/v1/trust-sources",
    word: "trust_source",
    prefix: "trs",
    body: () => bodies.trustSource(),
    patch: () => ({ max_token_age_seconds: 60 }),
    also: { state: "active", audience: "https://mayfly.test/t/default", single_use: false },
  },
  {
    path: "/v1/identities",
    word: "identity",
    prefix: "idn",
    body: () => bodies.identity(r),
    also: { conditions: [] },
  },
  {
    path: "/v1/resources",
    word: "resource",
    prefix: "res",
    body: () => bodies.resource(r),
    patch: () => ({ classification: "restricted", operations: { list: "read", purge: "delete" } }),
    also: { description: "" },
  },
  { path: "/v1/relationships", word: "relationship", prefix: "rel", body: () => bodies.relationship(r) },
  {
    path: "/v1/purposes",
    word: "purpose",
    prefix: "pur",
    body: () => bodies.purpose(r),
    patch: () => ({ max_ttl_seconds: 60 }),
    also: { state: "proposed", proposed_by: "admin-1", approved_by: null, approved_at: null },
  },
  {
    path: "/v1/targets",
    word: "target",
    prefix: "tgt",
    body: () => bodies.target(r),
    patch: () => ({ max_ttl_seconds: 60 }),
    also: { state: "active", stuck_limit: 5, stuck: 0, live: 0, reconciled_at: null, revocability: "immediate" },
  },
];

describe.each(kinds.map((kind) => [kind.path, kind] as const))("%s", (path, kind) => {
  test("what was sent is what is read, under one id that names it everywhere", async () => {
    const body = await kind.body();
    const made = await r.ask("admin", "POST", path, { body });
    expect(made.status).toBe(201);
    expect(made.json).toMatchObject({ ...body, ...kind.also, version: kind.word === "target" ? 2 : 1 });
    const { id } = made.json;
    expect(id).toMatch(new RegExp(`^${kind.prefix}_[0-9a-f]{32}$`));
    expect(made.location).toBe(`${path}/${id}`);

    const read = await r.ask("auditor", "GET", `${path}/${id}`);
    expect(read.status).toBe(200);
    expect(read.json).toEqual(made.json);
    expect(read.etag).toBe(made.etag);
    expect(read.json.created_at).toMatch(/^\d{4}-.*Z$/);
    const list = await r.ask("auditor", "GET", `${path}?page_size=200`);
    expect(list.json.items).toContainEqual(made.json);
  });

  const { patch } = kind;
  if (patch !== undefined)
    test("a change needs the ETag that was read: none is 428, another is 412, and the right one counts up", async () => {
      const { json, etag } = await r.ask("admin", "POST", path, { body: await kind.body() });
      const at = `${path}/${json.id}`;
      const body = patch();
      expect((await r.ask("admin", "PATCH", at, { body })).status).toBe(428);
      expect((await r.ask("admin", "PATCH", at, { body, ifMatch: '"99"' })).status).toBe(412);
      expect((await r.ask("admin", "PATCH", at, { body, ifMatch: `W/${etag}` })).status).toBe(412);
      expect((await r.ask("admin", "GET", at)).json).toEqual(json);

      const changed = await r.ask("admin", "PATCH", at, { body, ifMatch: etag });
      expect(changed.status).toBe(200);
      expect(changed.json).toMatchObject({ ...body, version: json.version + 1, created_at: json.created_at });
      expect(changed.etag).not.toBe(etag);
      expect((await r.ask("admin", "GET", at)).json).toEqual(changed.json);
      expect((await r.ask("admin", "PATCH", at, { body, ifMatch: etag })).status).toBe(412);
      expect((await r.ask("admin", "PATCH", at, { body: {}, ifMatch: changed.etag })).status).toBe(400);
    });

  test("a removal needs the ETag, and what was removed is as if it had never been", async () => {
    const { json, etag } = await r.ask("admin", "POST", path, { body: await kind.body() });
    const at = `${path}/${json.id}`;
    expect((await r.ask("admin", "DELETE", at)).status).toBe(428);
    expect((await r.ask("admin", "DELETE", at, { ifMatch: '"99"' })).status).toBe(412);
    expect((await r.ask("admin", "DELETE", at, { ifMatch: etag })).status).toBe(204);
    const requestId = "same-for-both";
    const never = `${path}/${kind.prefix}_${"0".repeat(32)}`;
    for (const method of ["GET", "DELETE"]) {
      const gone = await r.ask("admin", method, at, { ifMatch: etag, requestId });
      expect(gone.status).toBe(404);
      expect(gone.everything).toBe((await r.ask("admin", method, never, { ifMatch: etag, requestId })).everything);
    }
  });

  test("every change is exactly one audit event, with who did it", async () => {
    const { json, etag } = await r.ask("admin/eve", "POST", path, { body: await kind.body() });
    const at = `${path}/${json.id}`;
    let last = etag;
    if (patch !== undefined) {
      const changed = await r.ask("admin/eve", "PATCH", at, { body: patch(), ifMatch: etag });
      expect(changed.status).toBe(200);
      last = changed.etag;
    }
    await r.ask("admin/eve", "DELETE", at, { ifMatch: last });
    const events = await r.events(json.id);
    // A target is written, granted its resource, and activated once its canary has passed.
    const created =
      kind.word === "target"
        ? ["target.created", "target_resource.created", "target.updated"]
        : [`${kind.word}.created`];
    const deleted = kind.word === "target" ? ["target_resource.deleted", "target.deleted"] : [`${kind.word}.deleted`];
    expect(events.map(({ type }) => type)).toEqual([
      ...created,
      ...(patch === undefined ? [] : [`${kind.word}.updated`]),
      ...deleted,
    ]);
    expect(new Set(events.map(({ actor }) => actor))).toEqual(new Set(["eve"]));
  });

  test("only those with the role get in", async () => {
    const id = await r.make(path, await kind.body());
    for (const who of ["agent", "operator"]) {
      expect((await r.ask(who, "GET", path)).status).toBe(403);
      expect((await r.ask(who, "GET", `${path}/${id}`)).status).toBe(403);
    }
    for (const who of ["agent", "operator", "auditor", "approver"]) {
      expect((await r.ask(who, "POST", path, { body: {} })).status).toBe(403);
      expect((await r.ask(who, "DELETE", `${path}/${id}`, { ifMatch: '"1"' })).status).toBe(403);
    }
  });
});

const bodyOf = (path: string, who: string): Promise<object> => {
  const word = path.slice("/v1/".length, -1).replace("trust-source", "trustSource") as keyof typeof bodies;
  return bodies[word](r, who);
};

describe("names", () => {
  test.each([
    ["/v1/teams", () => bodies.team()],
    ["/v1/owners", () => bodies.owner()],
    ["/v1/agents", () => bodies.agent(r)],
    ["/v1/resources", () => bodies.resource(r)],
    ["/v1/trust-sources", () => bodies.trustSource()],
    ["/v1/targets", () => bodies.target(r)],
  ] as const)(
    "%s: a name that is taken is a 409 that points at it, and is free in another tenant",
    async (path, body) => {
      const first = (await body()) as Record<string, unknown>;
      await r.make(path, first);
      const there = await bodyOf(path, "admin@other");
      expect((await r.ask("admin@other", "POST", path, { body: { ...there, name: first["name"] } })).status).toBe(201);
      const again = await r.ask("admin", "POST", path, { body: { ...(await body()), name: first["name"] } });
      expect(again.status).toBe(409);
      expect(again.json).toMatchObject({ code: "conflict", errors: [{ pointer: "/name" }] });
    },
  );

  test("a purpose's name is unique for its agent alone", async () => {
    const body = await bodies.purpose(r);
    await r.make("/v1/purposes", body);
    expect((await r.ask("admin", "POST", "/v1/purposes", { body })).status).toBe(409);
    const { agent_id } = await bodies.purpose(r);
    expect((await r.ask("admin", "POST", "/v1/purposes", { body: { ...body, agent_id } })).status).toBe(201);
  });
});

describe("lists", () => {
  test("a filter narrows to what is equal, and another tenant's id to nothing", async () => {
    const one = await bodies.agent(r);
    const mine = await r.make("/v1/agents", one);
    const found = await r.ask("auditor", "GET", `/v1/agents?owner_id=${one.owner_id}`);
    expect(found.json.items.map((item: { id: string }) => item.id)).toEqual([mine]);
    const none = await r.ask("auditor", "GET", `/v1/agents?owner_id=${one.owner_id}&state=retired`);
    expect(none.json).toEqual({ items: [], next_page_token: "" });
    expect((await r.ask("auditor@other", "GET", `/v1/agents?owner_id=${one.owner_id}`)).json.items).toEqual([]);
    expect((await r.ask("auditor", "GET", "/v1/agents?nonsense=1")).status).toBe(400);
  });

  test("pages walk every row exactly once, in order, while rows are added", async () => {
    const before: string[] = [];
    for (let n = 0; n < 25; n += 1) before.push(await r.make("/v1/teams", { name: fresh("walk") }));
    const seen: string[] = [];
    let path = "/v1/teams?page_size=7";
    for (;;) {
      const { json, status } = await r.ask("auditor", "GET", path);
      expect(status).toBe(200);
      seen.push(...json.items.map((item: { id: string }) => item.id));
      if (json.next_page_token === "") break;
      await r.make("/v1/teams", { name: fresh("late") });
      path = `/v1/teams?page_size=7&page_token=${json.next_page_token}`;
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual([...seen].sort());
    expect(before.every((id) => seen.includes(id))).toBe(true);
  });
});

test("of two changes at the same moment one wins, and the other is told that it read something older", async () => {
  for (let round = 0; round < 20; round += 1) {
    const id = await r.make("/v1/teams", { name: fresh("race") });
    const race = ["left", "right"].map((side) =>
      r.ask("admin", "PATCH", `/v1/teams/${id}`, { body: { name: fresh(side) }, ifMatch: '"1"' }),
    );
    const statuses = (await Promise.all(race)).map(({ status }) => status);
    expect(statuses.toSorted((a, b) => a - b)).toEqual([200, 412]);
    expect((await r.ask("admin", "GET", `/v1/teams/${id}`)).json.version).toBe(2);
  }
});

test("what is still referred to is not removed, and the answer names what refers to it", async () => {
  const owner = await r.make("/v1/owners", await bodies.owner());
  const agent = await r.make("/v1/agents", { ...(await bodies.agent(r)), owner_id: owner });
  const relation = { subject: agent, relation: "works_on", object: owner };
  const related = await r.make("/v1/relationships", relation);
  const refused = await r.ask("admin", "DELETE", `/v1/owners/${owner}`, { ifMatch: '"1"' });
  expect(refused.status).toBe(409);
  expect(refused.json.detail).toBe(`agents still refer to this owner: ${agent}`);
  const byRelation = await r.ask("admin", "DELETE", `/v1/agents/${agent}`, { ifMatch: '"1"' });
  expect(byRelation.json.detail).toBe(`relationships still refer to this agent: ${related}`);
  expect((await r.ask("admin", "GET", `/v1/owners/${owner}`)).status).toBe(200);
});

test("a reply that the caller has already is not sent again", async () => {
  const id = await r.make("/v1/teams", await bodies.team());
  const { etag } = await r.ask("admin", "GET", `/v1/teams/${id}`);
  const again = await r.ask("admin", "GET", `/v1/teams/${id}`, { headers: { "if-none-match": etag ?? "" } });
  expect([again.status, again.text]).toEqual([304, ""]);
});
