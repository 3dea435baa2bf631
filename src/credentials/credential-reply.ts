import type { Selectable } from "kysely";
import { z } from "zod";
import type { Database } from "../db/schema.ts";
import { type Delegation, delegationSchema } from "../delegation/delegation.ts";
import { idSchema, moment } from "../lib/wire.ts";

/** A credential as the API shows it: everything about it but its secret and its handle. */
export const credentialReply = z.strictObject({
  id: idSchema("credential"),
  state: z.enum(["pending", "active", "revoking", "revoked", "expired", "failed"]),
  stuck: z.boolean().describe("Taken back, but not proven dead after several tries. Retried for ever."),
  issuer: z.string(),
  agent_id: idSchema("agent"),
  owner_id: idSchema("owner"),
  task_id: idSchema("task"),
  purpose_id: idSchema("purpose"),
  target_id: idSchema("target"),
  decision_id: idSchema("decision"),
  identity_id: idSchema("identity").nullable(),
  environment: z.string(),
  data_class: z.string(),
  binding: z.string().describe("How its caller was bound to its own token: bearer, dpop, mtls."),
  confirmation: z
    .record(z.string(), z.string())
    .nullable()
    .describe("The key that its holder proves to have (RFC 7800 cnf). Null: whoever has the text can use it."),
  parent_id: idSchema("credential").nullable().describe("The credential that it was minted from."),
  delegation: delegationSchema.nullable().describe("What may be minted from it. Null: nothing."),
  actions: z.array(z.string()),
  resource_ids: z.array(idSchema("resource")),
  requested_ttl_seconds: z.int(),
  ttl_seconds: z.int(),
  ttl_bound: z.string().describe("Which bound decided the end: request, purpose, policy, task_deadline …"),
  revocability: z.enum(["immediate", "expiry"]),
  downstream_name: z.string().nullable().describe("What the far side calls it, for matching its logs."),
  requested_by: z.string(),
  created_at: moment,
  activated_at: moment.nullable(),
  expires_at: moment,
  revoking_at: moment.nullable(),
  ended_at: moment.nullable(),
  state_by: z.string(),
  state_reason: z.string(),
  attempts: z.int(),
  last_error: z.string().nullable(),
  next_try_at: moment.nullable(),
  receipt: z
    .record(z.string(), z.unknown())
    .nullable()
    .describe("How it died: what was done, seen by which probe, when, and the lag."),
});

/** The columns that the reply is made of. */
export const credentialColumns = [
  "id",
  "state",
  "stuck",
  "issuer",
  "agent_id",
  "owner_id",
  "task_id",
  "purpose_id",
  "target_id",
  "decision_id",
  "identity_id",
  "environment",
  "data_class",
  "binding",
  "confirmation",
  "parent_id",
  "delegation",
  "actions",
  "resource_ids",
  "requested_ttl_seconds",
  "ttl_seconds",
  "ttl_bound",
  "revocability",
  "downstream_name",
  "requested_by",
  "created_at",
  "activated_at",
  "expires_at",
  "revoking_at",
  "ended_at",
  "state_by",
  "state_reason",
  "attempts",
  "last_error",
  "due_at",
  "receipt",
] as const;

/** A credential's row, as far as the API shows it. */
export type CredentialRow = Pick<Selectable<Database["credentials"]>, (typeof credentialColumns)[number]>;

/** The row on the wire. */
export function toCredential(row: CredentialRow): z.infer<typeof credentialReply> {
  const { due_at, created_at, activated_at, expires_at, revoking_at, ended_at, delegation, ...rest } = row;
  return {
    ...rest,
    delegation: delegation as Delegation | null,
    created_at: created_at.toISOString(),
    activated_at: activated_at?.toISOString() ?? null,
    expires_at: expires_at.toISOString(),
    revoking_at: revoking_at?.toISOString() ?? null,
    ended_at: ended_at?.toISOString() ?? null,
    next_try_at: row.state === "revoking" ? (due_at?.toISOString() ?? null) : null,
  };
}
