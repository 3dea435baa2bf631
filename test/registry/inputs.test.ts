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

const named = [
  "/v1/teams",
  "/v1/owners",
  "/v1/agents",
  "/v1/trust-sources",
  "/v1/resources",
  "/v1/purposes",
  "/v1/targets",
] as const;

const bodyOf = {
  "/v1/teams": () => bodies.team(),
  "/v1/owners": () => bodies.owner(),
  "/v1/agents": () => bodies.agent(r),
  "/v1/trust-sources": () => bodies.trustSource(),
  "/v1/identities": () => bodies.identity(r),
  "/v1/resources": () => bodies.resource(r),
  "/v1/relationships": () => bodies.relationship(r),
  "/v1/purposes": () => bodies.purpose(r),
  "/v1/targets": () => bodies.target(r),
} as const satisfies Record<string, () => Promise<object>>;

/** M3: what must never be the name of anything. */
const badNames: readonly (readonly [string, string])[] = [
  ["empty", ""],
  ["upper case", "Tickets"],
  ["Cyrillic a that looks Latin", "t\u0430sk"],
  ["dotless i", "t\u0131cket"],
  ["full-width letters", "\uff54ask"],
  ["composed", "caf\u00e9"],
  ["decomposed", "cafe\u0301"],
  ["zero-width joiner", "ti\u200dcket"],
  ["zero-width space", "ti\u200bcket"],
  ["right-to-left override", "ti\u202ecket"],
  ["byte order mark", "\ufeffticket"],
  ["leading space", " ticket"],
  ["trailing space", "ticket "],
  ["trailing line break", "ticket\n"],
  ["tab", "tic\tket"],
  ["slash", "tic/ket"],
  ["dot", "tic.ket"],
  ["two dots", ".."],
  ["percent", "tic%6bet"],
  ["wildcard", "tic*"],
  ["quote", "tic'ket"],
  ["semicolon", "a;drop table agents"],
  ["leading dash", "-ticket"],
  ["leading underscore", "_ticket"],
  ["overlong", "a".repeat(64)],
  ["very long", "a".repeat(60_000)],
  ["an agent's id", `agt_${"0".repeat(32)}`],
  ["an id of no kind", `abc_${"f".repeat(32)}`],
  ...["root", "system", "postgres", "default", "admin", "mayfly", "pg_monitor", "mfy_x", "public", "null"].map(
    (name) => [`reserved ${name}`, name] as const,
  ),
];

describe("M3: names", () => {
  test.each(badNames)("%s is refused by every kind, and nothing is made", async (_what, name) => {
    for (const path of named) {
      const body = { ...bases[path], name };
      const got = await r.ask("admin", "POST", path, { body });
      expect([path, got.status, got.json.errors?.[0]?.pointer]).toEqual([path, 400, "/name"]);
      if (name.length > 20) expect(got.text).not.toContain(JSON.stringify(name).slice(1, -1));
    }
  });

  test.each(["a", "0", "a".repeat(63), "a-b_c", "roots", "agt_1", "my-default"])("%s is a name", async (name) => {
    for (const path of named) {
      const got = await r.ask("admin", "POST", path, { body: { ...(await bodyOf[path]()), name } });
      expect([path, got.status]).toEqual([path, 201]);
    }
  });
  let bases: Record<string, object>;
  beforeAll(async () => {
    bases = Object.fromEntries(await Promise.all(named.map(async (path) => [path, await bodyOf[path]()])));
  });
});

describe("text for people", () => {
  test.each([
    ["a control character", "a\u0007b"],
    ["an escape sequence", "\u001b[31mred"],
    ["a right-to-left override", "a\u202eb"],
    ["invisible tag characters", "a\u{e0041}\u{e0042}"],
    ["a zero-width space", "a\u200bb"],
    ["a line separator", "a\u2028b"],
    ["only spaces", "   "],
    ["too much", "a".repeat(2001)],
  ])("%s is refused", async (_what, description) => {
    for (const path of ["/v1/agents", "/v1/resources", "/v1/purposes"] as const) {
      const got = await r.ask("admin", "POST", path, { body: { ...(await bodyOf[path]()), description } });
      expect([path, got.status, got.json.errors?.[0]?.pointer]).toEqual([path, 400, "/description"]);
    }
  });

  test("is kept in one normal form, and may have lines and any script", async () => {
    const description = "Cafe\u0301 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n\ud83d\udc69\u200d\ud83d\udcbb";
    const got = await r.ask("admin", "POST", "/v1/agents", { body: { ...(await bodies.agent(r)), description } });
    expect(got.json.description).toBe(description.normalize("NFC"));
  });
});

/** M12: members that a caller never sets. */
const privileged = {
  id: `agt_${"0".repeat(32)}`,
  tenant_id: "ten_00000000000070008000000000000000",
  version: 7,
  created_at: "2020-01-01T00:00:00Z",
  updated_at: "2020-01-01T00:00:00Z",
  state: "active",
  status: "departed",
  departed_at: null,
  proposed_by: "somebody",
  approved_by: "somebody",
  approved_at: "2020-01-01T00:00:00Z",
  canary: { state: "passed" },
  config_sealed: "AA",
  reconciled_at: null,
  settings: {},
  stuck: 0,
  roles: ["admin"],
  is_admin: true,
} as const;

