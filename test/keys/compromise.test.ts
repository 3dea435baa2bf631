import { createPrivateKey } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, type JWTPayload, jwtVerify, SignJWT } from "jose";
import { signAdminToken } from "../../src/identity/admin-token.ts";
import { type KeyPurpose, keyPurposes } from "../../src/keys/key-purpose.ts";
import type { Answer, App } from "../support/app.ts";
import { until } from "../support/until.ts";
import { aPair, type Pair } from "./harness.ts";

let pair: Pair;
beforeAll(async () => {
  pair = await aPair();
});
afterAll(async () => {
  await pair[Symbol.asyncDispose]();
});

const kidOf = (token: string): string => decodeProtectedHeader(token).kid ?? "";
const tokenOf = (answer: Answer): string => answer.body.secret.access_token;

/** The active private key of a purpose, as a thief has it. */
async function stolen(purpose: KeyPurpose) {
  const kid = await pair.activeKid(purpose);
  const [row] = await pair.sql("select private_sealed from mayfly.signing_keys where kid = $1", [kid]);
  const key = createPrivateKey(pair.app.broker.keySealer.open(row.private_sealed, `${pair.s.tenantId}/${kid}`));
  return {
    kid,
    forge: (claims: JWTPayload) =>
      new SignJWT(claims).setProtectedHeader({ alg: "ES256", typ: keyPurposes[purpose].typ, kid }).sign(key),
  };
}

async function liveSignedBy(kid: string): Promise<number> {
  const [row] = await pair.sql(
    "select count(*)::int as n from mayfly.credentials where signing_kid = $1 and due_at is not null",
    [kid],
  );
  return row.n;
}

