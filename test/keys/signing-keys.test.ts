import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeProtectedHeader } from "jose";
import { type Db, openDatabase } from "../../src/db/database.ts";
import { createSigningKeys, type SigningKeys } from "../../src/keys/signing-keys.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { createSealer } from "../../src/lib/seal.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";

const TENANT = "ten_00000000000070008000000000000001";
const TYP = "at+jwt";

let database: TestDatabase;
let db: Db;
let keys: SigningKeys;
let other: Id<"tenant">;
let token: string;

beforeAll(async () => {
  database = await testDatabase();
  db = openDatabase({ connectionString: database.runtimeUrl, log: createLog("error", { write: () => undefined }) });
  keys = createSigningKeys(db, createSealer(randomBytes(32), "signing-key"));
  other = newId("tenant");
  await db.withTenant({ tenantId: other, actor: "test" }, (tx) =>
    tx.insertInto("tenants").values({ id: other, name: "other", display_name: "Other" }).execute(),
  );
  await keys.signer(other);
  token = (await keys.signer(TENANT)).sign(TYP, { jti: "1", sub: "agent" });
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

  test.each<[string, () => string, string, () => string]>([
    ["of another kind", () => token, "jwt", () => TENANT],
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

  test("names the tenant's one active key, whose private half is in no table in the clear", async () => {
    const { kid } = decodeProtectedHeader(token);
    const published = await keys.jwks(TENANT);
    expect(published.keys.map((key) => key.kid)).toEqual([kid]);
    expect(published.keys[0]).not.toHaveProperty("d");
    const rows = await db.withTenant({ tenantId: TENANT, actor: "test" }, (tx) =>
      tx.selectFrom("signing_keys").selectAll().execute(),
    );
    expect(rows[0]?.private_sealed.toString("latin1")).not.toContain("PRIVATE KEY");
  });
});
