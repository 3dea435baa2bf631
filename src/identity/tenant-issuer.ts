/**
 * The issuer string of a tenant: the `iss` of what Mayfly signs for it and the only audience that a caller's token may
 * carry. One per tenant, so that a token of one tenant is nothing at another (reliability D14).
 */
export function tenantIssuer(publicUrl: string, tenantName: string): string {
  return `${publicUrl}/t/${tenantName}`;
}

/** The tenant that an audience names, or undefined. Exact: no trailing slash, no other host, no decoding. */
export function tenantNameOf(publicUrl: string, audience: string): string | undefined {
  const prefix = `${publicUrl}/t/`;
  if (!audience.startsWith(prefix)) return undefined;
  const name = audience.slice(prefix.length);
  return /^[a-z0-9][a-z0-9-]{0,62}$/.test(name) ? name : undefined;
}
