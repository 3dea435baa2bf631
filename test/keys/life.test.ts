import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { calculateJwkThumbprint } from "jose";
import { sql } from "kysely";
import { sqlState } from "../../src/db/database.ts";
import { keyPurposeNames } from "../../src/keys/key-purpose.ts";
import { keySetOf } from "../../src/keys/key-set.ts";
import { ensureKeys, makeKey } from "../../src/keys/make-key.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { aPair, type Pair } from "./harness.ts";

let pair: Pair;
beforeAll(async () => {
  pair = await aPair();
});
afterAll(async () => {
  await pair[Symbol.asyncDispose]();
});

const states = ["pending", "active", "retiring", "gone", "compromised"] as const;
type State = (typeof states)[number];

/** What a row in each state has, so that only the way there can be wrong. */
const columns: Readonly<Record<State, string>> = {
  pending: "activated_at = null, retired_at = null, published_until = null, ended_at = null, reason = null",
  active: "activated_at = now(), retired_at = null, published_until = null, ended_at = null, reason = null",
  retiring:
    "private_sealed = null, retired_at = now(), published_until = now() - interval '1 s', ended_at = null, reason = null",
  gone: "private_sealed = null, ended_at = now(), reason = null",
  compromised: "private_sealed = null, ended_at = now(), reason = 'why'",
};

async function aTenant(): Promise<{ readonly id: Id<"tenant">; readonly name: string }> {
  const id = newId("tenant");
  await pair.app.broker.db.withTenant({ tenantId: id, actor: "test" }, (tx) =>
    tx
      .insertInto("tenants")
      .values({ id, name: id.slice(4), display_name: "T" })
      .execute(),
  );
  return { id, name: id.slice(4) };
}

/** As the runtime role, in this tenant. Answers the SQLSTATE, or how many rows it met. */
async function run(tenantId: string, statement: string): Promise<string | number> {
  try {
    return await pair.app.broker.db.withTenant({ tenantId, actor: "test" }, async (tx) =>
      Number((await sql.raw(statement).execute(tx)).numAffectedRows ?? 0),
    );
  } catch (error) {
    return sqlState(error) ?? String(error);
  }
}

async function aKeyIn(state: State): Promise<{ readonly tenantId: Id<"tenant">; readonly kid: string }> {
  const { id: tenantId } = await aTenant();
  const { db, keySealer } = pair.app.broker;
  await db.withTenant({ tenantId, actor: "test" }, (tx) => makeKey(tx, keySealer, tenantId, "status_list", "pending"));
  const [{ kid }] = (await pair.sql("select kid from mayfly.signing_keys where tenant_id = $1", [tenantId])) as [
    { kid: string },
  ];
  await pair.sql(`begin; set local session_replication_role = replica;
    update mayfly.signing_keys set state = '${state}', ${columns[state]},
      created_at = now() - interval '400 s' where kid = '${kid}'; commit;`);
  return { tenantId, kid };
}

