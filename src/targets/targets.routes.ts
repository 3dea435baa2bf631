import { z } from "zod";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { issuerKinds } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Sealer } from "../lib/seal.ts";
import { idSchema, machineName, moment } from "../lib/wire.ts";
import { actionClasses } from "../policy/request.ts";
import { type CollectionDeps, collectionRoutes, versionIn } from "../registry/collection.routes.ts";
import { atLeastOne, thingName } from "../registry/names.ts";
import { changeTarget, type TargetPatch } from "./change-target.ts";
import { changeTargetState, reachableTargetStates } from "./change-target-state.ts";
import { readTargetMembers } from "./read-target.ts";
import { type NewTarget, registerTarget } from "./register-target.ts";
import type { TargetClients } from "./target-clients.ts";
import { issuerOf } from "./target-parts.ts";

export interface TargetDeps extends CollectionDeps {
  readonly targets: TargetClients;
  /** Seals configurations: the same that `createTargetClients` opens them with. */
  readonly targetConfigs: Sealer;
}

const states = ["active", "suspended", "quarantined", "retired"] as const;
const stuckLimit = z.int().min(1).max(1000).describe("With so many stuck credentials the target is quarantined.");
const resource = z.union([idSchema("resource"), machineName]).describe("The resource's id or name.");

function resourcesOf(access: z.ZodType) {
  const meanings = z
    .partialRecord(z.enum(actionClasses), access)
    .refine((given) => Object.keys(given).length > 0, "grants nothing")
    .describe("Action class → what it means at this target.");
  return z
    .array(z.strictObject({ resource, access: meanings }))
    .min(1)
    .max(50);
}

const registrations = issuerKinds.map((kind) => {
  const { config, access } = issuerOf(kind);
  return z.strictObject({
    name: thingName,
    issuer: z.literal(kind),
    owner_id: idSchema("owner"),
    config,
    max_ttl_seconds: z.int().min(1).max(86_400),
    stuck_limit: stuckLimit.optional(),
    resources: resourcesOf(access),
  });
});
const registration = z.discriminatedUnion(
  "issuer",
  registrations as [(typeof registrations)[number]],
) as unknown as z.ZodType<NewTarget>;

const update = atLeastOne(
  z.strictObject({
    owner_id: idSchema("owner").optional(),
    max_ttl_seconds: z.int().min(1).max(86_400).optional(),
    stuck_limit: stuckLimit.optional(),
    config: z
      .record(z.string().max(64), z.unknown())
      .describe("Only what changes: what is left out stays, secrets too, and null takes an optional member away.")
      .optional(),
    resources: resourcesOf(z.unknown()).optional(),
  }),
) as unknown as z.ZodType<TargetPatch & Record<string, unknown>>;

const byId = z.strictObject({ target_id: idSchema("target") });

/** Targets: the systems that credentials are minted for. None is registered that has not passed its canary. */
export function targetEndpoints(deps: TargetDeps): Endpoint[] {
  const collection = collectionRoutes(deps, {
    path: "/v1/targets",
    word: "target",
    idKind: "target",
    table: "targets",
    reads: ["admin", "auditor", "approver", "orchestrator"],
    writes: ["admin"],
    shape: {
      name: z.string(),
      issuer: z.enum(issuerKinds),
      owner_id: idSchema("owner"),
      config: z.record(z.string(), z.unknown()).describe("Without its secrets, which are never returned."),
      max_ttl_seconds: z.int(),
      stuck_limit: z.int(),
      resources: z.array(z.strictObject({ resource: idSchema("resource"), access: z.record(z.string(), z.unknown()) })),
      state: z.enum(states),
      revocability: z
        .enum(["immediate", "expiry"])
        .describe("`expiry`: a credential lives until its own end, whatever anyone does."),
      canary: z
        .record(z.string(), z.unknown())
        .describe(
          "What the last canary saw. `unanswered`: it is active, and has not answered its scheduled canary `since` then.",
        ),
      live: z.int().describe("Credentials that are not proven dead."),
      stuck: z.int().describe("Those of them that could not be taken back so far. Mayfly does not give up."),
      reconciled_at: moment.nullable().describe("When what is there was last compared with what should be."),
    },
    filters: {
      name: thingName,
      issuer: z.enum(issuerKinds),
      owner_id: idSchema("owner"),
      state: z.enum(states),
    },
    referrers: [{ table: "credentials", column: "target_id", words: "credentials" }],
    unique: { targets_tenant_id_name_key: "/name" },
    readMembers: readTargetMembers,
    freshness: ({ live, stuck, reconciled_at: at }) => [live, stuck, at instanceof Date ? at.getTime() : 0].join("."),
    async beforeDelete(tx, row, { tenantId }) {
      const found = row.reconciled_at !== null && row.reconciled_at > row.updated_at;
      if ("left" in row.canary && !found)
        throw new MayflyError("conflict", `its canary ${String(row.canary["left"])} is still to be removed there`);
      await tx
        .deleteFrom("target_resources")
        .where("tenant_id", "=", tenantId)
        .where("target_id", "=", row.id)
        .execute();
    },
  });
  const { change, read, reply } = collection;
  const { db, targetConfigs, targets, wakeUps } = deps;
  const common = { tag: "targets", allow: ["admin"] as const };
  return [
    ...collection.endpoints,
    endpoint({
      ...common,
      method: "post",
      path: "/v1/targets",
      summary: "Register a target: it must pass a canary, or nothing of it stays",
      body: registration,
      replies: { 201: reply },
      async handle({ principal, body, requestId }) {
        const id = await registerTarget({ change, targetConfigs }, principal, body, requestId);
        return { status: 201, ...(await read(principal, id)), headers: { location: `/v1/targets/${id}` } };
      },
    }),
    endpoint({
      ...common,
      method: "patch",
      path: "/v1/targets/{target_id}",
      summary: "Change a target. A new configuration or new access must pass the canary first",
      params: byId,
      body: update,
      conditional: true,
      replies: { 200: reply },
      async handle({ principal, params, body, requestId, ifMatch = "" }) {
        const what = { version: versionIn(ifMatch), patch: body };
        await changeTarget({ db, change, targetConfigs }, principal, params.target_id, what, requestId);
        wakeUps.now();
        return { status: 200, ...(await read(principal, params.target_id)) };
      },
    }),
    endpoint({
      ...common,
      method: "post",
      path: "/v1/targets/{target_id}/state",
      summary: "Suspend or retire a target, which takes back what was minted there; or activate it by its canary",
      params: byId,
      body: z.strictObject({ state: z.enum(reachableTargetStates) }),
      replies: { 200: reply },
      async handle({ principal, params, body, requestId }) {
        await changeTargetState({ db, change, targets }, principal, params.target_id, body.state, requestId);
        wakeUps.now();
        return { status: 200, ...(await read(principal, params.target_id)) };
      },
    }),
  ];
}
