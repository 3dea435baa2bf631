import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { aCredential, fresh, stateOf } from "./builders.ts";
import { DEFAULT_TENANT, type Registry, registry } from "./harness.ts";

let r: Registry;
let failing = false;
beforeAll(async () => {
  r = await registry({
    onTenantCreated: async (tx, { id }) => {
      if (failing) throw new Error("the hook failed");
      await tx
        .insertInto("policy_sets")
        .values({
          tenant_id: id,
          id: newId("policySet"),
          policy_version: 1,
          text: "",
          text_hash: "",
          active: true,
          published_by: "test",
        })
        .execute();
    },
  });
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const OPERATOR = "operator@system/op";
const make = (name: string, who = OPERATOR) =>
  r.ask(who, "POST", "/v1/tenants", { body: { name, display_name: "A tenant" } });

describe("tenants", () => {
  test("begin with what the hook gives them, and their audit with their creation", async () => {
    const name = fresh("acme");
    const got = await make(name);
    expect(got.status).toBe(201);
    expect(got.json).toMatchObject({
      name,
      display_name: "A tenant",
      state: "active",
      issuer: `https://mayfly.test/t/${name}`,
      version: 1,
    });
    expect(got.location).toBe(`/v1/tenants/${got.json.id}`);
    const read = await r.ask(OPERATOR, "GET", got.location ?? "");
    expect([read.json, read.etag]).toEqual([got.json, '"1"']);
    const events = await r.sql("select type, actor from audit_events where tenant_id = $1 order by recorded_at, id", [
      got.json.id,
    ]);
    expect(events).toEqual([
      { type: "tenant.created", actor: "op" },
      { type: "policy_set.created", actor: "op" },
    ]);
  });

  test("are made whole or not at all", async () => {
    const name = fresh("acme");
    failing = true;
    const got = await make(name);
    failing = false;
    expect([got.status, got.json.code]).toEqual([500, "internal"]);
    expect(await r.sql("select from tenants where name = $1", [name])).toEqual([]);
  });

  test("a name is used once, and never a reserved one", async () => {
    const name = fresh("acme");
    await make(name);
    const again = await make(name);
    expect([again.status, again.json.errors[0].pointer]).toEqual([409, "/name"]);
    for (const bad of [
      "system",
      "default",
      "mayfly",
      "admin",
      "Acme",
      "a_b",
      "-a",
      "",
      "a".repeat(64),
      "t\u0435st",
      "a/b",
      "mayfly-x",
    ])
      expect([bad, (await make(bad)).status]).toEqual([bad, 400]);
  });

  test("are the business of operators in the system tenant, and of nobody else", async () => {
    const { json } = await make(fresh("acme"));
    for (const who of ["admin@system", "auditor@system", "operator@default", "operator+admin@other"]) {
      const tried = [
        await make(fresh("no"), who),
        await r.ask(who, "GET", "/v1/tenants"),
        await r.ask(who, "GET", `/v1/tenants/${json.id}`),
        await r.ask(who, "PATCH", `/v1/tenants/${json.id}`, { body: { display_name: "x" }, ifMatch: '"1"' }),
        await r.ask(who, "POST", `/v1/tenants/${json.id}/state`, { body: { state: "suspended" } }),
      ];
      expect([who, tried.map(({ status }) => status)]).toEqual([who, [403, 403, 403, 403, 403]]);
    }
    expect(await stateOf(r, "tenants", json.id)).toBe("active");
  });

  test("an operator sees nothing inside them", async () => {
    for (const { method, path, allow } of r.endpoints) {
      if (path.startsWith("/v1/tenants")) continue;
      expect([method, path, (allow as readonly string[]).includes("operator")]).toEqual([method, path, false]);
    }
  });

  test("are called what they are called under the ETag, and keep their names", async () => {
    const { json } = await make(fresh("acme"));
    const at = `/v1/tenants/${json.id}`;
    const patch = (body: object, ifMatch?: string) => r.ask(OPERATOR, "PATCH", at, { body, ifMatch });
    expect((await patch({ display_name: "B" })).status).toBe(428);
    expect((await patch({ display_name: "B" }, '"9"')).status).toBe(412);
    expect((await patch({ name: "b" }, '"1"')).status).toBe(400);
    expect((await patch({ display_name: "Zo\u0065\u0308" }, '"1"')).json).toMatchObject({
      display_name: "Zo\u00eb",
      version: 2,
    });
    const never = `/v1/tenants/ten_${"7".repeat(32)}`;
    expect((await r.ask(OPERATOR, "PATCH", never, { body: { display_name: "B" }, ifMatch: '"1"' })).status).toBe(404);
    expect((await r.ask(OPERATOR, "POST", `${never}/state`, { body: { state: "suspended" } })).status).toBe(404);
    expect((await r.ask(OPERATOR, "DELETE", at, { ifMatch: '"2"' })).status).toBe(405);
  });

  test("are listed page by page", async () => {
    await make(fresh("acme"));
    const seen: string[] = [];
    let token = "";
    do {
      const { json } = await r.ask(OPERATOR, "GET", `/v1/tenants?page_size=2&page_token=${token}`);
      seen.push(...json.items.map((item: { id: string }) => item.id));
      token = json.next_page_token;
    } while (token !== "");
    expect(seen).toEqual(
      (await r.sql<{ id: string }>('select id from tenants order by id collate "C"')).map(({ id }) => id),
    );
    expect(seen).toEqual(expect.arrayContaining([SYSTEM_TENANT, DEFAULT_TENANT]));
  });

  test("suspending one takes back everything in it and nothing outside, and letting it in again brings nothing back", async () => {
    const { json } = await make(fresh("acme"));
    const [theirs, ours] = [await aCredential(r, { tenantId: json.id }), await aCredential(r, {})];
    const state = (to: string) => r.ask(OPERATOR, "POST", `/v1/tenants/${json.id}/state`, { body: { state: to } });
    expect((await state("suspended")).json).toMatchObject({ state: "suspended", version: 2 });
    expect((await state("suspended")).json.version).toBe(2);
    expect((await state("active")).json).toMatchObject({ state: "active", version: 3 });
    expect(await stateOf(r, "credentials", theirs)).toBe("revoking");
    expect(await stateOf(r, "credentials", ours)).toBe("active");
    const events = await r.sql("select type from audit_events where tenant_id = $1 order by recorded_at, id", [
      json.id,
    ]);
    expect(events.map(({ type }) => type)).toEqual(
      ["tenant.created", "policy_set.created", "tenant.updated", "credential.revoking", "tenant.updated"].toSpliced(
        2,
        0,
        "credential.issued",
      ),
    );
  });

  test("the operators' own is never suspended", async () => {
    const got = await r.ask(OPERATOR, "POST", `/v1/tenants/${SYSTEM_TENANT}/state`, { body: { state: "suspended" } });
    expect(got.status).toBe(409);
  });
});
