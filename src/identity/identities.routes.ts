import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { idSchema } from "../lib/wire.ts";
import { type CollectionDeps, collectionRoutes } from "../registry/collection.routes.ts";
import { checkIdentity } from "./bind-identity.ts";
import { broadAnchor, broadCondition, WILDCARD } from "./broad-claims.ts";
import { lockAgents, takeBackOf } from "./change-trust-source.ts";
import { claimConditionSchema } from "./claim-conditions.ts";

const anchorClaim = z
  .string()
  .regex(/^[\x21-\x2e\x30-\x7e][\x21-\x7e]{0,255}$/, "must be the name of a top-level claim")
  .superRefine((claim, context) => {
    const problem = broadAnchor(claim);
    if (problem !== undefined) context.addIssue(problem);
  })
  .describe("The claim that the agent is found by: one that names a single workload, such as `sub`.");

// Not normalised: a claim is compared byte by byte with what the issuer wrote.
const anchorValue = z
  .string()
  .min(1)
  .max(2048)
  .regex(/^\P{Cc}*$/u, "holds a control character")
  .refine((value) => !value.includes("*"), WILDCARD);

const create = z
  .strictObject({
    trust_source_id: idSchema("trustSource"),
    agent_id: idSchema("agent"),
    anchor_claim: anchorClaim,
    anchor_value: anchorValue,
    conditions: z
      .array(claimConditionSchema)
      .max(20)
      .default([])
      .describe("What else the token must say. All must hold."),
  })
  .superRefine(({ anchor_claim: anchor, conditions }, context) => {
    for (const [index, condition] of conditions.entries()) {
      const message = broadCondition(anchor, condition);
      if (message !== undefined) context.addIssue({ code: "custom", path: ["conditions", index], message });
    }
  });

/**
 * Identities: "this trust source and these claims = this agent", one workload each. They never change; one that is
 * removed takes along what was minted through it.
 */
export function identityEndpoints(deps: CollectionDeps): Endpoint[] {
  const { endpoints } = collectionRoutes(deps, {
    path: "/v1/identities",
    word: "identity",
    idKind: "identity",
    table: "identities",
    reads: ["admin", "auditor"],
    writes: ["admin"],
    shape: {
      trust_source_id: idSchema("trustSource"),
      agent_id: idSchema("agent"),
      anchor_claim: z.string(),
      anchor_value: z.string(),
      conditions: z.array(claimConditionSchema),
    },
    filters: { trust_source_id: idSchema("trustSource"), agent_id: idSchema("agent") },
    create,
    references: { trust_source_id: "trustSource", agent_id: "agent" },
    referrers: [],
    toColumns: ({ conditions, ...body }) => ({ ...body, conditions: JSON.stringify(conditions) }),
    async beforeCreate(tx, body, { tenantId }) {
      await checkIdentity(tx, tenantId, body);
      return undefined;
    },
    // The gate is closed (collection.routes.ts): a mint has committed, and is taken back below, or finds the identity gone.
    beforeDelete: (tx, row, { tenantId }) => lockAgents(tx, tenantId, [row.agent_id]),
    afterDelete: (tx, row, { tenantId, subject }) => takeBackOf(tx, tenantId, subject, [row.agent_id], [row.id]),
  });
  return [...endpoints];
}
