import type { Db } from "../db/database.ts";
import { canonicalJson } from "../lib/canonical-json.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { type CompiledPolicies, compile } from "./compile.ts";
import { decide } from "./engine.ts";
import type { PolicyDecision, PolicyInput } from "./request.ts";

/** The policies of one tenant at one version, ready to judge. */
export interface TenantPolicies {
  decide(input: PolicyInput): PolicyDecision;
}

/** Published policy sets, compiled once per process and version. */
export interface Policies {
  /** The set that the caller read to be the active one. Versions are immutable, so a cached one is never stale. */
  at(tenantId: Id<"tenant">, version: number): Promise<TenantPolicies>;
}

/** Compiled sets kept per process; the oldest goes first. */
const KEPT = 200;

/** Some 4 KB each. */
const MAX_REMEMBERED = 5_000;

export function createPolicies(db: Db): Policies {
  const compiled = new Map<string, Promise<CompiledPolicies>>();
  // A decision depends on its policies and its input alone, and an agent asks for the same again and again.
  const allowed = new Map<string, PolicyDecision>();

  const remembered = (set: CompiledPolicies, input: PolicyInput): PolicyDecision => {
    const key = `${set.tenantId}/${set.version} ${canonicalJson(input)}`;
    const known = allowed.get(key);
    if (known !== undefined) return known;
    const decision = decide(set, input);
    // A denial may be an error that passes.
    if (decision.outcome !== "allow") return decision;
    keepNewest(allowed, MAX_REMEMBERED, key, decision);
    return decision;
  };

  const load = async (tenantId: Id<"tenant">, version: number): Promise<CompiledPolicies> => {
    const row = await db.withTenant({ tenantId, actor: "mayfly:policy" }, (tx) =>
      tx
        .selectFrom("policy_sets")
        .select("text")
        .where("tenant_id", "=", tenantId)
        .where("policy_version", "=", version)
        .executeTakeFirst(),
    );
    if (row === undefined) throw new MayflyError("unavailable", "the tenant's policies could not be read");
    return compile({ tenantId, version, text: row.text });
  };

  return {
    async at(tenantId, version) {
      const key = `${tenantId}/${version}`;
      let known = compiled.get(key);
      if (known === undefined) {
        known = load(tenantId, version);
        keepNewest(compiled, KEPT, key, known);
      }
      try {
        const set = await known;
        return { decide: (input) => remembered(set, input) };
      } catch (error) {
        compiled.delete(key);
        throw error;
      }
    },
  };
}
