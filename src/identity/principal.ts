import type { Id } from "../lib/ids.ts";

/** What a caller may do. `operator` works across tenants (in the system tenant) and never within one. */
export const roles = ["agent", "orchestrator", "approver", "auditor", "admin", "operator"] as const;
export type Role = (typeof roles)[number];

/** How the caller is bound to its token. `bearer`: whoever holds the text holds the rights. */
export type Binding = "bearer" | "dpop" | "mtls";

/** Anyone authenticated, and how. `subject` is stable and unique in the tenant; it is what audit events call the actor. */
export interface Principal {
  readonly tenantId: Id<"tenant">;
  readonly tenantName: string;
  readonly subject: string;
  readonly roles: readonly Role[];
  readonly binding: Binding;
  /** Set when the caller is an agent: it acts only as itself. */
  readonly agentId?: Id<"agent">;
  readonly identityId?: Id<"identity">;
  readonly trustSourceId?: Id<"trustSource">;
}
