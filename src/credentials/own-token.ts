import type { Principal } from "../identity/principal.ts";
import { ACCESS_TOKEN_TYP } from "../issuers/registry.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { type Id, isId } from "../lib/ids.ts";

export interface OwnTokenDeps {
  readonly keys: SigningKeys;
  readonly issuerUrl: (tenantName: string) => string;
}

/** An access token that this tenant's keys signed, and the credential that it is. */
export interface OwnToken {
  readonly id: Id<"credential">;
  readonly claims: Readonly<Record<string, unknown>>;
}

/**
 * What a token is, if it is an access token of the caller's tenant; undefined for any other text, and for what a key signed
 * that was withdrawn by the caller's generation. Says nothing about time or revocation.
 */
export async function ownToken(
  { keys, issuerUrl }: OwnTokenDeps,
  { tenantId, tenantName, generation }: Pick<Principal, "tenantId" | "tenantName" | "generation">,
  token: string,
): Promise<OwnToken | undefined> {
  const claims = token.length > 8192 ? undefined : await keys.verify(tenantId, token, ACCESS_TOKEN_TYP, generation);
  if (claims?.["iss"] !== issuerUrl(tenantName)) return undefined;
  const { jti } = claims;
  return typeof jti === "string" && isId("credential", jti) ? { id: jti, claims } : undefined;
}
