import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { calculateJwkThumbprint, type JWK } from "jose";
import { sql } from "kysely";
import type { Db, Tx } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import type { Sealer } from "../lib/seal.ts";
import { type KeyPurpose, keyPurposeNames } from "./key-purpose.ts";

/** What makes and keeps keys: the sealer's own key is never in the database. */
export interface KeyDeps {
  readonly db: Db;
  readonly keySealer: Sealer;
}

export const KEYS_ACTOR = "mayfly:keys";

/**
 * Makes a key of one purpose, published with the commit. Its `kid` is its thumbprint (RFC 7638). Nothing happens when the
 * tenant has a key of that purpose in that state already: of two processes that both find none, one makes it.
 */
export async function makeKey(
  tx: Tx,
  sealer: Sealer,
  tenantId: Id<"tenant">,
  purpose: KeyPurpose,
  state: "pending" | "active",
): Promise<void> {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const bare = publicKey.export({ format: "jwk" }) as JWK;
  const kid = await calculateJwkThumbprint(bare);
  await tx
    .insertInto("signing_keys")
    .values({
      tenant_id: tenantId,
      kid,
      purpose,
      algorithm: "ES256",
      public_jwk: JSON.stringify({ ...bare, kid, alg: "ES256", use: "sig" }),
      private_sealed: sealer.seal(pemOf(privateKey), sealContext(tenantId, kid)),
      state,
      created_at: sql`clock_timestamp()`,
      ...(state === "active" ? { activated_at: sql`clock_timestamp()` } : {}),
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/**
 * Gives a tenant an active key of every purpose that has none. All at once, and before its key set is first answered:
 * a key that came to a set that others hold already would have to wait before it signs.
 */
export async function ensureKeys({ db, keySealer }: KeyDeps, tenantId: Id<"tenant">): Promise<void> {
  await db.withTenant({ tenantId, actor: KEYS_ACTOR }, async (tx) => {
    const active = await tx
      .selectFrom("signing_keys")
      .select("purpose")
      .where("tenant_id", "=", tenantId)
      .where("state", "=", "active")
      .execute();
    const present = new Set(active.map(({ purpose }) => purpose));
    for (const purpose of keyPurposeNames)
      if (!present.has(purpose)) await makeKey(tx, keySealer, tenantId, purpose, "active");
  });
}

/** What a sealed private key is bound to: for another row it does not open. */
export function sealContext(tenantId: string, kid: string): string {
  return `${tenantId}/${kid}`;
}

function pemOf(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }) as string;
}