describe("the life of a key is one way, whoever writes", () => {
  const legal = new Set(["pending active", "active retiring", "retiring gone"]);
  for (const state of states) if (state !== "compromised") legal.add(`${state} compromised`);

  test.each(states.flatMap((from) => states.filter((to) => to !== from).map((to) => [from, to] as const)))(
    "%s to %s",
    async (from, to) => {
      const { tenantId, kid } = await aKeyIn(from);
      // A private part that was erased is not there to be put back; something in its place must not help.
      const sealed = to === "pending" || to === "active" ? ", private_sealed = coalesce(private_sealed, 'x')" : "";
      const outcome = await run(
        tenantId,
        `update signing_keys set state = '${to}', ${columns[to]}${sealed} where kid = '${kid}'`,
      );
      expect(outcome).toBe(legal.has(`${from} ${to}`) ? 1 : "MF001");
      const told = await pair.sql("select type, subject_id, data from mayfly.audit_events where subject_id = $1", [
        kid,
      ]);
      const [first, second] = told.toSorted((a, b) =>
        a.data.from === undefined ? -1 : b.data.from === undefined ? 1 : 0,
      );
      expect(first).toMatchObject({ type: "signing_key.pending", data: { purpose: "status_list" } });
      if (legal.has(`${from} ${to}`)) expect(second).toMatchObject({ type: `signing_key.${to}`, data: { from } });
      expect(told).toHaveLength(legal.has(`${from} ${to}`) ? 2 : 1);
      expect(JSON.stringify(told)).not.toContain("sealed");
    },
  );

  test.each(["retiring", "gone", "compromised"] as const)("none begins as %s", async (state) => {
    const { tenantId, kid } = await aKeyIn("gone");
    const fields = "tenant_id, purpose, algorithm, activated_at, retired_at, published_until, ended_at, reason";
    const other = "A".repeat(43);
    expect(
      await run(
        tenantId,
        `insert into signing_keys (${fields}, kid, public_jwk, state, private_sealed)
         select ${fields}, '${other}', public_jwk || '{"kid": "${other}"}', '${state}', null from signing_keys where kid = '${kid}'`,
      ),
    ).toBe("MF001");
  });

  test.each<[string, State, string, string]>([
    ["signs before everybody can know it", "pending", "created_at = created_at", "MF001"],
    ["changes what it is", "active", `purpose = 'access_token'`, "MF001"],
    ["changes its public part", "active", `public_jwk = public_jwk || '{"x": "y"}'`, "MF001"],
    ["publishes a private member", "active", `public_jwk = public_jwk || '{"d": "y"}'`, "MF001"],
    ["changes when it is compromised", "compromised", "reason = 'another'", "MF001"],
    ["loses its private part while it signs", "active", "private_sealed = null", "23514"],
    ["keeps its private part when it signs no more", "retiring", "private_sealed = 'x'", "23514"],
  ])("none %s", async (_what, state, change, expected) => {
    const { tenantId, kid } = await aKeyIn(state);
    const early = change === "created_at = created_at";
    if (early)
      await pair.sql(`begin; set local session_replication_role = replica;
      update mayfly.signing_keys set created_at = now() - interval '290 s' where kid = '${kid}'; commit;`);
    const set = early ? `state = 'active', activated_at = now()` : change;
    expect(await run(tenantId, `update signing_keys set ${set} where kid = '${kid}'`)).toBe(expected);
  });

  test("none goes while something that it signed may live", async () => {
    const { tenantId, kid } = await aKeyIn("retiring");
    expect(await run(tenantId, "update signing_keys set published_until = now() + interval '1 minute'")).toBe(1);
    expect(await run(tenantId, `update signing_keys set state = 'gone', ended_at = now() where kid = '${kid}'`)).toBe(
      "MF001",
    );
  });

  test("none is published with a private member, and none is deleted, so that no kid comes back", async () => {
    const { tenantId, kid } = await aKeyIn("gone");
    for (const member of ["d", "p", "q", "k"])
      expect(
        await run(
          tenantId,
          `insert into signing_keys (tenant_id, purpose, algorithm, kid, public_jwk, state, private_sealed)
           select tenant_id, purpose, algorithm, reverse(kid), public_jwk || jsonb_build_object('kid', reverse(kid), '${member}', 'x'),
             'pending', 'x' from signing_keys where kid = '${kid}'`,
        ),
      ).toBe("23514");
    expect(await run(tenantId, "delete from signing_keys")).toBe("42501");
    expect(
      await run(
        tenantId,
        `insert into signing_keys (tenant_id, purpose, algorithm, kid, public_jwk, state, private_sealed)
         select tenant_id, purpose, algorithm, kid, public_jwk, 'pending', 'x' from signing_keys where kid = '${kid}'`,
      ),
    ).toBe("23505");
  });

  test("a purpose has one active key and one next key", async () => {
    const { id: tenantId } = await aTenant();
    await ensureKeys(pair.app.broker, tenantId);
    const { db, keySealer } = pair.app.broker;
    for (const state of ["active", "pending", "pending"] as const)
      await db.withTenant({ tenantId, actor: "test" }, (tx) => makeKey(tx, keySealer, tenantId, "access_token", state));
    const rows = await pair.sql(
      "select state, count(*)::int as n from mayfly.signing_keys where tenant_id = $1 and purpose = 'access_token' group by 1 order by 1",
      [tenantId],
    );
    expect(rows).toEqual([
      { state: "active", n: 1 },
      { state: "pending", n: 1 },
    ]);
  });
});

