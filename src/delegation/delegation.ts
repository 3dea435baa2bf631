import { z } from "zod";
import type { Id } from "../lib/ids.ts";
import { idSchema } from "../lib/wire.ts";
import type { Classification, Environment } from "../policy/request.ts";

/** More links than this nobody can read. Policies usually stop earlier. */
const MAX_DEPTH = 10;

/**
 * What may be minted from a credential: how many links below it, and by which agents. The holder itself may always mint
 * from it, so an empty list is "only I, and narrower". A credential without this is the end of its chain.
 */
export const delegationSchema = z.strictObject({
  max_depth: z.int().min(1).max(MAX_DEPTH),
  allowed: z
    .array(z.strictObject({ sub: idSchema("agent") }))
    .max(100)
    .refine((all) => new Set(all.map(({ sub }) => sub)).size === all.length, "names an agent twice"),
});

export type Delegation = z.output<typeof delegationSchema>;

/** A credential that another one is minted from, as `mayfly.mint_load` reads it. Only `active` can change later. */
export interface Parent {
  readonly id: Id<"credential">;
  readonly agent_id: Id<"agent">;
  readonly active: boolean;
  readonly expires_ms: number;
  readonly actions: readonly string[];
  readonly resource_ids: readonly Id<"resource">[];
  readonly data_class: Classification;
  readonly environment: Environment;
  readonly confirmation: Readonly<Record<string, string>> | null;
  /** The target whose tokens the parent is one of. */
  readonly target_id: Id<"target">;
  readonly delegation: Delegation | null;
  /** Every credential of the chain up to the parent itself, the root first. */
  readonly chain: readonly Link[];
}

/** One credential of a chain. */
export interface Link {
  readonly id: Id<"credential">;
  readonly agent_id: Id<"agent">;
  readonly task_id: Id<"task">;
  /** What the link's task may still be given: what is minted from it is charged to it too. */
  readonly budget: TaskBudget;
}

/** How much a task may be given in all, in a minute and in seconds of life, and has been. Null: as much as it likes. */
export interface TaskBudget {
  readonly max_credentials: number | null;
  readonly max_per_minute: number | null;
  readonly max_live_seconds: number | null;
  readonly issued: number;
  readonly issued_live_seconds: number;
  readonly issued_in_minute: number;
}

/** What is to be minted from a parent. */
export interface Child {
  readonly agentId: Id<"agent">;
  readonly targetId: Id<"target">;
  /** A token of ours has an audience and a key; what a far side makes has neither. */
  readonly selfContained: boolean;
  readonly actions: readonly string[];
  readonly resources: readonly {
    readonly id: Id<"resource">;
    readonly classification: Classification;
    readonly environment: Environment;
  }[];
  readonly confirmation: Readonly<Record<string, string>> | undefined;
  readonly delegation: Delegation | undefined;
}
