import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { referableKind, requireReference } from "./references.ts";

const outside = /^(?:ticket|workflow|dataset):[A-Za-z0-9][A-Za-z0-9._:/@#-]{0,199}$/;

const node = z
  .string()
  .regex(/^[\x21-\x7e]{1,220}$/, "must be an id, or ticket:…, workflow:… or dataset:…")
  .refine((text) => referableKind(text) !== undefined || outside.test(text), {
    error: "must be an id of this tenant, or ticket:…, workflow:… or dataset:…",
  })
  .describe(
    "The id of an agent, owner, team, resource, target, purpose or task; or `ticket:…`, `workflow:…`, `dataset:…`.",
  );
const relation = z.string().regex(/^[a-z][a-z0-9_]{0,62}$/);

/** Relationships: tuples (subject, relation, object) that policies see as groups of an agent. They never change. */
export function relationshipEndpoints(deps: CollectionDeps): Endpoint[] {
  const { endpoints } = collectionRoutes(deps, {
    path: "/v1/relationships",
    word: "relationship",
    idKind: "relationship",
    table: "relationships",
    reads: ["admin", "auditor", "approver", "orchestrator"],
    writes: ["admin"],
    shape: { subject: z.string(), relation: z.string(), object: z.string() },
    filters: { subject: node, relation, object: node },
    create: z.strictObject({ subject: node, relation, object: node }),
    referrers: [],
    async beforeCreate(tx, body, { tenantId }) {
      for (const member of ["subject", "object"] as const) {
        const kind = referableKind(body[member]);
        if (kind !== undefined) await requireReference(tx, tenantId, kind, body[member], `/${member}`);
      }
      return undefined;
    },
  });
  return [...endpoints];
}
