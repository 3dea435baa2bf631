import type { Db } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import type { MintFacts, MintRequest } from "./mint-facts.ts";

/** Reads everything that a mint is judged by, as it is now. */
export type ReadFacts = (tenantId: string, agentId: Id<"agent">, request: MintRequest) => Promise<MintFacts>;

/** Facts that were read before, by what they were read for. */
export interface KeptFacts {
  /**
   * The facts as they were when last read, with the time that the database should have by now. Good for a decision that
   * the commit checks (same generation, task open, budget left, chain active), and for nothing else: a refusal needs facts of now.
   */
  find(tenantId: string, agentId: Id<"agent">, request: MintRequest): MintFacts | undefined;
  keep(tenantId: string, agentId: Id<"agent">, request: MintRequest, facts: MintFacts): void;
  forget(tenantId: string, agentId: Id<"agent">, request: MintRequest): void;
  /** The database said that it is this late. */
  clock(nowMs: number): void;
}

/** Some 3 KB each. */
const MAX_KEPT = 5_000;

/** What `mayfly.mint_load` is asked for one mint. */
export function loadItem(agentId: Id<"agent">, request: MintRequest): object {
  const { task_id, target, resources, parent_credential_id: parent_id } = request;
  return { agent_id: agentId, task_id, target, resources, ...(parent_id === undefined ? {} : { parent_id }) };
}

/** Reads in one round trip, shared with requests that arrive together, and keeps what was read. */
export function createReadFacts(db: Db, kept: KeptFacts): ReadFacts {
  const load = db.batched<object, { facts: MintFacts }>("mint_load");
  return async (tenantId, agentId, request) => {
    const { facts } = await load(tenantId, loadItem(agentId, request));
    kept.clock(facts.now_ms);
    kept.keep(tenantId, agentId, request, facts);
    return facts;
  };
}

/** Keeps the newest {@link MAX_KEPT} of all tenants. `localMs` is a clock that never goes back. */
export function createKeptFacts(localMs: () => number = () => performance.now()): KeptFacts {
  const kept = new Map<string, MintFacts>();
  let ahead = Number.NEGATIVE_INFINITY;
  const nameOf = (tenantId: string, agentId: Id<"agent">, request: MintRequest): string => {
    const { task_id, target, resources, parent_credential_id: parent = "" } = request;
    return [tenantId, agentId, task_id, parent, target, ...resources].join(" ");
  };
  return {
    find(tenantId, agentId, request) {
      const facts = kept.get(nameOf(tenantId, agentId, request));
      // What the database said was already past when it arrived, so this is late rather than early: nothing lives longer.
      return facts === undefined ? undefined : { ...facts, now_ms: Math.floor(localMs() + ahead) };
    },
    keep(tenantId, agentId, request, facts) {
      keepNewest(kept, MAX_KEPT, nameOf(tenantId, agentId, request), facts);
    },
    forget(tenantId, agentId, request) {
      kept.delete(nameOf(tenantId, agentId, request));
    },
    clock(nowMs) {
      ahead = nowMs - localMs();
    },
  };
}
