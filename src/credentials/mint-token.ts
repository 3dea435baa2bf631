import { partiesOf } from "../delegation/parties.ts";
import { tokenTypeOf } from "../identity/principal.ts";
import { selfContainedIssuer } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { statusUri } from "../status/status-list.ts";
import { abandon, type Finish, type MintContext, type MintDeps } from "./mint-deps.ts";
import type { MintRequest } from "./mint-facts.ts";
import { type AgentPrincipal, blocked, intentOf, mintedOf, type Plan } from "./mint-plan.ts";
import type { IntentSql } from "./mint-sql.ts";

/** A JWT is signed once its intent is committed: it needs no far side. */
export async function mintToken(
  deps: MintDeps,
  sql: IntentSql,
  principal: AgentPrincipal,
  request: MintRequest,
  plan: Plan,
  context: MintContext,
): Promise<Finish | undefined> {
  const { checked, lifetime: life } = plan;
  const issuer = selfContainedIssuer(checked.target.issuer);
  if (issuer === undefined) throw new MayflyError("internal", "the issuer is not self-contained");
  const { config } = await deps.targets.config(principal.tenantId, checked.target.id, checked.target.version);
  const { typ, claims } = issuer.token(config, {
    taskId: checked.task.id,
    purpose: checked.purpose.name,
    environment: checked.resources[0]?.environment ?? "",
    dataClass: checked.dataClass,
    actions: request.actions,
    resources: checked.resources.map((resource) => resource.name),
    access: checked.grants.map((grant) => grant.access),
    delegation: request.delegation,
  });
  const signer = await deps.keys.signer(principal.tenantId, "access_token", checked.generation, checked.signingKid);
  const status = await deps.statusPlaces.take(principal.tenantId, life.expiresMs);
  const made = {
    limits: deps.limits,
    requestId: context.requestId,
    revocability: issuer.bounds(config).revocability,
    signingKid: signer.kid,
    status,
  };
  const { outcome } = await sql.commit(principal.tenantId, intentOf(plan, principal, request, made));
  if (outcome === "blocked") throw blocked();
  if (outcome === "changed") return undefined;
  return async () => {
    try {
      const iss = deps.issuerUrl(principal.tenantName);
      const token = signer.sign(typ, {
        iss,
        ...partiesOf(checked.agent.id, checked.parent, iss),
        client_id: checked.agent.id,
        iat: Math.floor(checked.nowMs / 1000),
        exp: life.expiresMs / 1000,
        jti: plan.id,
        txn: plan.decisionId,
        status: { status_list: { idx: status.index, uri: `${statusUri(iss)}/${status.list}` } },
        ...(principal.confirmation === undefined ? {} : { cnf: principal.confirmation }),
        ...claims,
      });
      const type = tokenTypeOf(principal.confirmation);
      const secret = { access_token: new Secret(token), token_type: type, expires_in: life.ttlSeconds };
      return mintedOf(plan, made.revocability, life.ttlSeconds, secret, claims);
    } catch (error) {
      await abandon(deps, principal, plan.id, context);
      throw error;
    }
  };
}
