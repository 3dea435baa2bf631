import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { notVault, type VaultLane } from "./vault-client.ts";
import { hcl } from "./vault-inspect.ts";
import { revokeInVault } from "./vault-revoke.ts";

/** The child token ends a little after the credential, so that a revoke in time is what ends it and the receipt says so. */
const GRACE_SECONDS = 5;
/** How long an issue that failed tries to take back what it made. */
export const CLEAN_UP_MS = 3_000;

interface ChildMaker {
  readonly mint: VaultLane;
  readonly config: { readonly token_role: string; readonly deployment: string };
}

interface ChildRequest {
  readonly access: readonly { readonly policies: readonly string[] }[];
  readonly expiresAt: Date;
  readonly credentialId: string;
  readonly downstreamName: string;
}

/** What is known of a child token once it is made. */
export interface Child {
  readonly token: Secret;
  readonly accessor: string;
  /** In milliseconds since 1970, on the early side. */
  readonly endsAtMs: number;
}

const childMade = z.object({
  auth: z.object({
    client_token: z.string().min(1),
    accessor: z.string().regex(/^[A-Za-z0-9._-]{1,256}$/),
    lease_duration: z.number().positive(),
    orphan: z.boolean(),
    token_type: z.string(),
    token_policies: z.array(z.string()),
  }),
});

/** Makes the child token, with these policies and no other. Nothing else knows it until it is used. */
export async function makeChild(
  { mint, config: { token_role: role, deployment } }: ChildMaker,
  { access: wanted, expiresAt, credentialId, downstreamName }: ChildRequest,
  signal: AbortSignal,
): Promise<Child> {
  const startedAtMs = Date.now();
  const seconds = Math.max(1, Math.ceil((expiresAt.getTime() - startedAtMs) / 1000)) + GRACE_SECONDS;
  const policies = [...new Set(wanted.flatMap((one) => one.policies))].sort();
  const path = `auth/token/create/${role}`;
  const answer = await mint.call(
    {
      method: "write",
      path,
      data: {
        policies,
        no_default_policy: true,
        renewable: false,
        type: "service",
        ttl: `${seconds}s`,
        explicit_max_ttl: `${seconds}s`,
        display_name: downstreamName,
        meta: { mayfly_credential: credentialId, mayfly_deployment: deployment },
      },
    },
    signal,
  );
  if (!answer.ok)
    throw answer.refusal(
      answer.status === 403
        ? `the broker may not make child tokens: ${hcl(path, "update")}`
        : `no child token was made: token role ${role} must allow the policies ${policies.join(", ")}`,
    );
  const parsed = childMade.safeParse(answer.body);
  // Without an accessor nothing can be taken back, so nothing is read: it ends by itself.
  if (!parsed.success) throw notVault();
  const { auth } = parsed.data;
  const asked = auth.token_policies.toSorted().join() === policies.join() && auth.lease_duration <= seconds;
  if (!asked || !auth.orphan || auth.token_type !== "service") {
    await revokeInVault(mint, { accessor: auth.accessor }, AbortSignal.timeout(CLEAN_UP_MS)).catch(() => undefined);
    throw new MayflyError("target_rejected", `token role ${role} makes other tokens than asked for (policies, orphan)`);
  }
  return {
    token: new Secret(auth.client_token),
    accessor: auth.accessor,
    endsAtMs: startedAtMs + auth.lease_duration * 1000,
  };
}
