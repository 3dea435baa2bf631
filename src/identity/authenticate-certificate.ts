import type { Db } from "../db/database.ts";
import { type Id, isId } from "../lib/ids.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import type { Claims } from "./decode-token.ts";
import { judgeCertificate } from "./judge-certificate.ts";
import type { KeyCache } from "./key-cache.ts";
import type { ClientCertificate, Principal } from "./principal.ts";
import { type AuthFacts, principalOf, refusal, type Source } from "./principal-of.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { parseSpiffeId } from "./spiffe-id.ts";

export interface CertificateLoginDeps {
  readonly db: Db;
  readonly keyCache: Pick<KeyCache, "authoritiesOf">;
  readonly now: () => Date;
  /** draft-ietf-oauth-spiffe-client-auth-02 is offered. */
  readonly offersSpiffe: boolean;
  readonly sourceOf: (tenant: Id<"tenant">, issuer: string, fresh: boolean) => Promise<Source | undefined>;
  readonly confirm: (tenant: Id<"tenant">, item: object) => Promise<{ readonly facts: AuthFacts }>;
}

/** Authenticates a client by its certificate (RFC 8705 §2). Throws `unauthenticated` with a stable reason. */
export type CertificateLogin = (
  tenant: { readonly id: Id<"tenant">; readonly name: string },
  clientId: string,
  certificate: ClientCertificate,
) => Promise<Principal>;

/** More sources than these do not vouch for one agent. */
const MAX_SOURCES = 4;
const MAX_AGENTS = 5_000;

/**
 * `client_id` says which trust source is asked, before anything of the certificate counts: the id of an agent, for which
 * an `x509_ca` source has an identity; the `issuer` of a `self_signed` source, which is the client's own, or of an
 * `x509_ca` one for callers who have a role there and no identity; a SPIFFE ID for its trust domain. Whom the certificate
 * then proves must be whom `client_id` names.
 */
export function createCertificateLogin(deps: CertificateLoginDeps): CertificateLogin {
  const agents = new Map<string, readonly string[]>();

  const issuersFor = async (tenant: Id<"tenant">, clientId: string, fresh: boolean): Promise<readonly string[]> => {
    if (clientId.startsWith("spiffe:")) {
      const id = deps.offersSpiffe ? parseSpiffeId(clientId) : undefined;
      return id === undefined || id.path === "" ? [] : [`spiffe://${id.trustDomain}`];
    }
    if (!isId("agent", clientId)) return [clientId];
    const name = `${tenant}/${clientId}`;
    const known = agents.get(name);
    if (known !== undefined && !fresh) return known;
    const rows = await deps.db.withTenant({ tenantId: tenant, actor: "mayfly:identity" }, (tx) =>
      tx
        .selectFrom("trust_sources")
        .innerJoin("identities", (join) =>
          join
            .onRef("identities.tenant_id", "=", "trust_sources.tenant_id")
            .onRef("identities.trust_source_id", "=", "trust_sources.id"),
        )
        .select("trust_sources.issuer")
        .distinct()
        .where("trust_sources.tenant_id", "=", tenant)
        .where("trust_sources.kind", "=", "x509_ca")
        .where("identities.agent_id", "=", clientId)
        .orderBy("trust_sources.issuer")
        .limit(MAX_SOURCES)
        .execute(),
    );
    const issuers = rows.map(({ issuer }) => issuer);
    if (issuers.length > 0) keepNewest(agents, MAX_AGENTS, name, issuers);
    return issuers;
  };

  /** Undefined when a source is another one by now. */
  const attempt = async (
    tenant: { readonly id: Id<"tenant">; readonly name: string },
    clientId: string,
    certificate: ClientCertificate,
    fresh: boolean,
  ): Promise<Principal | Refusal | undefined> => {
    let nearest = refuse("client_unknown", "no trust source of the tenant answers for this client_id by certificate");
    for (const issuer of await issuersFor(tenant.id, clientId, fresh)) {
      const source = await deps.sourceOf(tenant.id, issuer, fresh);
      if (source === undefined) continue;
      const judged = await judgeCertificate(certificate, clientId, source, {
        keyCache: deps.keyCache,
        now: deps.now(),
      });
      if (!judged.ok) {
        if (nearest.code === "client_unknown" || nearest.code === "certificate_untrusted") nearest = judged.refusal;
        continue;
      }
      const facts = await factsOf(tenant.id, source, judged.claims);
      if (facts.source_version !== source.version && !fresh) return undefined;
      const proven = { claims: judged.claims, subject: judged.subject, clientId, binding: "mtls" as const };
      const principal = principalOf(tenant, source, proven, facts);
      // Of a CA, each agent is a client of its own, and says which (RFC 8705 §2.1).
      if (source.config.kind === "x509_ca" && principal.agentId !== (isId("agent", clientId) ? clientId : undefined))
        return refuse("client_id_mismatch", "client_id must be the id of the agent that the certificate is bound to");
      return principal;
    }
    return nearest;
  };

  const factsOf = async (tenant: Id<"tenant">, source: Source, claims: Claims): Promise<AuthFacts> => {
    const answers = await Promise.all(
      anchorsOf(claims).map((anchors) => deps.confirm(tenant, { source_id: source.id, claims: anchors })),
    );
    const [first, ...rest] = answers.map(({ facts }) => facts);
    if (first === undefined) throw new TypeError("a certificate has no anchors");
    const all = [first, ...rest];
    const identities = new Map(all.flatMap((facts) => facts.identities.map((identity) => [identity.id, identity])));
    // Should the registry change between two of them, the older generation makes whoever compares it ask again.
    const oldest = all.reduce((one, other) => (other.generation < one.generation ? other : one));
    return { ...oldest, identities: [...identities.values()] };
  };

  return async (tenant, clientId, certificate) => {
    for (const fresh of [false, true]) {
      const outcome = await attempt(tenant, clientId, certificate, fresh);
      if (outcome === undefined) continue;
      if (!("code" in outcome)) return outcome;
      // What an older version of a source refuses, the present one may accept.
      if (fresh || outcome.code.startsWith("keys_")) throw refusal(outcome.code, outcome.detail);
    }
    throw refusal("client_unknown", "the client's trust source is being changed: try again");
  };
}

/** Claims as the registry looks them up, one value each: all that have one, and then the others, value by value. */
function anchorsOf(claims: Claims): readonly Readonly<Record<string, string>>[] {
  const single: Record<string, string> = {};
  const more: Record<string, string>[] = [];
  for (const [claim, value] of Object.entries(claims)) {
    if (typeof value === "string") single[claim] = value;
    else if (Array.isArray(value)) for (const one of value as string[]) more.push({ [claim]: one });
  }
  return [single, ...more];
}
