import type { Db } from "../db/database.ts";
import { partiesOf } from "../delegation/parties.ts";
import { type Principal, tokenTypeOf } from "../identity/principal.ts";
import type { IssueRequest } from "../issuers/issuer.ts";
import type { AnyIssuer } from "../issuers/registry.ts";
import { selfContainedIssuer } from "../issuers/registry.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import type { Sealer } from "../lib/seal.ts";
import { Secret } from "../lib/secret.ts";
import type { Policies } from "../policy/policies.ts";
import type { WakeUps } from "../queue/queue.ts";
import type { StatusPlaces } from "../status/places.ts";
import { statusUri } from "../status/status-list.ts";
import type { TargetClients } from "../targets/target-clients.ts";
import { checkRecords, denied } from "./check-records.ts";
import { decideMint } from "./decide-mint.ts";
import type { MintFacts, MintRequest } from "./mint-facts.ts";
import {
  type AgentPrincipal,
  blocked,
  intentOf,
  type Minted,
  type MintLimits,
  mintedOf,
  type Plan,
  PolicyRefusal,
} from "./mint-plan.ts";
import type { IntentSql, MintSql } from "./mint-sql.ts";
import { takeBack } from "./take-back.ts";

/** What a mint needs. */
export interface MintDeps {
  readonly db: Db;
  readonly policies: Policies;
  readonly targets: TargetClients;
  readonly keys: SigningKeys;
  readonly statusPlaces: StatusPlaces;
  readonly handles: Sealer;
  readonly wakeUps: WakeUps;
  readonly limits: MintLimits;
  /** The tenant's issuer string, `iss` of every token. */
  readonly issuerUrl: (tenantName: string) => string;
  readonly log: Log;
  readonly sql: MintSql;
}

/** `credentialId`: the id that an Idempotency-Key already stands for; a new one when absent. */
export interface MintContext {
  readonly requestId: string;
  /** Who calls, as the registry says it now: asked when the registry has changed since the caller was let in. */
  readonly authenticateAgain: () => Promise<Principal>;
  readonly credentialId?: Id<"credential"> | undefined;
}

/** Registry facts that changed between the read and the commit are read again, so often; then they are held still. */
const HOPEFUL_ROUNDS = 4;

/** What comes after the intent is committed. */
type Finish = () => Promise<Minted>;

/**
 * Mints one credential for one task, or throws: `denied` with every reason, `not_found`, `target_*` when the far side
 * would not. The order is the product (design §4): read, check the records, decide, commit the intent, touch the far
 * side outside any transaction, activate, answer once. Whatever fails after the intent leaves a row that the worker
 * finishes; a secret leaves only with an active row behind it (invariants 1, 3, 8).
 */
export async function mint(
  deps: MintDeps,
  remembered: AgentPrincipal,
  request: MintRequest,
  context: MintContext,
): Promise<Minted> {
  let caller = remembered;
  const again = async (): Promise<AgentPrincipal> => (caller = asAgent(await context.authenticateAgain()));
  let finish = await intendOnKept(deps, caller, request, context);
  for (let round = 1; finish === undefined && round <= HOPEFUL_ROUNDS; round += 1)
    finish = await intend(deps, deps.sql, { caller, again }, request, context);
  finish ??= await deps.sql.standingStill(caller.tenantId, async (sql) => {
    const attempt = () => intend(deps, sql, { caller, again }, request, context);
    // A task is no part of the registry and may end before the first commit. That one holds its meter: not before the next.
    return (await attempt()) ?? (await attempt());
  });
  if (finish === undefined)
    throw new MayflyError("unavailable", "the task changed again and again while the credential was being minted", {
      retryAfterSeconds: 1,
    });
  const minted = await finish();
  deps.wakeUps.at(new Date(minted.lifetime.expiresMs));
  return minted;
}

/** One round trip, when nothing has changed since the last mint for this task. Whatever it does not grant is asked anew. */
async function intendOnKept(
  deps: MintDeps,
  caller: AgentPrincipal,
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const { kept } = deps.sql;
  const facts = kept.find(caller.tenantId, caller.agentId, request);
  if (facts === undefined || facts.generation !== caller.generation) return undefined;
  try {
    const finish = await decideAndCommit(deps, deps.sql, caller, facts, request, context);
    if (finish !== undefined) return finish;
  } catch (error) {
    if (!(error instanceof MayflyError && (error.code === "denied" || error.code === "not_found"))) throw error;
  }
  kept.forget(caller.tenantId, caller.agentId, request);
  return undefined;
}

/** Reads the facts, decides on them and commits the intent. Undefined when one was another by then: nothing has happened. */
async function intend(
  deps: MintDeps,
  sql: IntentSql,
  { caller, again }: { readonly caller: AgentPrincipal; readonly again: () => Promise<AgentPrincipal> },
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const facts = await sql.facts(caller.tenantId, caller.agentId, request);
  // The caller and the facts must be of one generation: it is what the commit compares.
  const principal = facts.generation === caller.generation ? caller : await again();
  if (facts.generation !== principal.generation || principal.agentId !== caller.agentId) return undefined;
  return decideAndCommit(deps, sql, principal, facts, request, context);
}

async function decideAndCommit(
  deps: MintDeps,
  sql: IntentSql,
  principal: AgentPrincipal,
  facts: MintFacts,
  request: MintRequest,
  context: MintContext,
): Promise<Finish | undefined> {
  const checked = checkRecords(facts, request, principal);
  const judged = await decideMint(deps, principal, checked, request);
  if (judged.decision.outcome !== "allow") throw new PolicyRefusal(judged.decision);
  const plan: Plan = {
    id: context.credentialId ?? newId("credential"),
    decisionId: newId("decision"),
    checked,
    decision: judged.decision,
    lifetime: judged.lifetime,
  };
  return selfContainedIssuer(checked.target.issuer)
    ? mintToken(deps, sql, principal, request, plan, context)
    : mintDownstream(deps, sql, principal, request, plan, context);
}

/** Throws `forbidden` for a caller that is no agent. */
export function asAgent(principal: Principal): AgentPrincipal {
  if (isAgent(principal)) return principal;
  throw new MayflyError("forbidden", "only an agent mints, and only for itself");
}

function isAgent(principal: Principal): principal is AgentPrincipal {
  return principal.agentId !== undefined;
}

/** A JWT is signed once its intent is committed: it needs no far side. */
async function mintToken(
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

/** Intent, and then effect and activation. */
async function mintDownstream(
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

/** Tells the worker at once. If even this fails, the sweep finds the row when its time to be created has passed. */
async function abandon(
  deps: MintDeps,
  principal: Principal,
  id: Id<"credential">,
  context: MintContext,
): Promise<void> {
  try {
    const acting = { tenantId: principal.tenantId, actor: principal.subject, requestId: context.requestId };
    await deps.db.withTenant(acting, (tx) =>
      takeBack(tx, (query) => query.where("id", "=", id), { ...acting, by: principal.subject, reason: "mint_failed" }),
    );
    deps.wakeUps.now();
  } catch (error) {
    deps.log.warn({ err: error, credential: id }, "a failed mint is left to the sweep");
  }
}
