import { auditEndpoints } from "./audit/audit.routes.ts";
import type { Broker } from "./broker.ts";
import { credentialEndpoints } from "./credentials/credentials.routes.ts";
import { MINT_PATHS, recordedByMint } from "./credentials/mint-recorded.ts";
import type { Endpoint } from "./http/endpoint.ts";
import { createHttpServer } from "./http/server.ts";
import { createAuthenticator } from "./identity/authenticate.ts";
import { identityEndpoints } from "./identity/identities.routes.ts";
import { trustSourceEndpoints } from "./identity/trust-sources.routes.ts";
import { keyEndpoints } from "./keys/keys.routes.ts";
import { SYSTEM_TENANT } from "./lib/ids.ts";
import { oauthEndpoints } from "./oauth/oauth.routes.ts";
import { policyEndpoints } from "./policy/policies.routes.ts";
import { giveDefaultPolicies } from "./policy/publish-policies.ts";
import { agentEndpoints } from "./registry/agents.routes.ts";
import { ownerEndpoints } from "./registry/owners.routes.ts";
import { purposeEndpoints } from "./registry/purposes.routes.ts";
import { relationshipEndpoints } from "./registry/relationships.routes.ts";
import { resourceEndpoints } from "./registry/resources.routes.ts";
import { teamEndpoints } from "./registry/teams.routes.ts";
import { tenantEndpoints } from "./registry/tenants.routes.ts";
import { statusEndpoints } from "./status/status.routes.ts";
import { targetEndpoints } from "./targets/targets.routes.ts";
import { taskEndpoints } from "./tasks/tasks.routes.ts";
import { useEndpoints } from "./uses/uses.routes.ts";

/** A listening API. */
export interface Api {
  readonly port: number;
  readonly url: string;
  /** Finishes what is in flight, then closes. */
  stop(): Promise<void>;
}

/** Every endpoint of the product. A new concept adds its line here. */
function allEndpoints(broker: Broker): Endpoint[] {
  return [
    ...credentialEndpoints({ ...broker, onMint: broker.metrics.minted }),
    ...taskEndpoints(broker),
    ...tenantEndpoints({ ...broker, onTenantCreated: giveDefaultPolicies }),
    ...ownerEndpoints(broker),
    ...teamEndpoints(broker),
    ...agentEndpoints(broker),
    ...trustSourceEndpoints(broker),
    ...identityEndpoints(broker),
    ...resourceEndpoints(broker),
    ...relationshipEndpoints(broker),
    ...purposeEndpoints(broker),
    ...targetEndpoints(broker),
    ...policyEndpoints(broker),
    ...auditEndpoints(broker),
    ...keyEndpoints(broker),
    ...oauthEndpoints({ ...broker, onMint: broker.metrics.minted }),
    ...useEndpoints(broker),
    ...statusEndpoints({ ...broker, onStream: broker.metrics.streamsOpen }),
  ];
}

const KEY_REFRESH_MS = 5_000;

/** Starts the API of an open broker. Resolves when it listens. */
export async function startApi(broker: Broker, options: { readonly validateReplies?: boolean } = {}): Promise<Api> {
  const { config, db, log, record } = broker;
  const server = createHttpServer({
    endpoints: allEndpoints(broker),
    authenticate: createAuthenticator({ ...broker, now: () => new Date() }),
    idempotency: broker.idempotency,
    log,
    metrics: broker.metrics.registry,
    health: { database: () => db.check() },
    // Mints do not need it, and revocations are late by a sweep interval at most (invariant 5).
    healthWarnings: { queue: () => broker.queue.check() },
    validateReplies: options.validateReplies === true,
    clientCertProxies: config.clientCertProxies,
    ...(config.tls === undefined ? {} : { tls: { cert: config.tls.cert.reveal(), key: config.tls.key.reveal() } }),
    // Refused proofs are recorded where they are refused, with their tenant; this is everything else (invariant 8).
    async onRefused(principal, refusal) {
      if (refusal.code === "unauthenticated") return;
      // The server's half of every first proof (RFC 9449 §8), and no refusal: the same request comes again.
      if (refusal.reasons?.[0]?.code === "use_dpop_nonce") return;
      const isMint = MINT_PATHS.has(refusal.route);
      if (isMint && recordedByMint(refusal.code)) return;
      await record(principal?.tenantId ?? SYSTEM_TENANT, {
        type: isMint ? "credential.denied" : "request.refused",
        actor: principal?.subject ?? "unknown",
        ...(principal?.agentId === undefined ? {} : { agent_id: principal.agentId }),
        request_id: refusal.requestId,
        data: {
          method: refusal.method,
          route: refusal.route,
          code: refusal.code,
          pointers: refusal.pointers,
          ...(refusal.reasons ? { reasons: refusal.reasons } : {}),
        },
      });
    },
  });
  const port = await server.start(config.host, config.port);
  const host = config.host.includes(":") ? `[${config.host}]` : config.host;
  broker.setPublicUrl(`http://${host}:${port}`);
  if (config.tls !== undefined)
    broker.setTlsUrl(`https://${host}:${await server.startTls(config.host, config.tls.port)}`);
  void broker.refreshKeys();
  const refresh = setInterval(() => void broker.refreshKeys(), KEY_REFRESH_MS);
  refresh.unref();
  return {
    port,
    url: broker.publicUrl(),
    async stop() {
      clearInterval(refresh);
      await server.stop();
    },
  };
}
