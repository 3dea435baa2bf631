import type { Db } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { invalid, MayflyError } from "../lib/errors.ts";

/** One use of a credential, as the tool that it was shown to saw it. */
export interface Use {
  readonly credential_id: string;
  readonly action: string;
  readonly resource: string;
  readonly outcome: "allowed" | "refused";
  /** RFC 3339, by the tool's clock. */
  readonly at: string;
}

/** How far a tool's clock may be ahead of ours. */
const SKEW_MS = 60_000;

/**
 * Keeps what a tool reports, as evidence that nobody can change. `unknown` counts the uses of credentials that do not exist,
 * are another tenant's, or are for a target that the tool does not serve: it is not told which. A use after the end of its
 * credential is kept, and marked. Throws `forbidden` for a tool that is not active, `invalid_request` for a use that is yet
 * to come.
 */
export async function reportUses(
  db: Db,
  { tenantId, agentId }: Principal,
  uses: readonly Use[],
  requestId: string,
): Promise<{ accepted: number; unknown: number }> {
  if (agentId === undefined) throw new MayflyError("forbidden", "only an agent reports uses: the tool that saw them");
  const items = uses.map(({ at, ...use }, index) => {
    const atMs = Date.parse(at);
    if (!(atMs <= Date.now() + SKEW_MS)) throw invalid(`/uses/${index}/at`, "is in the future");
    return { ...use, at_ms: atMs };
  });
  const [done] = await db.callForTenant<{ accepted: number }>("report_uses", tenantId, [
    agentId,
    requestId,
    JSON.stringify(items),
  ]);
  if (done === undefined) throw new MayflyError("forbidden", "the agent is not active, so its reports are not taken");
  return { accepted: done.accepted, unknown: uses.length - done.accepted };
}
