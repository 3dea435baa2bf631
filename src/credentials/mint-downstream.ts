import type { Principal } from "../identity/principal.ts";
import type { IssueRequest } from "../issuers/issuer.ts";
import type { AnyIssuer } from "../issuers/registry.ts";
import type { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { denied } from "./check-records.ts";
import { abandon, type Finish, type MintContext, type MintDeps } from "./mint-deps.ts";
import type { MintRequest } from "./mint-facts.ts";
import { type AgentPrincipal, blocked, intentOf, mintedOf, type Plan } from "./mint-plan.ts";
import type { IntentSql } from "./mint-sql.ts";

/** Intent, and then effect and activation. */
export async function mintDownstream(
  deps: MintDeps,
  sql: IntentSql,
  principal: AgentPrincipal,
  request: MintRequest,
  plan: Plan,
  context: MintContext,
): Promise<Finish | undefined> {
  const { checked } = plan;
  const { id: targetId, version } = checked.target;
  const { issuer, client, config } = await deps.targets.connect(
    principal.tenantId,
    targetId,
    version,
    sql.inTransaction,
  );
  const { downstreamName, handle } = issuer.name(plan.id, config);
  const seal = (whole: unknown): Buffer => deps.handles.seal(JSON.stringify(whole), plan.id);
  const bounds = issuer.bounds(config);
  const made = {
    limits: deps.limits,
    requestId: context.requestId,
    revocability: bounds.revocability,
    downstreamName,
    handleSealed: seal(handle),
  };
  const { outcome } = await sql.commit(principal.tenantId, intentOf(plan, principal, request, made));
  if (outcome === "blocked") throw blocked();
  if (outcome === "changed") return undefined;

  return async () => {
    try {
      const keep = (fuller: unknown) =>
        keepHandle(deps, principal, plan.id, seal(issuer.handle.parse(fuller)), context);
      const issued = await issue(deps, issuer, client, plan, { downstreamName, handle, keep });
      const activated = await deps.sql.activate(principal.tenantId, {
        id: plan.id,
        ...(issued.expiresAt === undefined ? {} : { expires_ms: issued.expiresAt.getTime() }),
      });
      // Ended, revoked or swept meanwhile: the row knows, the worker takes it back, and no secret leaves.
      if (activated.outcome !== "active") throw takenBack();
      const bound = bounds.revocability === "expiry" ? plan.lifetime.ttlSeconds : bounds.effectiveBoundSeconds;
      return mintedOf(plan, bounds.revocability, bound, issued.secret);
    } catch (error) {
      await abandon(deps, principal, plan.id, context);
      throw error;
    }
  };
}

function issue(
  deps: MintDeps,
  issuer: AnyIssuer,
  client: AsyncDisposable,
  plan: Plan,
  named: Pick<IssueRequest<unknown, unknown>, "downstreamName" | "handle" | "keep">,
): ReturnType<AnyIssuer["issue"]> {
  // The far side refuses to create it after this; a fifth is left for the way back and the activation.
  const createWithinMs = deps.limits.mintTimeoutSeconds * 800;
  return issuer.issue(client, {
    credentialId: plan.id,
    ...named,
    access: plan.checked.grants.map((grant) => grant.access),
    expiresAt: new Date(plan.lifetime.expiresMs),
    createWithinMs,
    signal: AbortSignal.timeout(createWithinMs),
  });
}

/** Stores a fuller handle, for as long as somebody is to take the credential back by it. */
async function keepHandle(
  deps: MintDeps,
  principal: Principal,
  id: Id<"credential">,
  sealed: Buffer,
  { requestId }: MintContext,
): Promise<void> {
  const { tenantId, subject: actor } = principal;
  const kept = await deps.db.withTenant({ tenantId, actor, requestId }, (tx) =>
    tx
      .updateTable("credentials")
      .set({ handle_sealed: sealed })
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .where("state", "in", ["pending", "revoking"])
      .returning("state")
      .executeTakeFirst(),
  );
  if (kept?.state !== "pending") throw takenBack();
}

function takenBack(): MayflyError {
  return denied([{ code: "taken_back", detail: "the credential was taken back while it was being made" }]);
}
