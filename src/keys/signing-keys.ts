import { createPrivateKey, createPublicKey, createSign, generateKeyPairSync, hash, type KeyObject } from "node:crypto";
import { calculateJwkThumbprint, compactVerify, decodeProtectedHeader, type JWK } from "jose";
import type { Db } from "../db/database.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import type { Sealer } from "../lib/seal.ts";

/** Signs for one tenant with its active key. */
export interface Signer {
  readonly kid: string;
  /** A JWS in compact form (RFC 7515 §3.1) by ES256. */
  sign(typ: string, claims: Readonly<Record<string, unknown>>): string;
}

/** The tenant's signing keys: one tenant, one issuer, its own keys, so that a tool of one tenant never trusts another's tokens. */
export interface SigningKeys {
  /** The tenant's signer; makes the first key when there is none. */
  signer(tenantId: string): Promise<Signer>;
  /** The claims of a token that one of this tenant's keys signed with exactly this `typ`; undefined for everything else. Says nothing about time or revocation. */
  verify(tenantId: string, token: string, typ: string): Promise<Claims | undefined>;
  /** The public keys as a JWK set (RFC 7517); never a private member. */
  jwks(tenantId: string): Promise<{ keys: JWK[] }>;
}

interface TenantKeys {
  readonly loadedAt: number;
  readonly active: { readonly kid: string; readonly key: KeyObject; readonly headers: Map<string, string> } | undefined;
  readonly published: ReadonlyMap<string, { readonly key: KeyObject; readonly jwk: JWK }>;
}

type Claims = Readonly<Record<string, unknown>>;

/** Some 2 KB each. */
const MAX_VERIFIED = 5_000;

/** Another process may have made or retired a key; a stale view heals itself within this time. */
const RELOAD_MS = 60_000;
const ACTOR = "mayfly:keys";

/** Keys live sealed in Postgres; the sealer's key never does. */
export function createSigningKeys(db: Db, sealer: Sealer): SigningKeys {
  const cache = new Map<string, Promise<TenantKeys>>();
  // Tools ask about one token again and again. By hash, and good only while the very key that signed it is published.
  const verified = new Map<string, { readonly kid: string; readonly key: KeyObject; readonly claims: Claims }>();

  // The same key stays the same object: `verified` knows keys by it.
  const load = async (tenantId: string, previous: TenantKeys | undefined): Promise<TenantKeys> => {
    const rows = await db.withTenant({ tenantId, actor: ACTOR }, (tx) =>
      tx.selectFrom("signing_keys").selectAll().where("state", "!=", "gone").execute(),
    );
    const active = rows.find((row) => row.state === "active");
    return {
      loadedAt: performance.now(),
      active:
        active === undefined || active.kid === previous?.active?.kid
          ? active && previous?.active
          : {
              kid: active.kid,
              key: createPrivateKey(sealer.open(active.private_sealed, sealContext(tenantId, active.kid))),
              headers: new Map(),
            },
      published: new Map(
        rows.map(({ kid, public_jwk: jwk }) => [
          kid,
          previous?.published.get(kid) ?? { key: createPublicKey({ key: jwk, format: "jwk" }), jwk },
        ]),
      ),
    };
  };
  const keysOf = async (tenantId: string): Promise<TenantKeys> => {
    const present = cache.get(tenantId);
    const keys = await present;
    if (keys !== undefined && performance.now() - keys.loadedAt < RELOAD_MS) return keys;
    // Whoever came first loads, for all.
    const begun = cache.get(tenantId);
    if (begun !== undefined && begun !== present) return begun;
    const loading = load(tenantId, keys);
    cache.set(tenantId, loading);
    loading.catch(() => cache.delete(tenantId));
    return loading;
  };
  const create = async (tenantId: string): Promise<void> => {
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const bare = publicKey.export({ format: "jwk" }) as JWK;
    const kid = await calculateJwkThumbprint(bare);
    const jwk = { ...bare, kid, alg: "ES256", use: "sig" };
    const sealed = sealer.seal(
      privateKey.export({ type: "pkcs8", format: "pem" }) as string,
      sealContext(tenantId, kid),
    );
    // Two processes may both find no key: the unique index lets one in, and both then read the same.
    await db.withTenant({ tenantId, actor: ACTOR }, (tx) =>
      tx
        .insertInto("signing_keys")
        .values({
          tenant_id: tenantId as never,
          kid,
          algorithm: "ES256",
          public_jwk: JSON.stringify(jwk),
          private_sealed: sealed,
        })
        .onConflict((conflict) => conflict.doNothing())
        .execute(),
    );
    cache.delete(tenantId);
  };

  return {
    async signer(tenantId) {
      let keys = await keysOf(tenantId);
      if (keys.active === undefined) {
        await create(tenantId);
        keys = await keysOf(tenantId);
      }
      const active = keys.active;
      if (active === undefined) throw new Error("no signing key could be made");
      return {
        kid: active.kid,
        // Here and now, some 45 µs: handing it to another thread (jose does, by WebCrypto) costs as much and takes longer.
        sign(typ, claims) {
          const header = active.headers.get(typ) ?? encoded({ alg: "ES256", typ, kid: active.kid });
          active.headers.set(typ, header);
          const text = `${header}.${encoded(claims)}`;
          // Not sign(): it looks its algorithms up again each time.
          const signature = createSign("sha256").update(text).sign({ key: active.key, dsaEncoding: "ieee-p1363" });
          return `${text}.${signature.toString("base64url")}`;
        },
      };
    },
    async verify(tenantId, token, typ) {
      const name = hash("sha256", `${typ} ${token}`, "base64");
      const { published } = await keysOf(tenantId);
      const seen = verified.get(name);
      if (seen !== undefined && published.get(seen.kid)?.key === seen.key) return seen.claims;
      try {
        const header = decodeProtectedHeader(token);
        if (header.typ !== typ || header.alg !== "ES256" || typeof header.kid !== "string") return undefined;
        const known = published.get(header.kid);
        if (known === undefined) return undefined;
        const { payload } = await compactVerify(token, known.key, { algorithms: ["ES256"] });
        const claims = JSON.parse(Buffer.from(payload).toString("utf8")) as Record<string, unknown>;
        keepNewest(verified, MAX_VERIFIED, name, { kid: header.kid, key: known.key, claims });
        return claims;
      } catch (error) {
        if (error instanceof Error && "code" in error && String(error.code).startsWith("ERR_J")) return undefined;
        if (error instanceof TypeError || error instanceof SyntaxError) return undefined;
        throw error;
      }
    },
    async jwks(tenantId) {
      const { published } = await keysOf(tenantId);
      return { keys: [...published.values()].map(({ jwk }) => jwk) };
    },
  };
}

function sealContext(tenantId: string, kid: string): string {
  return `${tenantId}/${kid}`;
}

function encoded(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString("base64url");
}
