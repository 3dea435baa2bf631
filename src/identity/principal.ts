import type { X509Certificate } from "node:crypto";
import type { Id } from "../lib/ids.ts";

/** What a caller may do. `operator` works across tenants (in the system tenant) and never within one. */
export const roles = ["agent", "orchestrator", "approver", "auditor", "admin", "operator"] as const;
export type Role = (typeof roles)[number];

/** How the caller is bound to its token. `bearer`: whoever holds the text holds the rights. */
export type Binding = "bearer" | "dpop" | "mtls";

/** A key as `cnf` names it (RFC 7800): its RFC 7638 thumbprint (RFC 9449 §6.1), or its certificate's (RFC 8705 §3.1). */
export type KeyConfirmation = { readonly jkt: string } | { readonly "x5t#S256": string };

/** How a token that is bound to this key is shown (RFC 9449 §5, RFC 8705 §3: one that is bound to a certificate is Bearer). */
export function tokenTypeOf(confirmation: KeyConfirmation | undefined): "Bearer" | "DPoP" {
  return confirmation !== undefined && "jkt" in confirmation ? "DPoP" : "Bearer";
}

/** Anyone authenticated, and how. `subject` is stable and unique in the tenant; it is what audit events call the actor. */
export interface Principal {
  readonly tenantId: Id<"tenant">;
  readonly tenantName: string;
  readonly subject: string;
  readonly roles: readonly Role[];
  readonly binding: Binding;
  /** Of the tenant's registry, when it said so: as long as it is the same, all this is still true. */
  readonly generation: number;
  /** Set when the caller is an agent: it acts only as itself. */
  readonly agentId?: Id<"agent">;
  readonly identityId?: Id<"identity">;
  readonly trustSourceId?: Id<"trustSource">;
  /** The key that the caller has proven to hold for this request: what is minted for it is bound to that key. */
  readonly confirmation?: KeyConfirmation;
  /** What the caller calls itself: the `sub` of its token, and its `client_id` in OAuth. */
  readonly clientId?: string;
}

/**
 * How sure it has to be. `now`: true at this moment. `remembered`: may be from memory, and true only if the registry's
 * generation is still the principal's; for endpoints that read the generation anyway, in the statement that does the
 * work. `again`: true at this moment, for a token that this very request has been let in with.
 */
export type Certainty = "now" | "remembered" | "again";

/** A principal that may be from memory, and the way to have it looked up again at this moment. */
export interface RememberedCaller {
  readonly principal: Principal;
  readonly authenticateAgain: () => Promise<Principal>;
}

/** Client authentication by assertion (RFC 7521 §4.2), as it was sent: nothing of it is verified. */
export interface ClientAssertion {
  readonly type: string;
  readonly assertion: string;
  readonly clientId: string | undefined;
}

/**
 * The certificate of the connection that a request came by. That the caller holds its key is proven, by us or by a trusted
 * proxy; whether anybody vouches for it is for a trust source to say, and no byte of it is verified.
 */
export interface ClientCertificate {
  readonly leaf: X509Certificate;
  /** What the caller sent along to find a way to an anchor: in no order, neither verified nor needed. */
  readonly chain: readonly X509Certificate[];
  /** `x5t#S256` (RFC 8705 §3.1): base64url of the SHA-256 of the DER. */
  readonly thumbprint: string;
}
