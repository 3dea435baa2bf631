import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { RecordEvent } from "../audit/record.ts";
import type { Db } from "../db/database.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, SYSTEM_TENANT } from "../lib/ids.ts";
import { ADMIN_TOKEN_TYP, verifyAdminToken } from "./admin-token.ts";
import { createCertificateLogin } from "./authenticate-certificate.ts";
import { JWT_SPIFFE } from "./client-assertion.ts";
import type { KeyCache } from "./key-cache.ts";
import { createKnownCallers, type KnownCaller } from "./known-callers.ts";
import type { Certainty, ClientAssertion, ClientCertificate, KeyConfirmation, Principal } from "./principal.ts";
import {
  type AuthFacts,
  type Proven,
  principalOf,
  refusal,
  type Source,
  tenantSuspended,
  unknownIssuer,
} from "./principal-of.ts";
import type { SignatureAlgorithm } from "./public-jwk.ts";
import { weakKey } from "./read-certificate.ts";
import { tenantIssuer, tenantNameOf } from "./tenant-issuer.ts";
import { type TokenSource, trustSourceSchema, vouchesByTokens } from "./trust-source.ts";
import { type Confirmation, type PeekedToken, peekToken, type VerifiedToken, verifyToken } from "./verify-token.ts";

export interface AuthenticateDeps {
  readonly db: Db;
  readonly keys: SigningKeys;
  readonly keyCache: KeyCache;
  readonly record: RecordEvent;
  readonly publicUrl: () => string;
  readonly now: () => Date;
  readonly config: { readonly draftSpiffeClientAuth: boolean };
}

/** What of a request says who sent it, besides its headers. */
interface Presented {
  readonly method: string;
  readonly client?: ClientAssertion;
  readonly clientId?: string;
  readonly certificate?: ClientCertificate;
  /** The tenant that the path names: then the caller is of no other. */
  readonly tenantName?: string;
}

/** Who calls, by `Authorization`, a client assertion, or `client_id` and a certificate; throws `unauthenticated` with a stable reason, already in the audit. */
export type Authenticator = (
  headers: IncomingHttpHeaders,
  request: Presented,
  certainty?: Certainty,
) => Promise<Principal>;

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
    { client: assertion, certificate }: Presented,
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
      const { confirmation: bound } = verified.token;
      if (!isProven(bound, certificate))
        throw refusal("token_binding_unproven", "the token is bound to a key, and no proof of possession was accepted");
      const { singleUse } = verified.token;
      const consume = certainty !== "again" ? singleUse : undefined;
      const { facts } = await confirm(tenant, confirmation(source, verified.token, consume));
      if (facts.source_version !== source.version && !fresh) continue;
      const { claims, subject } = verified.token;
      const proven: Proven = { claims, subject, clientId: subject, binding: bound.kind };
      const principal = principalOf({ id: tenant, name: tenantName }, source, proven, facts);
      if (singleUse === undefined && assertion === undefined && bound.kind === "bearer")
        callers.remember(token, knownCallerOf(principal, source, verified.token, peek.token));
      return principal;
    }
    throw unknownIssuer();
  };

  const knownCallerOf = (
    principal: Principal,
    source: Source<TokenSource>,
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
  ): Promise<Source<TokenSource> | undefined> => {
    for (const issuer of issuers) {
      const source = await sourceOf(tenant, issuer, fresh);
      if (source !== undefined && vouchesByTokens(source.config)) return { ...source, config: source.config };
    }
    return undefined;
  };

  const byCertificate = createCertificateLogin({
    ...deps,
    offersSpiffe: deps.config.draftSpiffeClientAuth,
    sourceOf,
    confirm,
  });
  const authenticateCertificate = async (
    { clientId, certificate, tenantName }: Presented,
    at: { tenant: Id<"tenant"> },
  ): Promise<Principal> => {
    if (tenantName === undefined)
      throw refusal("tenant_missing", "a certificate is for the tenant's own endpoints: see its mtls_endpoint_aliases");
    const tenant = await tenantId(tenantName);
    if (tenant === undefined) throw refusal("client_unknown", "there is no such tenant");
    at.tenant = tenant;
    if (certificate === undefined) throw refusal("certificate_missing", "the connection has shown no certificate");
    if (clientId === undefined) throw refusal("client_id_missing", "client_id is needed beside a certificate");
    return byCertificate({ id: tenant, name: tenantName }, clientId, certificate);
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
      const { client, clientId, certificate, tenantName } = request;
      const hasToken = client !== undefined || headers.authorization !== undefined;
      const principal =
        !hasToken && (tenantName !== undefined || (clientId !== undefined && certificate !== undefined))
          ? await authenticateCertificate(request, at)
          : await authenticateToken(client?.assertion ?? bearerOf(headers.authorization), request, certainty, at);
      if (tenantName !== undefined && tenantName !== principal.tenantName)
        throw refusal("token_audience_mismatch", "the token is for another tenant than the one of the path");
      return certificate === undefined ? principal : { ...principal, confirmation: confirmationBy(certificate) };
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

/** Whether the caller holds the key that its token is bound to. A DPoP proof is not taken here. */
function isProven(bound: Confirmation, certificate: ClientCertificate | undefined): boolean {
  return bound.kind === "bearer" || (bound.kind === "mtls" && bound.x5tS256 === certificate?.thumbprint);
}

/** What is minted is bound to the key of the connection (RFC 8705 §3), whoever made the certificate, if the key is strong. */
function confirmationBy({ leaf, thumbprint }: ClientCertificate): KeyConfirmation {
  const weakness = weakKey(leaf);
  if (weakness !== undefined) throw refusal("certificate_weak", `the certificate is too weak: ${weakness}`);
  return { "x5t#S256": thumbprint };
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
