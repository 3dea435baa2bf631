import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { invalid } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { idSchema, moment } from "../lib/wire.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { departOwner, reinstateOwner } from "./depart-owner.ts";
import { atLeastOne, line, thingName } from "./names.ts";

const email = z.email().max(254);
const subject = line(1, 512).describe(
  "The principal that this human logs in as: `<trust source id>|<sub>`, as the audit log shows it. Whoever it is approves nothing for agents of this owner.",
);

const person = z.strictObject({
  kind: z.literal("human"),
  name: thingName,
  email: email.optional(),
  subject: subject.optional(),
});
const team = z.strictObject({
  kind: z.literal("team"),
  name: thingName,
  email: email.optional(),
  team_id: idSchema("team"),
});

/** Owners: who answers for agents, targets and resources. One who departs suspends what they own. */
export function ownerEndpoints(deps: CollectionDeps): Endpoint[] {
  const owners = collectionRoutes(deps, {
    path: "/v1/owners",
    word: "owner",
    idKind: "owner",
    table: "owners",
    reads: ["admin", "auditor", "approver"],
    writes: ["admin"],
    shape: {
      kind: z.enum(["human", "team"]),
      name: z.string(),
      email: z.string().nullable(),
      subject: z.string().nullable(),
      team_id: idSchema("team").nullable(),
      status: z.enum(["active", "departed"]),
      departed_at: moment.nullable(),
    },
    filters: { name: thingName, status: z.enum(["active", "departed"]), team_id: idSchema("team") },
    create: z.discriminatedUnion("kind", [person, team]),
    update: atLeastOne(
      z.strictObject({
        name: thingName.optional(),
        email: email.nullable().optional(),
        subject: subject.nullable().optional(),
      }),
    ),
    references: { team_id: "team" },
    referrers: [
      { table: "agents", column: "owner_id", words: "agents" },
      { table: "targets", column: "owner_id", words: "targets" },
      { table: "resources", column: "owner_id", words: "resources" },
      { table: "purposes", column: "reviewer_id", words: "purposes" },
      { table: "credentials", column: "owner_id", words: "credentials" },
    ],
    unique: { owners_tenant_id_name_key: "/name" },
    async beforeUpdate(_tx, row, patch) {
      if (row.kind === "team" && patch.subject) throw invalid("/subject", "a team does not log in");
      return undefined;
    },
  });
  return [
    ...owners.endpoints,
    owners.action({
      name: "depart",
      summary: "The owner has left: suspend their agents and targets and take back what these hold",
      allow: ["admin"],
      run: (tx, caller, id) => departOwner(tx, caller, id as Id<"owner">),
    }),
    owners.action({
      name: "reinstate",
      summary: "The owner is back. Their agents and targets stay suspended until each is activated",
      allow: ["admin"],
      run: (tx, caller, id) => reinstateOwner(tx, caller, id as Id<"owner">),
    }),
  ];
}
