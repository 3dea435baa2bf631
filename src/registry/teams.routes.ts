import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { atLeastOne, thingName } from "./names.ts";

/** Teams: what an owner of kind `team` stands for. */
export function teamEndpoints(deps: CollectionDeps): Endpoint[] {
  const { endpoints } = collectionRoutes(deps, {
    path: "/v1/teams",
    word: "team",
    idKind: "team",
    table: "teams",
    reads: ["admin", "auditor"],
    writes: ["admin"],
    shape: { name: z.string() },
    filters: { name: thingName },
    create: z.strictObject({ name: thingName }),
    update: atLeastOne(z.strictObject({ name: thingName.optional() })),
    referrers: [{ table: "owners", column: "team_id", words: "owners" }],
    unique: { teams_tenant_id_name_key: "/name" },
  });
  return [...endpoints];
}
