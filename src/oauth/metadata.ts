import { proofAlgorithms } from "../identity/dpop-proof.ts";
import { signatureAlgorithms } from "../identity/public-jwk.ts";
import { TASK_DETAILS } from "../issuers/registry.ts";
import { statusUri } from "../status/status-list.ts";
import { grantTypes } from "./token.ts";

/** The path of a tenant's metadata: RFC 8414 §3.1 puts the well-known part before the issuer's own path. */
export const METADATA_PATH = "/.well-known/oauth-authorization-server/t/{tenant}";

/** How clients with certificates get in. `url` is the origin that they see, without a slash at its end. */
export interface Mtls {
  readonly url: string;
  readonly tenantName: string;
}

/**
 * A tenant's authorization server metadata (RFC 8414 §2). What has a default there that is wrong here is always said.
 * `response_types_supported` is required and empty: there is no authorization endpoint.
 */
export function serverMetadata(
  publicUrl: string,
  issuer: string,
  { mtls, draftSpiffeClientAuth }: { readonly mtls: Mtls | undefined; readonly draftSpiffeClientAuth: boolean },
): Readonly<Record<string, unknown>> {
  const methods = [
    "private_key_jwt",
    ...(draftSpiffeClientAuth ? ["spiffe_jwt"] : []),
    ...(mtls === undefined ? [] : ["tls_client_auth", "self_signed_tls_client_auth"]),
    ...(mtls !== undefined && draftSpiffeClientAuth ? ["spiffe_x509"] : []),
  ];
  const byAssertion = (endpoint: string): Record<string, unknown> => ({
    [`${endpoint}_endpoint_auth_methods_supported`]: methods,
    [`${endpoint}_endpoint_auth_signing_alg_values_supported`]: signatureAlgorithms,
  });
  return {
    issuer,
    jwks_uri: `${issuer}/.well-known/jwks.json`,
    token_endpoint: `${publicUrl}/oauth/token`,
    ...byAssertion("token"),
    introspection_endpoint: `${publicUrl}/oauth/introspect`,
    ...byAssertion("introspection"),
    introspection_signing_alg_values_supported: ["ES256"],
    revocation_endpoint: `${publicUrl}/oauth/revoke`,
    ...byAssertion("revocation"),
    status_list_aggregation_endpoint: statusUri(issuer),
    mayfly_status_events_endpoint: `${publicUrl}/status/events`,
    mayfly_uses_endpoint: `${publicUrl}/v1/uses`,
    dpop_signing_alg_values_supported: proofAlgorithms,
    response_types_supported: [],
    grant_types_supported: grantTypes,
    authorization_details_types_supported: [TASK_DETAILS],
    ...(mtls === undefined
      ? {}
      : { tls_client_certificate_bound_access_tokens: true, mtls_endpoint_aliases: aliases(mtls) }),
  };
}

/** RFC 8705 §5: where a client with a certificate goes. The paths name the tenant, because a certificate does not. */
function aliases({ url, tenantName }: Mtls): Readonly<Record<string, string>> {
  const at = (endpoint: string): string => `${url}/t/${tenantName}/oauth/${endpoint}`;
  return {
    token_endpoint: at("token"),
    introspection_endpoint: at("introspect"),
    revocation_endpoint: at("revoke"),
  };
}
