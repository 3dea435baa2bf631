import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { idSchema, moment } from "../lib/wire.ts";
import { classifications, environments } from "../policy/request.ts";
import { checkPurpose } from "./check-purpose.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { approvePurpose, reviewPurpose } from "./judge-purpose.ts";
import { atLeastOne, distinct, paragraphs, thingName, wordName } from "./names.ts";
import { requireOwnProposal, retirePurpose } from "./retire-purpose.ts";

const states = ["proposed", "approved", "retired"] as const;

const members = {
  name: thingName,
  description: paragraphs(1, 2000).describe("For the people who approve and review it. It never grants anything."),
  actions: distinct(wordName, 1, 50).describe("Action classes, or operations of the resources."),
  resource_ids: distinct(idSchema("resource"), 1, 100),
  data_classes: distinct(z.enum(classifications), 1, classifications.length),
  environments: distinct(z.enum(environments), 1, environments.length),
  max_ttl_seconds: z.int().min(1).max(86_400),
  reviewer_id: idSchema("owner").describe("Who is to look at it again before `review_by`."),
  review_by: moment.describe("Without a review, nothing is minted under it from then on."),
  expires_at: moment.describe("At most a year after the proposal. Nothing extends it."),
};

/** Purposes: what an agent may be used for. One person proposes, another approves, and somebody looks at it again. */
export function purposeEndpoints(deps: CollectionDeps): Endpoint[] {
  const purposes = collectionRoutes(deps, {
    path: "/v1/purposes",
    word: "purpose",
    idKind: "purpose",
    table: "purposes",
    reads: ["admin", "auditor", "approver", "orchestrator"],
    writes: ["admin", "orchestrator"],
    shape: {
      agent_id: idSchema("agent"),
      name: z.string(),
      description: z.string(),
      actions: z.array(z.string()),
      resource_ids: z.array(idSchema("resource")),
      data_classes: z.array(z.enum(classifications)),
      environments: z.array(z.enum(environments)),
      max_ttl_seconds: z.int(),
      reviewer_id: idSchema("owner"),
      review_by: moment,
      expires_at: moment,
      state: z.enum(states),
      proposed_by: z.string(),
      approved_by: z.string().nullable(),
      approved_at: moment.nullable(),
    },
    filters: {
      name: thingName,
      agent_id: idSchema("agent"),
      reviewer_id: idSchema("owner"),
      state: z.enum(states),
    },
    create: z.strictObject({ agent_id: idSchema("agent"), ...members }),
    update: atLeastOne(z.strictObject(members).partial()),
    // In the order of all locks (ARCHITECTURE.md).
    references: { reviewer_id: "owner", agent_id: "agent", resource_ids: "resource" },
    referrers: [
      { table: "tasks", column: "purpose_id", words: "tasks" },
      { table: "credentials", column: "purpose_id", words: "credentials" },
    ],
    unique: { purposes_tenant_id_agent_id_name_key: "/name" },
    async beforeCreate(tx, body, { tenantId, subject }) {
      const agent = await tx
        .selectFrom("agents")
        .select("state")
        .where("tenant_id", "=", tenantId)
        .where("id", "=", body.agent_id)
        .executeTakeFirst();
      if (agent?.state === "retired") throw invalid("/agent_id", "this agent is retired");
      await checkPurpose(tx, tenantId, body);
      return { proposed_by: subject };
    },
    async beforeUpdate(tx, row, patch, { tenantId, subject }) {
      if (row.state !== "proposed")
        throw new MayflyError("conflict", `a purpose that is ${row.state} never changes: propose another one`);
      // Whoever could change another's proposal could approve what they wrote themselves.
      if (row.proposed_by !== subject)
        throw new MayflyError("forbidden", "only whoever proposed a purpose changes it; propose another one");
      const { resource_ids, ...rest } = row;
      const given = Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== undefined));
      await checkPurpose(tx, tenantId, { ...rest, resource_ids: resource_ids as Id<"resource">[], ...given });
      return undefined;
    },
    async beforeDelete(_tx, row, caller) {
      requireOwnProposal(caller, row.proposed_by);
    },
  });
  return [
    ...purposes.endpoints,
    purposes.action({
      name: "approve",
      summary: "Approve a purpose exactly as it was read. Not for whoever proposed it, nor for the agent's owner",
      allow: ["approver", "admin"],
      conditional: true,
      run: (tx, caller, id, { version }) => approvePurpose(tx, caller, id as Id<"purpose">, version),
    }),
    purposes.action({
      name: "review",
      summary: "Note that it was reviewed, and until when it may be used",
      allow: ["approver", "admin", "auditor", "orchestrator"],
      body: z.strictObject({ review_by: moment }),
      run: (tx, caller, id, { body }) => reviewPurpose(tx, caller, id as Id<"purpose">, body.review_by),
    }),
    purposes.action({
      name: "retire",
      summary: "Retire a purpose for ever: end its tasks and take back what they hold",
      allow: ["admin", "approver", "orchestrator"],
      run: (tx, caller, id) => retirePurpose(tx, caller, id as Id<"purpose">),
    }),
  ];
}
