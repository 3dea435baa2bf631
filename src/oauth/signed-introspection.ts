import type { Principal } from "../identity/principal.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";

/** The media type of a signed introspection answer (RFC 9701 §4); the JWT's `typ` is the same without `application/`. */
export const SIGNED_INTROSPECTION = "application/token-introspection+jwt";

/** Whether a caller's `Accept` names the signed form. Whoever takes anything gets JSON. */
export function wantsSigned(accept: string | undefined): boolean {
  const types = (accept ?? "").split(",").map((range) => range.split(";", 1)[0]?.trim().toLowerCase());
  return types.includes(SIGNED_INTROSPECTION);
}

/**
 * An introspection answer as a JWT for its caller (RFC 9701 §5), so that it is evidence of what the broker said. The
 * members of the token stay inside `token_introspection`: at the top they would make it look like that token.
 */
export async function signedIntrospection(
  deps: { readonly keys: SigningKeys; readonly issuerUrl: (tenantName: string) => string },
  caller: Principal,
  answer: object,
): Promise<string> {
  const signer = await deps.keys.signer(caller.tenantId, "introspection");
  return signer.sign("token-introspection+jwt", {
    iss: deps.issuerUrl(caller.tenantName),
    aud: caller.clientId ?? caller.subject,
    iat: Math.floor(Date.now() / 1000),
    token_introspection: answer,
  });
}
