import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { idSchema } from "../lib/wire.ts";
import { type ActionClass, actionClasses, classifications, environments, risks } from "../policy/request.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { guardOperations } from "./guard-operations.ts";
import { atLeastOne, distinct, paragraphs, thingName, wordName } from "./names.ts";

const kinds = ["dataset", "api", "tool", "system"] as const;

// A purpose names operations and action classes alike: an operation `read` that deletes would deceive its approver.
const meansItself = (operations: Readonly<Record<string, ActionClass>>): boolean =>
  actionClasses.every((name) => operations[name] === undefined || operations[name] === name);

const operations = z
  .record(wordName, z.enum(actionClasses))
  .refine((given) => Object.keys(given).length > 0, "has no operation")
  .refine((given) => Object.keys(given).length <= 50, "has more than 50 operations")
  .refine(meansItself, "an operation named as an action class must be of that class")
  .describe("Operation → action class. Agents ask for operations, policies judge classes.");
const groups = distinct(wordName, 0, 20).describe("For policies: `resource in Group::…`.");

/** Resources: what can be reached, how sensitive it is, and what can be done with it. */
export function resourceEndpoints(deps: CollectionDeps): Endpoint[] {
  const { endpoints } = collectionRoutes(deps, {
    path: "/v1/resources",
    word: "resource",
    idKind: "resource",
    table: "resources",
    reads: ["admin", "auditor", "approver", "orchestrator"],
    writes: ["admin"],
    shape: {
      name: z.string(),
      kind: z.enum(kinds),
      description: z.string(),
      owner_id: idSchema("owner"),
      classification: z.enum(classifications),
      environment: z.enum(environments),
      risk: z.enum(risks),
      groups: z.array(z.string()),
      operations: z.record(z.string(), z.enum(actionClasses)),
    },
    filters: {
      name: thingName,
      kind: z.enum(kinds),
      owner_id: idSchema("owner"),
      classification: z.enum(classifications),
      environment: z.enum(environments),
      risk: z.enum(risks),
    },
    create: z.strictObject({
      name: thingName,
      kind: z.enum(kinds),
      description: paragraphs(0, 2000).optional(),
      owner_id: idSchema("owner"),
      classification: z.enum(classifications),
      environment: z.enum(environments),
      risk: z.enum(risks),
      groups: groups.optional(),
      operations,
    }),
    update: atLeastOne(
      z.strictObject({
        name: thingName.optional(),
        description: paragraphs(0, 2000).optional(),
        owner_id: idSchema("owner").optional(),
        classification: z.enum(classifications).optional(),
        environment: z.enum(environments).optional(),
        risk: z.enum(risks).optional(),
        groups: groups.optional(),
        operations: operations.optional(),
      }),
    ),
    references: { owner_id: "owner" },
    // A credential's resources are among those of its purpose, and a purpose that was used is never deleted.
    referrers: [
      { table: "target_resources", column: "resource_id", words: "targets", naming: "target_id" },
      { table: "purposes", column: "resource_ids", words: "purposes", many: true },
    ],
    unique: { resources_tenant_id_name_key: "/name" },
    async beforeUpdate(tx, row, patch, { tenantId }) {
      if (patch.operations !== undefined) await guardOperations(tx, tenantId, row, patch.operations);
      return undefined;
    },
    toColumns: ({ operations: given, ...body }) => ({ ...body, operations: given && JSON.stringify(given) }),
  });
  return [...endpoints];
}
