import { z } from "zod";
import { type IntrospectSql, introspect } from "../credentials/introspect.ts";
import type { RecordedMintDeps } from "../credentials/mint-recorded.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type HolderDeps, holderOf } from "../identity/holder.ts";
import { notFound } from "../lib/errors.ts";
import { METADATA_PATH, serverMetadata } from "./metadata.ts";
import { type RevokeTokenDeps, revokeToken } from "./revoke-token.ts";
import { SIGNED_INTROSPECTION, signedIntrospection, wantsSigned } from "./signed-introspection.ts";
import { issueToken } from "./token.ts";

interface OAuthDeps extends RecordedMintDeps, RevokeTokenDeps, HolderDeps {
  readonly introspection: IntrospectSql;
  readonly config: {
    readonly tls: unknown;
    readonly clientCertProxies: readonly string[];
    readonly draftSpiffeClientAuth: boolean;
  };
}

// RFC 6749 §3.2: unknown parameters are ignored, at every OAuth endpoint.
const tokenForm = z.object({
  grant_type: z.string(),
  resource: z.array(z.string()).optional(),
  authorization_details: z.string().optional(),
  scope: z.string().optional(),
  subject_token: z.string().optional(),
  subject_token_type: z.string().optional(),
  actor_token: z.string().optional(),
  requested_token_type: z.string().optional(),
  audience: z.array(z.string()).optional(),
});
const aToken = z.object({ token: z.string().min(1), token_type_hint: z.string().optional() });

/**
 * The OAuth authorization server of each tenant: metadata, token, introspection, revocation. Where clients show certificates
 * the last three exist a second time, at paths that name the tenant: `mtls_endpoint_aliases` (RFC 8705 §5).
 */
export function oauthEndpoints(deps: OAuthDeps): Endpoint[] {
  const { tls, clientCertProxies, draftSpiffeClientAuth } = deps.config;
  const takesCertificates = tls !== undefined || clientCertProxies.length > 0;
  return [
    metadataEndpoint(deps, draftSpiffeClientAuth),
    ...clientEndpoints(deps, "", z.strictObject({})),
    ...(takesCertificates ? clientEndpoints(deps, "/t/{tenant}", z.strictObject({ tenant: z.string() })) : []),
  ];
}

function metadataEndpoint(deps: OAuthDeps, draftSpiffeClientAuth: boolean): Endpoint {
  return endpoint({
    method: "get",
    path: METADATA_PATH,
    summary: "The tenant's authorization server metadata (RFC 8414)",
    tag: "oauth",
    allow: "public",
    params: z.strictObject({ tenant: z.string().max(63) }),
    replies: { 200: z.looseObject({ issuer: z.string() }) },
    async handle({ params: { tenant: tenantName } }) {
      const [tenant] = await deps.db.callAcrossTenants<{ id: string }>("tenant_by_name", [tenantName]);
      if (tenant === undefined) throw notFound();
      const url = deps.mtlsUrl();
      const mtls = url === undefined ? undefined : { url, tenantName };
      return {
        status: 200,
        body: serverMetadata(deps.publicUrl(), deps.issuerUrl(tenantName), { mtls, draftSpiffeClientAuth }),
        headers: { "cache-control": "public, max-age=300" },
      };
    },
  });
}

/** The endpoints that authenticate clients. `base` is empty, or the part of the path that names the tenant. */
function clientEndpoints(deps: OAuthDeps, base: "" | "/t/{tenant}", params: z.ZodType<object>): Endpoint[] {
  return [
    endpoint({
      method: "post",
      path: `${base}/oauth/token`,
      summary:
        "An access token for one task: by client credentials (RFC 6749 §4.4, RFC 9396, RFC 8707), or from another one (RFC 8693)",
      tag: "oauth",
      params,
      allow: ["agent"],
      remembersCaller: true,
      clientAssertion: true,
      bodyKind: "form",
      errors: "oauth",
      repeatable: ["resource", "audience"],
      body: tokenForm,
      replies: {
        200: z.strictObject({
          access_token: z.string(),
          issued_token_type: z.string().optional(),
          token_type: z.enum(["Bearer", "DPoP"]),
          expires_in: z.int(),
          scope: z.string().optional(),
          authorization_details: z.array(z.looseObject({ type: z.string() })),
        }),
      },
      async handle(call) {
        const { caller, headers } = await holderOf(
          deps,
          call,
          `${base.replace("{tenant}", call.principal.tenantName)}/oauth/token`,
        );
        return { status: 200, body: await issueToken(deps, caller), headers };
      },
    }),
    endpoint({
      method: "post",
      path: `${base}/oauth/introspect`,
      summary: "Whether a token that Mayfly signed is alive at this moment (RFC 7662, signed: RFC 9701)",
      tag: "oauth",
      params,
      allow: ["agent", "orchestrator", "auditor", "admin"],
      remembersCaller: true,
      clientAssertion: true,
      bodyKind: "form",
      errors: "oauth",
      body: aToken,
      replies: { 200: z.union([z.looseObject({ active: z.boolean() }), z.string()]) },
      async handle(call) {
        const { keys, issuerUrl, introspection: sql } = deps;
        const answer = await introspect({ keys, issuerUrl, sql }, call, call.body.token);
        if (!wantsSigned(call.request.headers.accept)) return { status: 200, body: answer };
        return {
          status: 200,
          body: await signedIntrospection(deps, call.principal, answer),
          headers: { "content-type": SIGNED_INTROSPECTION },
        };
      },
    }),
    endpoint({
      method: "post",
      path: `${base}/oauth/revoke`,
      summary: "Take back a token (RFC 7009): an agent its own, others any",
      tag: "oauth",
      params,
      allow: ["agent", "orchestrator", "admin"],
      clientAssertion: true,
      bodyKind: "form",
      errors: "oauth",
      body: aToken,
      replies: { 200: null },
      async handle({ principal, body, requestId }) {
        await revokeToken(deps, principal, body.token, requestId);
        return { status: 200 };
      },
    }),
  ];
}
