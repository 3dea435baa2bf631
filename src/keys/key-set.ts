import { hash } from "node:crypto";
import type { JWK } from "jose";
import type { Id } from "../lib/ids.ts";
import { type KeyPurpose, keyPurposeNames } from "./key-purpose.ts";
import { ensureKeys, type KeyDeps } from "./make-key.ts";

/** A JWK set (RFC 7517 §5) and a tag that changes with it. */
export interface KeySet {
  readonly keys: readonly JWK[];
  readonly etag: string;
}

interface PublishedKey {
  readonly tenant_id: Id<"tenant">;
  readonly purpose: KeyPurpose;
  readonly state: string;
  readonly public_jwk: JWK | null;
}

/**
 * The tenant's key set as it is in Postgres at this moment: a key that is compromised is in no answer that begins after
 * that. Undefined when there is no such tenant. What makes it is the same query that finds the tenant.
 */
export async function keySetOf(deps: KeyDeps, tenantName: string): Promise<KeySet | undefined> {
  const read = () => deps.db.callAcrossTenants<PublishedKey>("published_keys", [tenantName]);
  let published = await read();
  const [first] = published;
  if (first === undefined) return undefined;
  const active = new Set(published.filter(({ state }) => state === "active").map(({ purpose }) => purpose));
  if (active.size < keyPurposeNames.length) {
    await ensureKeys(deps, first.tenant_id);
    published = await read();
  }
  const keys = published.flatMap(({ public_jwk: jwk }) => (jwk === null ? [] : [jwk]));
  return { keys, etag: hash("sha256", JSON.stringify(keys), "base64url") };
}
