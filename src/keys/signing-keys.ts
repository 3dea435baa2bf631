import { createPrivateKey, createPublicKey, createSign, hash, type KeyObject } from "node:crypto";
import { compactVerify, decodeProtectedHeader, type JWK } from "jose";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { type KeyPurpose, keyPurposes, type TokenTyp } from "./key-purpose.ts";
import { ensureKeys, type KeyDeps, sealContext } from "./make-key.ts";

type Claims = Readonly<Record<string, unknown>>;

/** Signs for one tenant and purpose with the active key. Use it now: whoever keeps it keeps a key that may be withdrawn. */
export interface Signer {
  readonly kid: string;
  /**
   * A JWS in compact form (RFC 7515 §3.1) by ES256. Throws for the `typ` of another purpose, and for an `exp` that the
   * key would not be published long enough to verify.
   */
  sign(typ: string, claims: Claims): string;
}

/**
 * The tenant's signing keys: one tenant, one issuer, its own keys, so that a tool of one tenant never trusts another's tokens.
 *
 * `generation` is the one that the caller's facts are of: the answer is true at that generation of the registry or a later
 * one, and a key that was withdrawn by then is never in it. Without it the answer is true at this moment, for a round trip.
 */
export interface SigningKeys {
  /**
   * The signer of this purpose; makes the tenant's first keys when there are none. `kid` is the one that signs at
   * `generation`, where the caller has read both together: then nothing is read for every other change of the registry.
   */
  signer(tenantId: Id<"tenant">, purpose: KeyPurpose, generation?: number, kid?: string | null): Promise<Signer>;
  /**
   * The claims of a token that a key of the purpose of this `typ` signed; undefined for everything else, a token of
   * another of the tenant's keys included. Says nothing about time or revocation.
   */
  verify(tenantId: Id<"tenant">, token: string, typ: TokenTyp, generation?: number): Promise<Claims | undefined>;
}

/** What a process knows of a tenant's keys, and the generation of the registry that it was so at. */
interface TenantKeys {
  readonly generation: number;
  readonly signers: ReadonlyMap<KeyPurpose, Signer>;
  readonly verifying: ReadonlyMap<string, VerifyingKey>;
}

interface VerifyingKey {
  readonly purpose: KeyPurpose;
  readonly key: KeyObject;
}

interface KeyRow {
  readonly generation: string;
  readonly kid: string | null;
  readonly purpose: KeyPurpose;
  readonly state: "active" | "retiring";
  readonly public_jwk: JWK;
  readonly private_sealed: Buffer | null;
}

/** Some 2 KB each. */
const MAX_VERIFIED = 5_000;
/** Some 10 KB each. */
const MAX_TENANTS = 1_000;