describe.each(Object.keys(bodyOf) as (keyof typeof bodyOf)[])("M12: %s", (path) => {
  test("a member that the caller has no business with is refused, in a POST and in a PATCH", async () => {
    const body = await bodyOf[path]();
    const id = await r.make(path, await bodyOf[path]());
    const before = (await r.ask("admin", "GET", `${path}/${id}`)).text;
    for (const [name, value] of Object.entries(privileged)) {
      const posted = await r.ask("admin", "POST", path, { body: { ...body, [name]: value } });
      expect([name, posted.status, posted.json.errors?.[0]?.pointer]).toEqual([name, 400, `/${name}`]);
      const patched = await r.ask("admin", "PATCH", `${path}/${id}`, { body: { [name]: value }, ifMatch: '"1"' });
      if (patched.status !== 405) expect([name, patched.status]).toEqual([name, 400]);
    }
    expect((await r.ask("admin", "GET", `${path}/${id}`)).text).toBe(before);
  });

  test("what says what a thing is never changes after it was made", async () => {
    const fixed = ["kind", "issuer", "team_id", "agent_id", "trust_source_id", "anchor_claim", "subject_id"];
    const body = (await bodyOf[path]()) as Record<string, unknown>;
    const id = await r.make(path, body);
    for (const name of fixed.filter((one) => one in body)) {
      const got = await r.ask("admin", "PATCH", `${path}/${id}`, { body: { [name]: body[name] }, ifMatch: '"1"' });
      expect([name, got.status === 400 || got.status === 405]).toEqual([name, true]);
    }
  });
});

describe("resources", () => {
  const made = async (changes: object) =>
    r.ask("admin", "POST", "/v1/resources", { body: { ...(await bodies.resource(r)), ...changes } });

  test("an operation is never called as an action class that it is not", async () => {
    expect((await made({ operations: { read: "delete" } })).status).toBe(400);
    expect((await made({ operations: { read: "read", admin: "admin" } })).status).toBe(201);
  });
  test.each([
    ["none", {}],
    ["51", Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`op-${n}`, "read"]))],
    ["an unknown class", { list: "peek" }],
    ["a badly spelled name", { "List!": "read" }],
  ])("operations: %s is refused", async (_what, operations) => {
    expect((await made({ operations })).status).toBe(400);
  });
  test("a group is named once", async () => {
    expect((await made({ groups: ["a", "a"] })).status).toBe(400);
  });

  test("an operation that a purpose names does not come to mean another class", async () => {
    const body = await bodies.purpose(r);
    const purpose = await r.make("/v1/purposes", body);
    const at = `/v1/resources/${body.resource_ids[0]}`;
    const change = { operations: { list: "read", close: "delete" } };
    const refused = await r.ask("admin", "PATCH", at, { body: change, ifMatch: '"1"' });
    expect([refused.status, refused.json.detail]).toEqual([409, expect.stringContaining(purpose)]);
    const other = { operations: { list: "execute", close: "write" } };
    expect((await r.ask("admin", "PATCH", at, { body: other, ifMatch: '"1"' })).status).toBe(200);
    await r.ask("admin", "POST", `/v1/purposes/${purpose}/retire`);
    expect((await r.ask("admin", "PATCH", at, { body: change, ifMatch: '"2"' })).status).toBe(200);
  });
});

describe("relationships", () => {
  test.each(["ticket:JIRA-7", "workflow:github/acme/app/deploy.yml@main", "dataset:s3://bucket/a.b", "ticket:0"])(
    "%s is outside and may be named",
    async (object) => {
      const body = { ...(await bodies.relationship(r)), object };
      expect((await r.ask("admin", "POST", "/v1/relationships", { body })).json.object).toBe(object);
    },
  );
  test.each([
    "JIRA-7",
    "ticket:",
    "ticket: 7",
    "ticket:a*",
    "ticket:\u0430",
    "url:https://x",
    "agent:1",
    `evt_${"0".repeat(32)}`,
    'ticket:a"}',
  ])("%s is nothing that can be named", async (object) => {
    const got = await r.ask("admin", "POST", "/v1/relationships", {
      body: { ...(await bodies.relationship(r)), object },
    });
    expect([got.status, got.json.errors[0].pointer]).toEqual([400, "/object"]);
  });
  test("the same tuple is there once", async () => {
    const body = await bodies.relationship(r);
    await r.make("/v1/relationships", body);
    expect((await r.ask("admin", "POST", "/v1/relationships", { body })).status).toBe(409);
  });
});

describe("owners", () => {
  test("a team owner has its team, a human has none", async () => {
    const team_id = await r.make("/v1/teams", await bodies.team());
    const made = await r.ask("admin", "POST", "/v1/owners", { body: { kind: "team", name: fresh("owner"), team_id } });
    expect(made.json).toMatchObject({ kind: "team", team_id });
    expect((await r.ask("admin", "POST", "/v1/owners", { body: { kind: "team", name: fresh("o") } })).status).toBe(400);
    expect(
      (await r.ask("admin", "POST", "/v1/owners", { body: { kind: "human", name: fresh("o"), team_id } })).status,
    ).toBe(400);
    const at = `/v1/owners/${made.json.id}`;
    expect((await r.ask("admin", "PATCH", at, { body: { subject: "alice" }, ifMatch: '"1"' })).status).toBe(400);
  });
});
