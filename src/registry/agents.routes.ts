import { z } from "zod";
import type { Endpoint } from "../http/endpoint.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, SYSTEM_TENANT } from "../lib/ids.ts";
import { idSchema } from "../lib/wire.ts";
import { agentKinds, environments } from "../policy/request.ts";
import { agentStates, changeAgentState, reachableAgentStates } from "./change-agent-state.ts";
import { type CollectionDeps, collectionRoutes } from "./collection.routes.ts";
import { atLeastOne, paragraphs, thingName } from "./names.ts";

const bearerTtl = z
  .int()
  .min(1)
  .max(3600)
  .nullable()
  .describe(
    "Tokens are bound to a key of their holder. Only for an agent that cannot prove one: it may have tokens that are not, for so many seconds at most. Null: never.",
  );

/** Agents: the non-human identities. They begin `proposed`, and only an `active` one is given credentials. */
export function agentEndpoints(deps: CollectionDeps): Endpoint[] {
  const agents = collectionRoutes(deps, {
    path: "/v1/agents",
    word: "agent",
    idKind: "agent",
    table: "agents",
    reads: ["admin", "auditor", "approver", "orchestrator"],
    writes: ["admin"],
    shape: {
      kind: z.enum(agentKinds),
      name: z.string(),
      description: z.string(),
      owner_id: idSchema("owner"),
      environment: z.enum(environments),
      state: z.enum(agentStates),
      bearer_ttl_seconds: z.int().nullable(),
    },
    filters: {
      name: thingName,
      kind: z.enum(agentKinds),
      owner_id: idSchema("owner"),
      environment: z.enum(environments),
      state: z.enum(agentStates),
    },
    create: z.strictObject({
      kind: z.enum(agentKinds),
      name: thingName,
      description: paragraphs(0, 2000).optional(),
      owner_id: idSchema("owner"),
      environment: z.enum(environments),
      bearer_ttl_seconds: bearerTtl.optional(),
    }),
    update: atLeastOne(
      z.strictObject({
        name: thingName.optional(),
        description: paragraphs(0, 2000).optional(),
        owner_id: idSchema("owner").optional(),
        environment: z.enum(environments).optional(),
        bearer_ttl_seconds: bearerTtl.optional(),
      }),
    ),
    references: { owner_id: "owner" },
    referrers: [
      { table: "identities", column: "agent_id", words: "identities" },
      { table: "purposes", column: "agent_id", words: "purposes" },
      { table: "tasks", column: "agent_id", words: "tasks" },
      { table: "credentials", column: "agent_id", words: "credentials" },
    ],
    unique: { agents_tenant_id_name_key: "/name" },
    async beforeCreate(_tx, _body, caller) {
      if (caller.tenantId === SYSTEM_TENANT)
        throw new MayflyError("forbidden", "the tenant of the operators has no agents; make a tenant for them");
      return undefined;
    },
    async beforeUpdate(_tx, row) {
      if (row.state === "retired") throw new MayflyError("conflict", "a retired agent never changes again");
      return undefined;
    },
  });
  return [
    ...agents.endpoints,
    agents.action({
      name: "state",
      summary: "Move an agent along its life. Leaving `active` takes back everything it holds; `retired` is final",
      allow: ["admin"],
      body: z.strictObject({ state: z.enum(reachableAgentStates) }),
      run: (tx, caller, id, { body }) => changeAgentState(tx, caller, id as Id<"agent">, body.state),
    }),
  ];
}
