import { createPrivateKey, randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeProtectedHeader, SignJWT } from "jose";
import { type Db, openDatabase } from "../../src/db/database.ts";
import { type KeyPurpose, keyPurposeNames, keyPurposes, type TokenTyp } from "../../src/keys/key-purpose.ts";
import { keySetOf } from "../../src/keys/key-set.ts";
import type { KeyDeps } from "../../src/keys/make-key.ts";
import { createSigningKeys, type SigningKeys } from "../../src/keys/signing-keys.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { createSealer } from "../../src/lib/seal.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";

const TENANT = "ten_00000000000070008000000000000001" as Id<"tenant">;
const TYP = "at+jwt";

let database: TestDatabase;
let db: Db;
let deps: KeyDeps;
let keys: SigningKeys;
let other: Id<"tenant">;
let token: string;
const late = newId("tenant");

beforeAll(async () => {
  database = await testDatabase();
  db = openDatabase({ connectionString: database.runtimeUrl, log: createLog("error", { write: () => undefined }) });
  deps = { db, keySealer: createSealer(randomBytes(32), "signing-key") };
  keys = createSigningKeys(deps);
  other = newId("tenant");
  await db.withTenant({ tenantId: other, actor: "test" }, (tx) =>
    tx.insertInto("tenants").values({ id: other, name: "other", display_name: "Other" }).execute(),
  );
  await keys.signer(other, "access_token");
  token = (await keys.signer(TENANT, "access_token")).sign(TYP, { jti: "1", sub: "agent" });
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

describe("a token of ours, asked about again", () => {
  test("has the same claims, as often as it is asked", async () => {
    for (let time = 0; time < 3; time += 1)
      expect(await keys.verify(TENANT, token, TYP)).toEqual({ jti: "1", sub: "agent" });
  });

  test.each<[string, () => string, TokenTyp, () => Id<"tenant">]>([
    ["of another kind", () => token, "statuslist+jwt", () => TENANT],
    ["at another tenant, which has keys of its own (invariant 10)", () => token, TYP, () => other],
    [
      "with another signature",
      () => `${token.slice(0, -4)}${token.endsWith("AAAA") ? "BBBB" : "AAAA"}`,
      TYP,
      () => TENANT,
    ],
    [
      "with other claims under its signature",
      () => token.replace(/\.[^.]+\./, `.${Buffer.from('{"jti":"2"}').toString("base64url")}.`),
      TYP,
      () => TENANT,
    ],
  ])("is nobody's %s", async (_how, text, typ, tenant) => {
    expect(await keys.verify(TENANT, token, TYP)).toBeDefined();
    expect(await keys.verify(tenant(), text(), typ)).toBeUndefined();
    expect(await keys.verify(tenant(), text(), typ)).toBeUndefined();
  });

  test("names the tenant's active key of its purpose, whose private half is in no table in the clear", async () => {
    const { kid } = decodeProtectedHeader(token);
    const rows = await db.withTenant({ tenantId: TENANT, actor: "test" }, (tx) =>
      tx.selectFrom("signing_keys").selectAll().where("purpose", "=", "access_token").execute(),
    );
    expect(rows.map((row) => [row.kid, row.state])).toEqual([[kid, "active"]]);
    expect(rows[0]?.private_sealed?.toString("latin1")).not.toContain("PRIVATE KEY");
    const published = await keySetOf(deps, "default");
    expect(published?.keys.map((key) => key.kid)).toContain(kid);
  });
});

describe("one key, one purpose, one typ (reliability D14)", () => {
  test("every purpose has a key of its own, and all of them are in the key set", async () => {
    const kids = await Promise.all(keyPurposeNames.map(async (purpose) => (await keys.signer(TENANT, purpose)).kid));
    expect(new Set(kids).size).toBe(keyPurposeNames.length);
    const published = await keySetOf(deps, "default");
    expect(published?.keys.map(({ kid }) => kid).toSorted()).toEqual(kids.toSorted());
  });

  test("a signer signs no typ but its own", async () => {
    for (const purpose of keyPurposeNames)
      for (const alien of keyPurposeNames) {
        const signer = await keys.signer(TENANT, purpose);
        const sign = () => signer.sign(keyPurposes[alien].typ, { sub: "x" });
        if (purpose === alien) expect(typeof sign()).toBe("string");
        else expect(sign).toThrow("not its own");
      }
  });

  test("what one key signed under the typ of another is no token at all", async () => {
    let refused = 0;
    for (const purpose of keyPurposeNames)
      for (const alien of keyPurposeNames) {
        const forged = await signedBy(purpose, keyPurposes[alien].typ);
        const claims = await keys.verify(TENANT, forged, keyPurposes[alien].typ);
        if (purpose === alien) expect(claims).toEqual({ sub: "x" });
        else {
          expect(claims).toBeUndefined();
          refused += 1;
        }
      }
    expect(refused).toBe(keyPurposeNames.length * (keyPurposeNames.length - 1));
  });

  test("a signer signs nothing that outlives its key's publication", async () => {
    for (const purpose of keyPurposeNames) {
      const { typ, longestSeconds } = keyPurposes[purpose];
      const signer = await keys.signer(TENANT, purpose);
      expect(typeof signer.sign(typ, { iat: 1000, exp: 1000 + longestSeconds })).toBe("string");
      expect(() => signer.sign(typ, { iat: 1000, exp: 1001 + longestSeconds })).toThrow("published");
      expect(() => signer.sign(typ, { exp: 1000 })).toThrow("published");
    }
  });

  /** With the private key itself, as an attacker who has it would. */
  async function signedBy(purpose: KeyPurpose, typ: string): Promise<string> {
    const row = await db.withTenant({ tenantId: TENANT, actor: "test" }, (tx) =>
      tx
        .selectFrom("signing_keys")
        .select(["kid", "private_sealed"])
        .where("purpose", "=", purpose)
        .where("state", "=", "active")
        .executeTakeFirstOrThrow(),
    );
    const pem = deps.keySealer.open(row.private_sealed ?? Buffer.of(), `${TENANT}/${row.kid}`);
    return new SignJWT({ sub: "x" })
      .setProtectedHeader({ alg: "ES256", typ, kid: row.kid })
      .sign(createPrivateKey(pem));
  }
});

test("a key that another process has just made is known to whoever meets its kid", async () => {
  const elsewhere = createSigningKeys(deps);
  await db.withTenant({ tenantId: late, actor: "test" }, (tx) =>
    tx.insertInto("tenants").values({ id: late, name: "late", display_name: "Late" }).execute(),
  );
  const stranger = `${token.slice(0, -4)}AAAA`;
  expect(await keys.verify(late, stranger, TYP)).toBeUndefined();
  const made = (await elsewhere.signer(late, "access_token")).sign(TYP, { jti: "2" });
  expect(await keys.verify(late, made, TYP)).toEqual({ jti: "2" });
});

test("processes that sign for a new tenant at once make one key of each purpose", async () => {
  const tenant = newId("tenant");
  await db.withTenant({ tenantId: tenant, actor: "test" }, (tx) =>
    tx.insertInto("tenants").values({ id: tenant, name: "crowd", display_name: "Crowd" }).execute(),
  );
  const signers = await Promise.all(
    Array.from({ length: 8 }, (_, n) =>
      createSigningKeys(deps).signer(tenant, keyPurposeNames[n % 2] ?? "access_token"),
    ),
  );
  expect(new Set(signers.map(({ kid }) => kid)).size).toBe(2);
  const set = await keySetOf(deps, "crowd");
  expect(set?.keys).toHaveLength(keyPurposeNames.length);
});
