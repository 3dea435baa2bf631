import { z } from "zod";
import { type IntrospectSql, introspect } from "../credentials/introspect.ts";
import type { RecordedMintDeps } from "../credentials/mint-recorded.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import type { Proofs } from "../identity/dpop.ts";
import type { Principal, RememberedCaller } from "../identity/principal.ts";
import { notFound } from "../lib/errors.ts";
import { METADATA_PATH, serverMetadata } from "./metadata.ts";
import { type RevokeTokenDeps, revokeToken } from "./revoke-token.ts";
import { SIGNED_INTROSPECTION, signedIntrospection, wantsSigned } from "./signed-introspection.ts";
import { issueToken } from "./token.ts";

interface OAuthDeps extends RecordedMintDeps, RevokeTokenDeps {
  readonly introspection: IntrospectSql;
  readonly publicUrl: () => string;
  readonly proofs: Proofs;
}

// RFC 6749 §3.2: unknown parameters are ignored, at every OAuth endpoint.
const tokenForm = z.object({
  grant_type: z.string(),
  resource: z.array(z.string()).optional(),
  authorization_details: z.string().optional(),
  scope: z.string().optional(),
});
const aToken = z.object({ token: z.string().min(1), token_type_hint: z.string().optional() });

const TOKEN_PATH = "/oauth/token";
/** The same call by a caller who has proven to hold a key. */
function heldBy<Caller extends RememberedCaller>(call: Caller, keyThumbprint: string): Caller {
  const held = (principal: Principal): Principal => ({ ...principal, binding: "dpop", keyThumbprint });
  return {
    ...call,
    principal: held(call.principal),
    authenticateAgain: async () => held(await call.authenticateAgain()),
  };
}

/** The OAuth authorization server of each tenant: metadata, token, introspection, revocation. */
export function oauthEndpoints(deps: OAuthDeps): Endpoint[] {
  return [
    endpoint({
      method: "get",
      path: METADATA_PATH,
      summary: "The tenant's authorization server metadata (RFC 8414)",
      tag: "oauth",
      allow: "public",
      params: z.strictObject({ tenant: z.string().max(63) }),
      replies: { 200: z.looseObject({ issuer: z.string() }) },
      async handle({ params }) {
        const [tenant] = await deps.db.callAcrossTenants<{ id: string }>("tenant_by_name", [params.tenant]);
        if (tenant === undefined) throw notFound();
        return {
          status: 200,
          body: serverMetadata(deps.publicUrl(), deps.issuerUrl(params.tenant)),
          headers: { "cache-control": "public, max-age=300" },
        };
      },
    }),
    endpoint({
      method: "post",
      path: TOKEN_PATH,
      summary: "An access token for one task (RFC 6749 §4.4 with RFC 9396 and RFC 8707)",
      tag: "oauth",
      allow: ["agent"],
      remembersCaller: true,
      clientAssertion: true,
      bodyKind: "form",
      errors: "oauth",
      repeatable: ["resource"],
      body: tokenForm,
      replies: {
        200: z.strictObject({
          access_token: z.string(),
          token_type: z.enum(["Bearer", "DPoP"]),
          expires_in: z.int(),
          scope: z.string().optional(),
          authorization_details: z.array(z.looseObject({ type: z.string() })),
        }),
      },
      async handle(call) {
        const sent = call.request.headers["dpop"];
        if (sent === undefined) return { status: 200, body: await issueToken(deps, call) };
        const request = { method: "POST", url: `${deps.publicUrl()}${TOKEN_PATH}` };
        const thumbprint = await deps.proofs.check(call.principal.tenantId, String(sent), request);
        const headers = { "dpop-nonce": deps.proofs.nonce() };
        return { status: 200, body: await issueToken(deps, heldBy(call, thumbprint)), headers };
      },
    }),
    endpoint({
      method: "post",
      path: "/oauth/introspect",
      summary: "Whether a token that Mayfly signed is alive at this moment (RFC 7662, signed: RFC 9701)",
      tag: "oauth",
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
      path: "/oauth/revoke",
      summary: "Take back a token (RFC 7009): an agent its own, others any",
      tag: "oauth",
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
