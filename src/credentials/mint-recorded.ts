import type { RememberedCaller } from "../identity/principal.ts";
import { MayflyError } from "../lib/errors.ts";
import { asAgent, mint } from "./mint.ts";
import type { MintDeps } from "./mint-deps.ts";
import type { MintRequest } from "./mint-facts.ts";
import { mintOnce } from "./mint-once.ts";
import { type AgentPrincipal, type Minted, PolicyRefusal } from "./mint-plan.ts";

/** Where agents mint. Refusals there are events of a kind of their own. */
export const MINT_PATHS: ReadonlySet<string> = new Set(["/v1/credentials", "/oauth/token", "/t/{tenant}/oauth/token"]);

/** Refusals that {@link mintRecorded} records itself, with the task and, where policy refused, the decision. */
export function recordedByMint(code: string): boolean {
  return code === "denied" || code === "not_found";
}

export interface RecordedMintDeps extends MintDeps {
  readonly onMint?: (outcome: string, issuer: string) => void;
}

interface MintCall extends RememberedCaller {
  readonly requestId: string;
  readonly idempotencyKey?: string | undefined;
}

/** A {@link mint} as every edge does it: once per idempotency key, counted, and a refusal recorded before it leaves. */
export async function mintRecorded(deps: RecordedMintDeps, call: MintCall, request: MintRequest): Promise<Minted> {
  const { principal, requestId, idempotencyKey, authenticateAgain } = call;
  const context = { requestId, authenticateAgain };
  const agent = asAgent(principal);
  try {
    const minted =
      idempotencyKey === undefined
        ? await mint(deps, agent, request, context)
        : await mintOnce(deps.db, principal, { key: idempotencyKey, payload: request, requestId }, (credentialId) =>
            mint(deps, agent, request, { ...context, credentialId }),
          );
    deps.onMint?.("minted", minted.issuer);
    return minted;
  } catch (error) {
    if (error instanceof MayflyError && recordedByMint(error.code))
      await recordDenial(deps, agent, request, requestId, error);
    deps.onMint?.(error instanceof MayflyError ? (error.reasons[0]?.code ?? error.code) : "internal", "none");
    throw error;
  }
}

/** The event is committed before the refusal leaves (invariant 8). */
async function recordDenial(
  deps: RecordedMintDeps,
  agent: AgentPrincipal,
  asked: MintRequest,
  requestId: string,
  error: MayflyError,
): Promise<void> {
  const { decision } = error instanceof PolicyRefusal ? error : { decision: undefined };
  const { task_id, target, actions, resources } = asked;
  await deps.sql.deny(agent.tenantId, {
    actor: agent.subject,
    agent_id: agent.agentId,
    task_id,
    request_id: requestId,
    data: { code: error.code, reasons: error.reasons, target, actions, resources, decision_id: decision?.id ?? null },
    ...(decision === undefined ? {} : { decision }),
  });
}
