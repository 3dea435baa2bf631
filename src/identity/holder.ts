import type { Proofs } from "./dpop.ts";
import type { Principal, RememberedCaller } from "./principal.ts";

export interface HolderDeps {
  readonly proofs: Proofs;
  readonly publicUrl: () => string;
  /** Where clients show certificates; undefined when nowhere. */
  readonly mtlsUrl: () => string | undefined;
}

/**
 * The caller of a POST to `path` as the holder of the key that its DPoP proof is by
 * (RFC 9449), and the headers that the answer
 * needs for the next proof; the caller as it was where there is no proof. What is minted for it is bound to that key.
 * Throws `invalid_dpop_proof` and `use_dpop_nonce`.
 */
export async function holderOf<
  Caller extends RememberedCaller & {
    readonly request: { readonly headers: NodeJS.Dict<string | string[]>; readonly door?: string };
  },
>(
  { proofs, publicUrl, mtlsUrl }: HolderDeps,
  caller: Caller,
  path: string,
): Promise<{ readonly caller: Caller; readonly headers: Readonly<Record<string, string>> }> {
  const proof = caller.request.headers["dpop"];
  if (proof === undefined) return { caller, headers: {} };
  const origin = (caller.request.door === "tls" ? mtlsUrl() : undefined) ?? publicUrl();
  const jkt = await proofs.check(caller.principal.tenantId, String(proof), {
    method: "POST",
    url: `${origin}${path}`,
  });
  // This key, whatever certificate the connection has shown.
  const held = (principal: Principal): Principal => ({ ...principal, confirmation: { jkt } });
  return {
    caller: {
      ...caller,
      principal: held(caller.principal),
      authenticateAgain: async () => held(await caller.authenticateAgain()),
    },
    headers: { "dpop-nonce": proofs.nonce() },
  };
}
