import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { RecordEvent } from "../audit/record.ts";
import type { Db } from "../db/database.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, SYSTEM_TENANT } from "../lib/ids.ts";
import { ADMIN_TOKEN_TYP, verifyAdminToken } from "./admin-token.ts";
import { type ClaimCondition, mappedRoles, meetsCondition } from "./claim-conditions.ts";
import { JWT_SPIFFE } from "./client-assertion.ts";
import type { KeyCache } from "./key-cache.ts";
import { createKnownCallers, type KnownCaller } from "./known-callers.ts";
import type { Certainty, ClientAssertion, Principal } from "./principal.ts";
import type { SignatureAlgorithm } from "./public-jwk.ts";
import { tenantIssuer, tenantNameOf } from "./tenant-issuer.ts";
import { type TrustSource, trustSourceSchema } from "./trust-source.ts";
import { type PeekedToken, peekToken, type VerifiedToken, verifyToken } from "./verify-token.ts";

export interface AuthenticateDeps {
  readonly db: Db;
  readonly keys: SigningKeys;
  readonly keyCache: KeyCache;
  readonly record: RecordEvent;
  readonly publicUrl: () => string;
  readonly now: () => Date;
  readonly config: { readonly draftSpiffeClientAuth: boolean };
}

/** Who calls, by `Authorization` or a client assertion; throws `unauthenticated` with a stable reason, already in the audit. */
export type Authenticator = (
  headers: IncomingHttpHeaders,
  request: { readonly method: string; readonly client?: ClientAssertion },
  certainty?: Certainty,
) => Promise<Principal>;

interface Source {
  readonly id: Id<"trustSource">;
  readonly version: number;
  readonly config: TrustSource;
}

/** What `mayfly.authenticate` answers about a token whose signature is good. */
interface AuthFacts {
  readonly generation: number;
  readonly tenant_state: "active" | "suspended";
  readonly source_version: number | null;
  readonly source_state: "active" | "disabled" | null;
  readonly fresh: boolean;
  readonly identities: readonly {
    readonly id: Id<"identity">;
    readonly agent_id: Id<"agent">;
    readonly conditions: readonly ClaimCondition[];
  }[];
}

/** More claims than this are not looked up as anchors; no issuer we know comes near. */
const MAX_ANCHORS = 40;

/**
 * Authenticates in one round trip. The audience names the tenant and the issuer its trust source, both before any
 * signature work; trust sources are cached, and the one query that resolves the identity also says whether the cached
 * source is still the stored one, so a disabled source stops working with the commit that disables it.
 */