export function createSigningKeys(deps: KeyDeps): SigningKeys {
  const generationOf = deps.db.batched<null, { generation: string }>("current_generation");
  const known = new Map<string, TenantKeys>();
  const running = new Map<string, Promise<TenantKeys>>();
  const waiting = new Map<string, Promise<TenantKeys>>();
  // Tools ask about one token again and again. By hash, and good only while the very key that signed it verifies.
  const verified = new Map<string, { readonly kid: string; readonly key: KeyObject; readonly claims: Claims }>();

  const read = async (tenantId: Id<"tenant">): Promise<TenantKeys> => {
    const rows = await deps.db.callForTenant<KeyRow>("load_keys", tenantId, []);
    const previous = known.get(tenantId);
    const signers = new Map<KeyPurpose, Signer>();
    const verifying = new Map<string, VerifyingKey>();
    for (const { kid, purpose, public_jwk: jwk, private_sealed: sealed } of rows) {
      if (kid === null) continue;
      // The same key stays the same object: `verified` knows keys by it.
      const key = previous?.verifying.get(kid)?.key ?? createPublicKey({ key: jwk, format: "jwk" });
      verifying.set(kid, { purpose, key });
      if (sealed === null) continue;
      const before = previous?.signers.get(purpose);
      const open = () => createPrivateKey(deps.keySealer.open(sealed, sealContext(tenantId, kid)));
      signers.set(purpose, before?.kid === kid ? before : signerOf(kid, purpose, open()));
    }
    const keys = { generation: Number(rows[0]?.generation), signers, verifying };
    keepNewest(known, MAX_TENANTS, tenantId, keys);
    return keys;
  };

  /** As it is in Postgres when asked, or later; who asks together reads together. */
  const load = (tenantId: Id<"tenant">): Promise<TenantKeys> => {
    const asked = waiting.get(tenantId);
    if (asked !== undefined) return asked;
    const begin = async (): Promise<TenantKeys> => {
      // The one under way may have read too early for whoever asks now.
      await running.get(tenantId)?.catch(() => undefined);
      waiting.delete(tenantId);
      const reading = read(tenantId);
      running.set(tenantId, reading);
      return reading.finally(() => running.delete(tenantId));
    };
    const mine = begin();
    waiting.set(tenantId, mine);
    return mine;
  };

  const keysAt = async (tenantId: Id<"tenant">, generation: number | undefined): Promise<TenantKeys> => {
    const wanted = generation ?? Number((await generationOf(tenantId, null)).generation);
    const keys = known.get(tenantId);
    return keys !== undefined && keys.generation >= wanted ? keys : load(tenantId);
  };

  return {
    async signer(tenantId, purpose, generation, kid) {
      const held = known.get(tenantId)?.signers.get(purpose);
      if (held !== undefined && held.kid === kid) return held;
      const present = (await keysAt(tenantId, generation)).signers.get(purpose);
      if (present !== undefined) return present;
      await ensureKeys(deps, tenantId);
      const made = (await load(tenantId)).signers.get(purpose);
      if (made === undefined) throw new MayflyError("internal", "no signing key could be made");
      return made;
    },

    async verify(tenantId, token, typ, generation) {
      let { verifying } = await keysAt(tenantId, generation);
      const name = hash("sha256", `${tenantId} ${typ} ${token}`, "base64");
      const seen = verified.get(name);
      if (seen !== undefined && verifying.get(seen.kid)?.key === seen.key) return seen.claims;
      try {
        const { kid, ...header } = decodeProtectedHeader(token);
        if (header.typ !== typ || header.alg !== "ES256" || typeof kid !== "string") return undefined;
        // New keys make no new generation.
        if (!verifying.has(kid)) ({ verifying } = await load(tenantId));
        const signedBy = verifying.get(kid);
        if (signedBy === undefined || keyPurposes[signedBy.purpose].typ !== typ) return undefined;
        const { payload } = await compactVerify(token, signedBy.key, { algorithms: ["ES256"] });
        const claims = JSON.parse(Buffer.from(payload).toString("utf8")) as Record<string, unknown>;
        keepNewest(verified, MAX_VERIFIED, name, { kid, key: signedBy.key, claims });
        return claims;
      } catch (error) {
        if (error instanceof Error && "code" in error && String(error.code).startsWith("ERR_J")) return undefined;
        if (error instanceof TypeError || error instanceof SyntaxError) return undefined;
        throw error;
      }
    },
  };
}

function signerOf(kid: string, purpose: KeyPurpose, key: KeyObject): Signer {
  const { typ: ours, longestSeconds } = keyPurposes[purpose];
  const header = encoded({ alg: "ES256", typ: ours, kid });
  return {
    kid,
    // Here and now, some 45 µs: handing it to another thread (jose does, by WebCrypto) costs as much and takes longer.
    sign(typ, claims) {
      if (typ !== ours) throw new MayflyError("internal", "a key was asked to sign for a purpose that is not its own");
      const { exp, iat } = claims;
      if (exp !== undefined && !(Number(exp) - Number(iat) <= longestSeconds))
        throw new MayflyError("internal", "a key was asked to sign what it will not be published for");
      const text = `${header}.${encoded(claims)}`;
      // Not sign(): it looks its algorithms up again each time.
      const signature = createSign("sha256").update(text).sign({ key, dsaEncoding: "ieee-p1363" });
      return `${text}.${signature.toString("base64url")}`;
    },
  };
}

function encoded(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString("base64url");
}