describe("from the commit that says that a key is compromised", () => {
  test("with hundreds of mints in flight on two APIs: nothing that it signed is alive, and it signs nothing", async () => {
    let before = 0;
    let after = 0;
    let inFlight = 0;
    for (let round = 0; round < 4; round += 1) {
      const kid = await pair.activeKid("access_token");
      const warm = await Promise.all(pair.both.map((at) => pair.mint(at)));
      expect(warm.map((answer) => kidOf(tokenOf(answer)))).toEqual([kid, kid]);

      let answered = 0;
      const flying = Array.from({ length: 240 }, async (_, n) => {
        const answer = await pair.mint(pair.both[n % 2] ?? pair.app);
        answered += 1;
        return answer;
      });
      // Some have been signed by then, and most have not.
      await until("the first of them are answered", () => answered > 10 * round);
      inFlight += flying.length - answered;
      const marked = await pair.compromise(pair.both[round % 2] ?? pair.app, kid);
      expect(marked.status).toBe(200);

      // At once, at every replica.
      expect(await liveSignedBy(kid)).toBe(0);
      for (const at of pair.both) expect(await pair.published(at)).not.toContain(kid);
      const later = await Promise.all(Array.from({ length: 8 }, (_, n) => pair.mint(pair.both[n % 2] ?? pair.app)));
      for (const answer of later) expect(kidOf(tokenOf(answer))).toBe(marked.body.active_kid);

      const judge = async (answer: Answer): Promise<void> => {
        expect(answer.status).toBe(201);
        const token = tokenOf(answer);
        const dead = kidOf(token) === kid;
        if (dead) before += 1;
        else after += 1;
        for (const at of pair.both)
          expect([dead, (await pair.introspect(at, token)).body.active]).toEqual([dead, !dead]);
      };
      await Promise.all([...warm, ...(await Promise.all(flying)), ...later].map(judge));
      expect(await liveSignedBy(kid)).toBe(0);

      const [row] = await pair.sql("select * from mayfly.signing_keys where kid = $1", [kid]);
      expect(row).toMatchObject({ state: "compromised", private_sealed: null, reason: "found in a log" });
      const reasons = await pair.sql(
        "select distinct state, state_reason from mayfly.credentials where signing_kid = $1",
        [kid],
      );
      expect(reasons).toEqual([{ state: "revoked", state_reason: "key_compromised" }]);
    }
    // A race that one side always wins proves nothing.
    expect(inFlight).toBeGreaterThan(400);
    expect(before).toBeGreaterThan(20);
    expect(after).toBeGreaterThan(20);
  }, 600_000);

  test("a mint that has passed the gate before is taken back, whenever its token is signed", async () => {
    const kid = await pair.activeKid("access_token");
    const held = await pair.holding("select from mayfly.task_meters where task_id = $1 for update", [pair.taskId]);
    const minting = pair.mint(pair.app);
    await pair.waiting("mint_commit");
    const marking = pair.compromise(pair.other, kid);
    await pair.waiting("pg_advisory_xact_lock(mayfly.gate");
    await held.letGo();
    const [minted, marked] = await Promise.all([minting, marking]);
    expect([minted.status, kidOf(tokenOf(minted))]).toEqual([201, kid]);
    expect(marked.body.taken_back).toBeGreaterThanOrEqual(1);
    for (const at of pair.both) expect((await pair.introspect(at, tokenOf(minted))).body).toEqual({ active: false });
  });

  test("a mint that waits at the gate with the key in its hand is signed by the next one", async () => {
    const kid = await pair.activeKid("access_token");
    for (const at of pair.both) expect(kidOf(tokenOf(await pair.mint(at)))).toBe(kid);
    const held = await pair.holding("select pg_advisory_xact_lock(mayfly.gate($1))", [pair.s.tenantId]);
    const marking = pair.compromise(pair.other, kid);
    await pair.waiting("pg_advisory_xact_lock(mayfly.gate");
    const minting = [pair.mint(pair.app), pair.mint(pair.other)];
    await pair.waiting("mint_commit", 2);
    await held.letGo();
    const { body } = await marking;
    for (const minted of await Promise.all(minting)) {
      expect([minted.status, kidOf(tokenOf(minted))]).toEqual([201, body.active_kid]);
      for (const at of pair.both) expect((await pair.introspect(at, tokenOf(minted))).body.active).toBe(true);
    }
    expect(await liveSignedBy(kid)).toBe(0);
  });

  test("what a thief signs in the name of a credential that lives is nothing, at every replica", async () => {
    const thief = await stolen("access_token");
    const real = tokenOf(await pair.mint(pair.app));
    // Before: nobody can tell. That is what the endpoint is for.
    for (const at of pair.both)
      expect((await pair.introspect(at, await thief.forge({ ...decodeJwt(real), scope: "all" }))).body).toMatchObject({
        active: true,
        scope: "all",
      });
    await pair.compromise(pair.app, thief.kid);
    const living = tokenOf(await pair.mint(pair.other));
    const forged = await thief.forge({ ...decodeJwt(living), scope: "all" });
    for (const at of [...pair.both, ...pair.both]) {
      expect((await pair.introspect(at, forged)).body).toEqual({ active: false });
      expect((await pair.introspect(at, living)).body).toMatchObject({ active: true });
    }
    // Nor does it take anything back.
    for (const at of pair.both)
      expect(
        (
          await at.call(pair.admin, "POST", "/oauth/revoke", new URLSearchParams({ token: forged }).toString(), {
            "content-type": "application/x-www-form-urlencoded",
          })
        ).status,
      ).toBe(200);
    expect((await pair.introspect(pair.app, living)).body).toMatchObject({ active: true });
  });

  test("a forged token that a replica has verified before is not remembered", async () => {
    const thief = await stolen("access_token");
    const real = tokenOf(await pair.mint(pair.app));
    const forged = await thief.forge(decodeJwt(real));
    for (const at of pair.both) expect((await pair.introspect(at, forged)).body.active).toBe(true);
    await pair.compromise(pair.other, thief.kid);
    // As if somebody had given the credential its life back: the signature alone must be enough to refuse it.
    await pair.sql("alter table mayfly.credentials disable trigger user");
    await pair.sql(
      "update mayfly.credentials set state = 'active', due_at = expires_at, ended_at = null where id = $1",
      [decodeJwt(real).jti],
    );
    await pair.sql("alter table mayfly.credentials enable trigger user");
    for (const at of pair.both) expect((await pair.introspect(at, forged)).body).toEqual({ active: false });
  });

  test("admin tokens of that key, which no row stands behind, are refused at every replica that has taken them", async () => {
    const { broker } = pair.app;
    const tenant = { id: pair.s.tenantId, issuer: broker.issuerUrl("default") };
    const sign = () => signAdminToken(broker.keys, tenant, "root", ["admin"], Date.now());
    const list = (at: App, token: string) => at.call(token, "GET", "/v1/signing-keys");
    const thief = await stolen("admin_token");
    const [token, forged] = [await sign(), await thief.forge(decodeJwt(await sign()))];
    for (const at of pair.both) for (const one of [token, forged]) expect((await list(at, one)).status).toBe(200);

    // With the very token that dies by it.
    const marked = await pair.app.call(token, "POST", `/v1/signing-keys/${thief.kid}/compromised`, { reason: "lost" });
    expect(marked.status).toBe(200);
    for (const at of [pair.other, pair.app])
      for (const one of [token, forged]) {
        const refused = await list(at, one);
        expect([refused.status, refused.body.reasons[0].code]).toEqual([401, "token_signature_invalid"]);
      }
    const next = await sign();
    expect(kidOf(next)).toBe(marked.body.active_kid);
    for (const at of pair.both) expect((await list(at, next)).status).toBe(200);
  });

  test.each<[KeyPurpose, (at: App) => Promise<string>]>([
    [
      "introspection",
      async (at) => {
        const answer = await at.call(pair.admin, "POST", "/oauth/introspect", "token=x", {
          "content-type": "application/x-www-form-urlencoded",
          accept: "application/token-introspection+jwt",
        });
        return answer.text;
      },
    ],
    [
      "status_list",
      async (at) => (await at.broker.keys.signer(pair.s.tenantId, "status_list")).sign("statuslist+jwt", { iat: 1 }),
    ],
  ])("no process signs with it: %s", async (purpose, ask) => {
    const kid = await pair.activeKid(purpose);
    for (const at of pair.both) expect(kidOf(await ask(at))).toBe(kid);
    const { body } = await pair.compromise(pair.app, kid);
    for (const at of pair.both) {
      const token = await ask(at);
      expect(kidOf(token)).toBe(body.active_kid);
      const { body: set } = await at.call(null, "GET", "/t/default/.well-known/jwks.json");
      await jwtVerify(token, createLocalJWKSet(set));
    }
  });

  test("the next key, which lay beside it, never signs", async () => {
    await pair.app.call(pair.admin, "POST", "/v1/signing-keys/rotate", { purpose: "status_list" });
    const [next] = await pair.sql(
      "select kid from mayfly.signing_keys where purpose = 'status_list' and state = 'pending'",
    );
    await pair.compromise(pair.app, await pair.activeKid("status_list"));
    const rows = await pair.sql("select state, private_sealed from mayfly.signing_keys where kid = $1", [next.kid]);
    expect(rows).toEqual([{ state: "compromised", private_sealed: null }]);
    for (const at of pair.both) expect(await pair.published(at)).not.toContain(next.kid);
  });

  test("saying it again changes nothing, and a pending or retired key takes no other with it", async () => {
    const kid = await pair.activeKid("access_token");
    const first = await pair.compromise(pair.app, kid);
    const again = await pair.compromise(pair.other, kid);
    expect([again.status, again.body]).toEqual([200, { ...first.body, taken_back: 0 }]);

    const rotate = () => pair.app.call(pair.admin, "POST", "/v1/signing-keys/rotate", { purpose: "access_token" });
    await rotate();
    await pair.passTime(360);
    const rotated = await rotate();
    expect(rotated.status).toBe(200);
    const minted = tokenOf(await pair.mint(pair.app));
    const retired = await pair.compromise(pair.app, first.body.active_kid);
    expect(retired.body).toMatchObject({ active_kid: rotated.body.key.kid });
    expect((await pair.introspect(pair.other, minted)).body.active).toBe(true);
    expect(await pair.activeKid("access_token")).toBe(rotated.body.key.kid);
  });
});
