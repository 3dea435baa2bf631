import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { anAgent, anOwner, aResource, bodies, fresh, inDays } from "./builders.ts";
import { OTHER_TENANT, type Registry, registry } from "./harness.ts";

/** A body that every endpoint with an id accepts, by the end of its path. */
const acceptable: Readonly<Record<string, object>> = {
  "PATCH teams": { name: "new-name" },
  "PATCH owners": { email: "x@example.com" },
  "PATCH agents": { environment: "production" },
  "PATCH trust-sources": { max_token_age_seconds: 60 },
  "PATCH resources": { risk: "high" },
  "PATCH purposes": { max_ttl_seconds: 60 },
  "PATCH targets": { stuck_limit: 3 },
  "POST agents/state": { state: "active" },
  "POST trust-sources/state": { state: "disabled" },
  "POST targets/state": { state: "active" },
  "POST purposes/review": { review_by: inDays(1) },
};

// Two walls, each tried with the other one taken away (row-level security for itself: test/db).
describe.each([
  ["row-level security and the code", false],
  ["the code alone", true],
])("with %s", (_walls, unbound) => {
  let r: Registry;
  /** One thing of each kind, of another tenant, and an id of the same kind that nobody has. */
  const theirs: Record<string, { foreign: string; unknown: string }> = {};

  beforeAll(async () => {
    r = await registry({ unbound });
    const make = async (path: string, word: string, body: object) => {
      const foreign = await r.make(path, body, "admin@other");
      theirs[word] = { foreign, unknown: `${foreign.slice(0, 4)}${"7".repeat(32)}` };
    };
    const who = "admin@other";
    await make("/v1/teams", "team", await bodies.team());
    await make("/v1/owners", "owner", await bodies.owner());
    await make("/v1/agents", "agent", await bodies.agent(r, who));
    await make("/v1/trust-sources", "trust_source", await bodies.trustSource());
    await make("/v1/identities", "identity", await bodies.identity(r, who));
    await make("/v1/resources", "resource", await bodies.resource(r, who));
    await make("/v1/relationships", "relationship", await bodies.relationship(r, who));
    await make("/v1/purposes", "purpose", await bodies.purpose(r, who));
    await make("/v1/targets", "target", await bodies.target(r, who));
    theirs["tenant"] = { foreign: OTHER_TENANT, unknown: `ten_${"7".repeat(32)}` };
  });
  afterAll(async () => {
    await r[Symbol.asyncDispose]();
  });

  describe("another tenant's id answers byte for byte as an id that nobody has (invariant 10)", () => {
    test("on every endpoint that takes one", async () => {
      const tried: string[] = [];
      for (const { method, path, allow } of r.endpoints) {
        const parameter = /\{([a-z_]+)_id\}/.exec(path)?.[1];
        if (parameter === undefined || path.startsWith("/v1/tenants")) continue;
        const { foreign, unknown } = theirs[parameter] ?? { foreign: "", unknown: "" };
        const verb = method.toUpperCase();
        const short = `${verb} ${path.slice("/v1/".length).replace(/\/\{[a-z_]+\}/, "")}`;
        const body = acceptable[short];
        const who = `${(allow as readonly string[])[0]}`;
        const [one, other] = await Promise.all(
          [foreign, unknown].map((id) =>
            r.ask(who, verb, path.replace(/\{[a-z_]+\}/, id), {
              requestId: "same-for-both",
              ifMatch: '"1"',
              ...(body === undefined ? {} : { body }),
            }),
          ),
        );
        expect([short, one?.status]).toEqual([short, 404]);
        expect(one?.everything).toBe(other?.everything);
        tried.push(short);
      }
      expect(tried.length).toBeGreaterThan(30);
      // An endpoint that the loop could not have reached with a well-formed body would hide behind its 400.
      expect(tried.filter((short) => short.startsWith("PATCH")).sort()).toEqual(
        Object.keys(acceptable)
          .filter((short) => short.startsWith("PATCH"))
          .sort(),
      );
    });

    test("in every place where a body refers to something", async () => {
      const [ownerId, agentId, resourceId] = [await anOwner(r), await anAgent(r), await aResource(r)];
      const agent = { ...(await bodies.agent(r)), owner_id: ownerId };
      const purpose = { ...(await bodies.purpose(r)), agent_id: agentId };
      const identity = { ...(await bodies.identity(r)), agent_id: agentId };
      const relationship = { ...(await bodies.relationship(r)), subject: agentId };
      const resource = { ...(await bodies.resource(r)), owner_id: ownerId };
      const target = { ...(await bodies.target(r)), owner_id: ownerId };
      const at = (id: string) => ({ resource: id, access: { read: {} } });
      const ids = (word: string) => theirs[word] ?? { foreign: "", unknown: "" };
      const places: [string, string, string, (id: string) => object, string][] = [
        ["POST", "/v1/owners", "team", (id) => ({ kind: "team", name: fresh("o"), team_id: id }), "/team_id"],
        ["POST", "/v1/agents", "owner", (id) => ({ ...agent, owner_id: id }), "/owner_id"],
        ["PATCH", `/v1/agents/${agentId}`, "owner", (id) => ({ owner_id: id }), "/owner_id"],
        ["POST", "/v1/resources", "owner", (id) => ({ ...resource, owner_id: id }), "/owner_id"],
        ["PATCH", `/v1/resources/${resourceId}`, "owner", (id) => ({ owner_id: id }), "/owner_id"],
        ["POST", "/v1/identities", "trust_source", (id) => ({ ...identity, trust_source_id: id }), "/trust_source_id"],
        ["POST", "/v1/identities", "agent", (id) => ({ ...identity, agent_id: id }), "/agent_id"],
        ["POST", "/v1/purposes", "agent", (id) => ({ ...purpose, agent_id: id }), "/agent_id"],
        ["POST", "/v1/purposes", "owner", (id) => ({ ...purpose, reviewer_id: id }), "/reviewer_id"],
        [
          "POST",
          "/v1/purposes",
          "resource",
          (id) => ({ ...purpose, resource_ids: [resourceId, id] }),
          "/resource_ids/1",
        ],
        ["POST", "/v1/targets", "owner", (id) => ({ ...target, owner_id: id }), "/owner_id"],
        [
          "POST",
          "/v1/targets",
          "resource",
          (id) => ({ ...target, resources: [at(resourceId), at(id)] }),
          "/resources/1/resource",
        ],
        ...["team", "owner", "agent", "resource", "target", "purpose"].flatMap((word) =>
          (["subject", "object"] as const).map((member): [string, string, string, (id: string) => object, string] => [
            "POST",
            "/v1/relationships",
            word,
            (id) => ({ ...relationship, [member]: id }),
            `/${member}`,
          ]),
        ),
      ];
      for (const [method, path, word, body, pointer] of places) {
        const [one, other] = await Promise.all(
          [ids(word).foreign, ids(word).unknown].map((id) =>
            r.ask("admin", method, path, { body: body(id), ifMatch: '"1"', requestId: "same-for-both" }),
          ),
        );
        expect([path, word, one?.status, one?.json.errors?.[0]?.pointer]).toEqual([path, word, 400, pointer]);
        expect(one?.everything).toBe(other?.everything);
      }
    });

    test("by name, too: another tenant's resource is no resource of a target", async () => {
      const name = fresh("theirs");
      await aResource(r, { name }, "admin@other");
      const body = { ...(await bodies.target(r)), resources: [{ resource: name, access: { read: {} } }] };
      const foreign = await r.ask("admin", "POST", "/v1/targets", { body, requestId: "same-for-both" });
      const unknown = await r.ask("admin", "POST", "/v1/targets", {
        body: { ...body, resources: [{ resource: "nobody-has-it", access: { read: {} } }] },
        requestId: "same-for-both",
      });
      expect(foreign.status).toBe(400);
      expect(foreign.everything).toBe(unknown.everything);
    });
  });

  test("a list shows one tenant's things and nothing else", async () => {
    for (const { method, path } of r.endpoints) {
      if (method !== "get" || path.includes("{") || path === "/v1/tenants") continue;
      const { json } = await r.ask("admin", "GET", `${path}?page_size=200`);
      const there = Object.values(theirs).map(({ foreign }) => foreign);
      expect(json.items.filter((item: { id: string }) => there.includes(item.id))).toEqual([]);
    }
  });

  test("a page token of one tenant opens nothing in another", async () => {
    for (let n = 0; n < 2; n += 1) await r.make("/v1/teams", await bodies.team());
    const { json } = await r.ask("admin", "GET", "/v1/teams?page_size=1");
    const path = `/v1/teams?page_size=1&page_token=${json.next_page_token}`;
    expect((await r.ask("admin", "GET", path)).status).toBe(200);
    expect((await r.ask("admin@other", "GET", path)).status).toBe(400);
  });

  test("the tenant of the operators has no agents and no targets", async () => {
    const who = "admin@system";
    const owner_id = await anOwner(r, {}, who);
    const agent = { kind: "agent", name: fresh("agent"), owner_id, environment: "staging" };
    expect((await r.ask(who, "POST", "/v1/agents", { body: agent })).status).toBe(403);
    const resource = await aResource(r, { owner_id }, who);
    const body = {
      name: fresh("api"),
      issuer: "jwt",
      owner_id,
      config: { audience: "https://x.example.com" },
      max_ttl_seconds: 60,
      resources: [{ resource, access: { read: {} } }],
    };
    expect((await r.ask(who, "POST", "/v1/targets", { body })).status).toBe(403);
  });
});
