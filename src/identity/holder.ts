import type { Proofs } from "./dpop.ts";
import type { Principal, RememberedCaller } from "./principal.ts";

export interface HolderDeps {
  readonly proofs: Proofs;
  readonly publicUrl: () => string;
}

/**
 * The caller as the holder of the key that the request's DPoP proof is by (RFC 9449), and the headers that the answer
 * needs for the next proof; the caller as it was where there is no proof. What is minted for it is bound to that key.
 * Throws `invalid_dpop_proof` and `use_dpop_nonce`.
 */
export async function holderOf<
  Caller extends RememberedCaller & { readonly request: { readonly headers: NodeJS.Dict<string | string[]> } },
>(
  { proofs, publicUrl }: HolderDeps,
  caller: Caller,
  path: string,
): Promise<{ readonly caller: Caller; readonly headers: Readonly<Record<string, string>> }> {
  const proof = caller.request.headers["dpop"];
  if (proof === undefined) return { caller, headers: {} };
  const request = { method: "POST", url: `${publicUrl()}${path}` };
  const keyThumbprint = await proofs.check(caller.principal.tenantId, String(proof), request);
  const held = (principal: Principal): Principal => ({ ...principal, binding: "dpop", keyThumbprint });
  return {
    caller: {
      ...caller,
      principal: held(caller.principal),
      authenticateAgain: async () => held(await caller.authenticateAgain()),
    },
    headers: { "dpop-nonce": proofs.nonce() },
  };
}
