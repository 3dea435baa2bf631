import type { Db } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import type { MintFacts, MintRequest } from "./mint-facts.ts";

/** Reads everything that a mint is judged by, as it is now. */
export type ReadFacts = (tenantId: string, agentId: Id<"agent">, request: MintRequest) => Promise<MintFacts>;

/** What changes with every mint, and the generation of all the rest (migrations/0004, mint_task). */
type TaskFacts = Pick<MintFacts, "generation" | "now_ms" | "task">;

/** Sets of registry facts that one tenant's process keeps, and tenants: some 2 KB each. */
const MAX_KEPT = 2_000;
const MAX_TENANTS = 200;

interface Kept {
  readonly generation: number;
  readonly facts: Map<string, MintFacts>;
}

/**
 * One round trip either way: the task is read every time; what the registry says is read again only when its generation
 * is another one than that of the facts kept here. So what is answered is never older than the request, a refusal
 * included, and the commit compares the generation once more, under lock.
 */
export function createReadFacts(db: Db): ReadFacts {
  const readTask = db.batched<object, { facts: TaskFacts }>("mint_task");
  const readAll = db.batched<object, { facts: MintFacts }>("mint_load");
  const tenants = new Map<string, Kept>();

  const keep = (tenantId: string, key: (purposeId: string) => string, facts: MintFacts): void => {
    if (facts.task === null) return;
    let kept = tenants.get(tenantId);
    if (kept !== undefined && kept.generation > facts.generation) return;
    if (kept?.generation !== facts.generation || kept.facts.size >= MAX_KEPT) {
      kept = { generation: facts.generation, facts: new Map() };
      tenants.delete(tenantId);
      if (tenants.size >= MAX_TENANTS) tenants.delete(tenants.keys().next().value ?? "");
      tenants.set(tenantId, kept);
    }
    kept.facts.set(key(facts.task.purpose_id), facts);
  };

  return async (tenantId, agentId, request) => {
    const { task_id, target, resources } = request;
    const key = (purposeId: string): string => [agentId, purposeId, target, ...resources].join(" ");
    if (tenants.has(tenantId)) {
      const { facts: now } = await readTask(tenantId, { task_id });
      const kept = tenants.get(tenantId);
      const known =
        kept?.generation === now.generation && now.task !== null && kept.facts.get(key(now.task.purpose_id));
      if (known) return { ...known, ...now };
    }
    const { facts } = await readAll(tenantId, { agent_id: agentId, task_id, target, resources });
    keep(tenantId, key, facts);
    return facts;
  };
}