describe("the key set", () => {
  const get = (headers: Record<string, string> = {}, name = "default") =>
    pair.app.call(null, "GET", `/t/${name}/.well-known/jwks.json`, undefined, headers);

  test("holds public members alone, and every kid is the thumbprint of its key (RFC 7638)", async () => {
    await pair.app.call(pair.admin, "POST", "/v1/signing-keys/rotate", { purpose: "access_token" });
    const { text, body } = await get();
    expect(body.keys).toHaveLength(keyPurposeNames.length + 1);
    for (const key of body.keys) {
      expect(Object.keys(key).toSorted()).toEqual(["alg", "crv", "kid", "kty", "use", "x", "y"]);
      expect([key.alg, key.crv, key.kty, key.use]).toEqual(["ES256", "P-256", "EC", "sig"]);
      expect(await calculateJwkThumbprint(key)).toBe(key.kid);
    }
    // The bytes too, whatever a parser makes of them.
    for (const member of ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]) expect(text).not.toContain(`"${member}"`);
    for (const word of ["oct", "PRIVATE", "sealed"]) expect(text).not.toContain(word);
  });

  test("may be kept for five minutes, and is not sent again to who has it", async () => {
    const first = await get();
    expect([first.status, first.headers.get("cache-control"), first.headers.get("content-type")]).toEqual([
      200,
      "public, max-age=300",
      "application/jwk-set+json",
    ]);
    const etag = first.headers.get("etag") ?? "";
    const again = await get({ "if-none-match": etag });
    expect([again.status, again.text, again.headers.get("etag"), again.headers.get("cache-control")]).toEqual([
      304,
      "",
      etag,
      "public, max-age=300",
    ]);
    await pair.compromise(pair.app, await pair.activeKid("introspection"));
    const changed = await pair.other.call(null, "GET", "/t/default/.well-known/jwks.json", undefined, {
      "if-none-match": etag,
    });
    expect(changed.status).toBe(200);
    expect(changed.headers.get("etag")).not.toBe(etag);
  });

  test("is complete when it is answered first: no key comes to it that signs at once", async () => {
    const { name } = await aTenant();
    const [first, second] = await Promise.all([get({}, name), keySetOf(pair.other.broker, name)]);
    expect(first.body.keys).toHaveLength(keyPurposeNames.length);
    expect(second?.keys).toEqual(first.body.keys);
  });

  test("of nobody is not found", async () => {
    expect((await get({}, "nobody-here")).status).toBe(404);
  });
});