export function createAuthenticator(deps: AuthenticateDeps): Authenticator {
  const confirm = deps.db.batched<object, { facts: AuthFacts }>("authenticate");
  const generationOf = deps.db.batched<null, { generation: string }>("current_generation");
  const callers = createKnownCallers();
  const tenants = new Map<string, Id<"tenant">>();
  const sources = new Map<string, Source>();

  const tenantId = async (name: string): Promise<Id<"tenant"> | undefined> => {
    const known = tenants.get(name);
    if (known !== undefined) return known;
    const [row] = await deps.db.callAcrossTenants<{ id: Id<"tenant"> }>("tenant_by_name", [name]);
    // Names and ids never change, so what was found stays true.
    if (row !== undefined) tenants.set(name, row.id);
    return row?.id;
  };

  const sourceOf = async (tenant: Id<"tenant">, issuer: string, fresh: boolean): Promise<Source | undefined> => {
    const key = `${tenant}/${issuer}`;
    const known = sources.get(key);
    if (known !== undefined && !fresh) return known;
    const row = await deps.db.withTenant({ tenantId: tenant, actor: "mayfly:identity" }, (tx) =>
      tx
        .selectFrom("trust_sources")
        .select(["id", "version", "kind", "issuer", "settings"])
        .where("tenant_id", "=", tenant)
        .where("issuer", "=", issuer)
        .where("state", "=", "active")
        .executeTakeFirst(),
    );
    sources.delete(key);
    if (row === undefined) return undefined;
    const config = trustSourceSchema.parse({ kind: row.kind, issuer: row.issuer, ...row.settings });
    const source = { id: row.id, version: row.version, config };
    sources.set(key, source);
    return source;
  };

  const knownCaller = async (token: string, certainty: Certainty): Promise<Principal | undefined> => {
    const principal = await callers.find(token, deps.now().getTime());
    if (principal === undefined || certainty === "remembered") return principal;
    const { generation } = await generationOf(principal.tenantId, null);
    return Number(generation) === principal.generation ? principal : undefined;
  };

  const authenticateToken = async (
    token: string,
    assertion: ClientAssertion | undefined,
    certainty: Certainty,
    at: { tenant: Id<"tenant"> },
  ): Promise<Principal> => {
    // More is asked of an assertion than of a token, and most are sent once.
    const known = assertion === undefined ? await knownCaller(token, certainty) : undefined;
    if (known !== undefined) return known;
    const peek = peekToken(token);
    if (!peek.ok) throw refusal(peek.refusal.code, peek.refusal.detail);
    const tenantName = tenantNameOf(deps.publicUrl(), peek.token.aud);
    const tenant = tenantName === undefined ? undefined : await tenantId(tenantName);
    if (tenantName === undefined || tenant === undefined)
      throw refusal(
        "token_audience_mismatch",
        `aud must be ${tenantIssuer(deps.publicUrl(), "<tenant>")}, byte for byte, and nothing else`,
      );
    at.tenant = tenant;
    const audience = tenantIssuer(deps.publicUrl(), tenantName);
    if (peek.token.typ === ADMIN_TOKEN_TYP && assertion === undefined)
      return adminPrincipal(token, tenant, tenantName, audience);

    // The last is the trust domain of `sub`, which alone says who a JWT-SVID is; its iss may be another source's.
    const issuers = assertion?.type === JWT_SPIFFE ? peek.token.issuers.slice(-1) : peek.token.issuers;
    for (const fresh of [false, true]) {
      const source = await findSource(tenant, issuers, fresh);
      if (source === undefined) throw unknownIssuer();
      const verified = await verifyToken(token, source.config, {
        audience,
        keys: deps.keyCache.keysOf(source),
        now: deps.now(),
        assertion,
        draftSpiffeClientAuth: deps.config.draftSpiffeClientAuth,
      });
      if (!verified.ok) {
        // What an older version of the source refuses, the present one may accept.
        if (!fresh && (await isOutdated(tenant, source))) continue;
        throw refusal(verified.refusal.code, verified.refusal.detail);
      }
      if (verified.token.confirmation.kind !== "bearer")
        throw refusal("token_binding_unproven", "the token is bound to a key, and no proof of possession was accepted");
      const { singleUse } = verified.token;
      const consume = certainty !== "again" ? singleUse : undefined;
      const { facts } = await confirm(tenant, confirmation(source, verified.token, consume));
      if (facts.source_version !== source.version && !fresh) continue;
      const principal = principalOf(tenant, tenantName, source, verified.token, facts);
      if (singleUse === undefined && assertion === undefined)
        callers.remember(token, knownCallerOf(principal, source, verified.token, peek.token));
      return principal;
    }
    throw unknownIssuer();
  };

  const knownCallerOf = (
    principal: Principal,
    source: Source,
    token: VerifiedToken,
    { kid, alg }: PeekedToken,
  ): KnownCaller => ({
    principal,
    key: token.key,
    findKey: () => deps.keyCache.keysOf(source)(kid, alg as SignatureAlgorithm),
    untilMs: Math.min(
      token.expiresAt.getTime(),
      (token.issuedAt?.getTime() ?? Number.POSITIVE_INFINITY) + source.config.max_token_age_seconds * 1000,
    ),
  });

  const findSource = async (
    tenant: Id<"tenant">,
    issuers: readonly string[],
    fresh: boolean,
  ): Promise<Source | undefined> => {
    for (const issuer of issuers) {
      const source = await sourceOf(tenant, issuer, fresh);
      if (source !== undefined) return source;
    }
    return undefined;
  };

  const isOutdated = async (tenant: Id<"tenant">, source: Source): Promise<boolean> => {
    const { facts } = await confirm(tenant, { source_id: source.id, claims: {} });
    return facts.source_version !== source.version;
  };

  const adminPrincipal = async (
    token: string,
    tenant: Id<"tenant">,
    tenantName: string,
    issuer: string,
  ): Promise<Principal> => {
    // First what the registry is at now: what the token is good for hangs on its key alone, and that may be withdrawn.
    const { facts } = await confirm(tenant, { source_id: "", claims: {} });
    const { generation } = facts;
    const admin = await verifyAdminToken(deps.keys, { id: tenant, issuer, generation }, token, deps.now().getTime());
    if (admin === undefined)
      throw refusal("token_signature_invalid", "this is not a valid admin token; print a new one");
    if (facts.tenant_state !== "active") throw tenantSuspended();
    return { tenantId: tenant, tenantName, subject: admin.subject, roles: admin.roles, binding: "bearer", generation };
  };

  return async (headers, request, certainty = "now") => {
    const at: { tenant: Id<"tenant"> } = { tenant: SYSTEM_TENANT };
    try {
      const { client } = request;
      const token = client === undefined ? bearerOf(headers.authorization) : client.assertion;
      return await authenticateToken(token, client, certainty, at);
    } catch (error) {
      if (error instanceof MayflyError && error.code === "unauthenticated") {
        await deps.record(at.tenant, {
          type: "authentication.refused",
          actor: "unknown",
          data: { reason: error.reasons[0]?.code ?? "token_missing", method: request.method },
        });
      }
      throw error;
    }
  };
}