describe("the admin's endpoints", () => {
  test("list every key with its state and times, in pages, and never a private part", async () => {
    const rows = await pair.sql("select kid, state from mayfly.signing_keys where tenant_id = $1", [pair.s.tenantId]);
    const found: { kid: string; state: string }[] = [];
    for (let token = ""; ; ) {
      const page = await pair.app.call(pair.admin, "GET", `/v1/signing-keys?page_size=2&page_token=${token}`);
      expect(page.status).toBe(200);
      expect(page.text).not.toMatch(/private|sealed|"d"|public_jwk/);
      found.push(...page.body.items);
      token = page.body.next_page_token;
      if (token === "") break;
    }
    const plain = ({ kid, state }: { kid: string; state: string }) => `${kid} ${state}`;
    expect(found.map(plain).toSorted()).toEqual(rows.map(plain).toSorted());
    const active = await pair.app.call(pair.admin, "GET", "/v1/signing-keys?state=active&purpose=admin_token");
    expect(active.body.items).toEqual([
      expect.objectContaining({ kid: await pair.activeKid("admin_token"), purpose: "admin_token", state: "active" }),
    ]);
  });

  test("rotate when everybody can know the next key, and say when that is", async () => {
    const rotate = () => pair.other.call(pair.admin, "POST", "/v1/signing-keys/rotate", { purpose: "admin_token" });
    const before = await pair.activeKid("admin_token");
    const [one, two] = [await rotate(), await rotate()];
    expect([one.status, two.status]).toEqual([202, 202]);
    expect(one.body).toEqual(two.body);
    const { key } = one.body;
    expect(Date.parse(one.body.ready_at) - Date.parse(key.published_at)).toBe(360_000);
    expect(await pair.published(pair.app)).toContain(key.kid);
    await pair.passTime(359);
    expect((await rotate()).status).toBe(202);
    expect(await pair.activeKid("admin_token")).toBe(before);
    await pair.passTime(1);
    const done = await rotate();
    expect([done.status, done.body.key.kid, done.body.key.state]).toEqual([200, key.kid, "active"]);
    expect(await pair.activeKid("admin_token")).toBe(key.kid);
    expect((await rotate()).status).toBe(202);
  });

  test("are the admin's; an auditor may look", async () => {
    const kid = await pair.activeKid("access_token");
    const asks: [string, string, object | undefined][] = [
      ["GET", "/v1/signing-keys", undefined],
      ["POST", "/v1/signing-keys/rotate", { purpose: "access_token" }],
      ["POST", `/v1/signing-keys/${kid}/compromised`, { reason: "x" }],
    ];
    for (const [sub, allowed] of [
      ["auditor", 1],
      ["orchestrator", 0],
      ["approver", 0],
      [pair.s.agentSub, 0],
    ] as const)
      for (const [index, [method, path, body]] of asks.entries()) {
        const answer = await pair.app.call(await pair.app.token({ sub }), method, path, body);
        expect([sub, path, answer.status]).toEqual([sub, path, index < allowed ? 200 : 403]);
      }
    expect(await pair.activeKid("access_token")).toBe(kid);
  });

  test.each<[string, string, unknown, number]>([
    ["no reason", "compromised", {}, 400],
    ["an empty reason", "compromised", { reason: "" }, 400],
    ["a member too many", "compromised", { reason: "x", kid: "y" }, 400],
    ["a purpose that is none", "rotate", { purpose: "everything" }, 400],
    ["no purpose", "rotate", {}, 400],
  ])("refuse %s", async (_what, action, body, status) => {
    const path = action === "rotate" ? "rotate" : `${await pair.activeKid("access_token")}/compromised`;
    expect((await pair.app.call(pair.admin, "POST", `/v1/signing-keys/${path}`, body)).status).toBe(status);
  });
});

describe("invariant 10: the keys of another tenant", () => {
  test("are not seen, not listed and not touched, and their kids are unknown", async () => {
    const { id: theirs } = await aTenant();
    await ensureKeys(pair.app.broker, theirs);
    const [key] = await pair.sql(
      "select kid from mayfly.signing_keys where tenant_id = $1 and purpose = 'access_token'",
      [theirs],
    );
    const answers = await Promise.all([key.kid, "A".repeat(43)].map((kid) => pair.compromise(pair.app, kid)));
    const told = answers.map(({ status, body }) => ({ status, body: { ...body, instance: "of the request" } }));
    expect(told[0]).toEqual(told[1]);
    expect(told[0]?.status).toBe(404);
    const list = await pair.app.call(pair.admin, "GET", "/v1/signing-keys?page_size=200");
    expect(list.text).not.toContain(key.kid);
    expect(await pair.published(pair.app)).not.toContain(key.kid);

    expect(await run(pair.s.tenantId, `update signing_keys set version = 9 where kid = '${key.kid}'`)).toBe(0);
    expect(await run("", "update signing_keys set version = 9")).toBe(0);
    const rows = await pair.sql("select state, version from mayfly.signing_keys where tenant_id = $1", [theirs]);
    expect(rows).toEqual(keyPurposeNames.map(() => ({ state: "active", version: 1 })));
  });
});