function bearerOf(authorization: string | undefined): string {
  if (authorization === undefined)
    throw refusal("token_missing", "send a token of one of the tenant's trust sources: Authorization: Bearer <token>");
  const match = /^Bearer +([^\s]+) *$/i.exec(authorization);
  if (match?.[1] === undefined) throw refusal("token_malformed", "Authorization must be Bearer and one token");
  return match[1];
}

function confirmation(source: Source, token: VerifiedToken, consume: VerifiedToken["singleUse"]): object {
  const claims = Object.fromEntries(
    Object.entries(token.claims)
      .filter(([, value]) => typeof value === "string" && value.length <= 2048)
      .slice(0, MAX_ANCHORS),
  );
  const jti = consume?.jti ?? token.unspent;
  if (jti === undefined) return { source_id: source.id, claims };
  return {
    source_id: source.id,
    source_version: source.version,
    claims,
    jti_hash: createHash("sha256").update(jti).digest("hex"),
    ...(consume === undefined ? {} : { jti_expires_ms: consume.keepUntil.getTime() }),
  };
}

/** One identity makes it an agent, role mappings make it a human or an orchestrator; never both, never ambiguous. */
function principalOf(
  tenant: Id<"tenant">,
  tenantName: string,
  source: Source,
  token: VerifiedToken,
  facts: AuthFacts,
): Principal {
  if (facts.tenant_state !== "active") throw tenantSuspended();
  if (facts.source_version !== source.version || facts.source_state !== "active") throw unknownIssuer();
  if (!facts.fresh) throw refusal("token_replayed", "this token may be used once and has been; send a new one");

  const matching = facts.identities.filter((identity) =>
    identity.conditions.every((condition) => meetsCondition(condition, token.claims)),
  );
  const subject = `${source.id}|${token.subject}`;
  const { generation } = facts;
  const common = {
    tenantId: tenant,
    tenantName,
    binding: "bearer" as const,
    generation,
    trustSourceId: source.id,
    clientId: token.subject,
  };
  const [identity, second] = matching;
  const roles = mappedRoles(source.config.role_mappings, token.claims);
  if (second !== undefined || (identity !== undefined && roles.length > 0))
    throw refusal("identity_ambiguous", "the token fits more than one identity; an admin must make them distinct");
  if (identity !== undefined)
    return {
      ...common,
      subject: identity.agent_id,
      roles: ["agent"],
      agentId: identity.agent_id,
      identityId: identity.id,
    };
  if (roles.length === 0)
    throw refusal("identity_unknown", "the token is genuine, but no identity or role mapping fits it");
  return { ...common, subject, roles };
}

function refusal(code: string, detail: string): MayflyError {
  if (code === "keys_unavailable" || code === "keys_stale")
    return new MayflyError("unavailable", detail, { reasons: [{ code, detail }], retryAfterSeconds: 5 });
  return new MayflyError("unauthenticated", detail, { reasons: [{ code, detail }] });
}

function unknownIssuer(): MayflyError {
  return refusal("token_issuer_unknown", "no trust source of the tenant answers for this issuer");
}

function tenantSuspended(): MayflyError {
  return refusal("tenant_suspended", "the tenant is suspended");
}
