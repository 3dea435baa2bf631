import { z } from "zod";
import { delegationSchema } from "../delegation/delegation.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import type { Pager } from "../http/page.ts";
import { pageOf, pageQuery } from "../http/page.ts";
import { type HolderDeps, holderOf } from "../identity/holder.ts";
import { Secret } from "../lib/secret.ts";
import { idSchema, machineName, machineNames, moment, prose } from "../lib/wire.ts";
import { classifications, environments } from "../policy/request.ts";
import { credentialReply, toCredential } from "./credential-reply.ts";
import { dryRun, dryRunReply } from "./dry-run.ts";
import { listCredentials, readCredential } from "./history.ts";
import type { Minted } from "./mint-plan.ts";
import { mintRecorded, type RecordedMintDeps } from "./mint-recorded.ts";
import { readRevocation, revokeBySelector, revokeOne, selectorSchema } from "./revoke.ts";

export interface CredentialDeps extends RecordedMintDeps, HolderDeps {
  readonly pager: Pager;
}

function mintBody(maxTtlSeconds: number) {
  return z.strictObject({
    task_id: idSchema("task"),
    // Ids and names alone: what a caller sends by mistake (a password, a token) is no such word, and goes nowhere.
    target: machineName.describe("The target's id or name."),
    actions: machineNames.describe("Operations that each of the resources offers."),
    resources: machineNames.describe("Ids or names of resources that the target reaches."),
    ttl_seconds: z.int().min(1).max(maxTtlSeconds).optional(),
    parent_credential_id: idSchema("credential")
      .optional()
      .describe("Mint from this credential: less than it in every way, and dead when it is."),
    delegation: delegationSchema.optional().describe("What may be minted from the new one, a token. Absent: nothing."),
  });
}

const mintedReply = z.strictObject({
  credential: z.strictObject({
    id: idSchema("credential"),
    issuer: z.string(),
    task_id: idSchema("task"),
    target_id: idSchema("target"),
    decision_id: idSchema("decision"),
    expires_at: moment,
    ttl_seconds: z.int(),
    ttl_bound: z.string().describe("Which bound decided the end."),
    revocability: z.enum(["immediate", "expiry"]),
    effective_bound_seconds: z
      .int()
      .describe("How long, after a revoke, someone who does not ask Mayfly may still believe it."),
  }),
  secret: z
    .record(z.string(), z.union([z.string(), z.number()]))
    .describe("Shown once. Mayfly does not keep it; a repeat of the request mints a new one."),
});

const byId = z.strictObject({ credential_id: idSchema("credential") });

const listQuery = z.strictObject({
  agent: idSchema("agent").optional(),
  task: idSchema("task").optional(),
  owner: idSchema("owner").optional(),
  purpose: idSchema("purpose").optional(),
  target: idSchema("target").optional(),
  state: z.enum(["pending", "active", "revoking", "revoked", "expired", "failed"]).optional(),
  stuck: z
    .enum(["true", "false"])
    .transform((text) => text === "true")
    .optional(),
  issuer: z.string().max(64).optional(),
  data_class: z.enum(classifications).optional(),
  environment: z.enum(environments).optional(),
  downstream_name: z.string().max(255).optional(),
  minted_from: idSchema("credential").optional().describe("What was minted from this credential, at any depth."),
  issued_after: moment.optional(),
  issued_before: moment.optional(),
  valid_at: moment.optional().describe("What could have been used at this moment."),
  ...pageQuery,
});

/** Mint, give back, revoke, and the history of everything ever issued. */
export function credentialEndpoints(deps: CredentialDeps): Endpoint[] {
  const body = mintBody(deps.limits.maxTtlSeconds);
  const takeBackOne = (action: "release" | "revoke"): Endpoint =>
    endpoint({
      method: "post",
      path: `/v1/credentials/{credential_id}/${action}`,
      summary: action === "release" ? "Give a credential back before its end" : "Take a credential back",
      tag: "credentials",
      allow: action === "release" ? ["agent"] : ["orchestrator", "admin"],
      params: byId,
      replies: { 200: credentialReply.loose() },
      async handle({ principal, params, requestId }) {
        await revokeOne(
          deps.db,
          principal,
          params.credential_id,
          action === "release" ? "released" : "revoked",
          requestId,
        );
        deps.wakeUps.now();
        return { status: 200, body: await readCredential(deps.db, principal, params.credential_id) };
      },
    });

  return [
    endpoint({
      method: "post",
      path: "/v1/credentials",
      summary: "Mint a credential for one task",
      tag: "credentials",
      allow: ["agent"],
      remembersCaller: true,
      body,
      idempotency: "own",
      replies: { 201: mintedReply },
      async handle(call) {
        const { caller, headers } = await holderOf(deps, call, "/v1/credentials");
        const minted = await mintRecorded(deps, caller, call.body);
        return {
          status: 201,
          body: toMinted(minted),
          headers: { ...headers, location: `/v1/credentials/${minted.id}` },
        };
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/credentials/dry-run",
      summary: "What a mint would answer now, and why; nothing is minted",
      tag: "credentials",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      body: body.extend({ agent_id: idSchema("agent").optional().describe("Needed unless the caller is the agent.") }),
      replies: { 200: dryRunReply },
      async handle({ principal, body: asked }) {
        return { status: 200, body: await dryRun(deps, principal, asked) };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/credentials",
      summary: "The history: everything ever issued, newest first",
      tag: "credentials",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      query: listQuery,
      replies: { 200: pageOf(credentialReply) },
      async handle(call) {
        const page = deps.pager.read(call, idSchema("credential"));
        const rows = await listCredentials(deps.db, call.principal, call.query, page);
        return deps.pager.reply(call, page, { rows, keyOf: (row) => row.id, toItem: toCredential });
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/credentials/{credential_id}",
      summary: "One credential with its decision, task, purpose, owner and receipt",
      tag: "credentials",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      params: byId,
      replies: { 200: credentialReply.loose() },
      async handle({ principal, params }) {
        return { status: 200, body: await readCredential(deps.db, principal, params.credential_id) };
      },
    }),
    takeBackOne("release"),
    takeBackOne("revoke"),
    endpoint({
      method: "post",
      path: "/v1/revocations",
      summary: "The kill switch: take back every live credential that the selector meets, or count them first",
      tag: "credentials",
      allow: ["orchestrator", "admin"],
      body: z.strictObject({
        selector: selectorSchema,
        reason: prose(500),
        preview: z.boolean().default(false),
        block_seconds: z
          .int()
          .min(1)
          .max(86_400)
          .default(60)
          .describe(
            "For so long nothing that the selector meets is minted. End the task or suspend the agent to stop it for good.",
          ),
      }),
      replies: {
        200: z.strictObject({
          id: idSchema("revocation").optional(),
          preview: z.boolean(),
          matched: z.int(),
          blocks_until: moment.optional(),
          by_agent: z.record(z.string(), z.int()),
          by_target: z.record(z.string(), z.int()),
          by_task: z.record(z.string(), z.int()),
        }),
      },
      async handle({ principal, body: { block_seconds: blockSeconds, ...order }, requestId }) {
        const revocation = await revokeBySelector(deps.db, principal, { ...order, blockSeconds }, requestId);
        if (!order.preview) deps.wakeUps.now();
        return { status: 200, body: revocation };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/revocations/{revocation_id}",
      summary: "How far the kill switch has come: `remaining` 0 says that everything it meant is proven dead",
      tag: "credentials",
      allow: ["orchestrator", "auditor", "admin"],
      params: z.strictObject({ revocation_id: idSchema("revocation") }),
      replies: {
        200: z.strictObject({
          id: idSchema("revocation"),
          selector: selectorSchema,
          reason: z.string(),
          ordered_by: z.string(),
          ordered_at: moment,
          blocks_until: moment,
          matched: z.int(),
          remaining: z.int(),
          stuck: z.int(),
          completed_at: moment.nullable(),
        }),
      },
      async handle({ principal, params }) {
        return { status: 200, body: await readRevocation(deps.db, principal, params.revocation_id) };
      },
    }),
  ];
}

function toMinted(minted: Minted): z.infer<typeof mintedReply> {
  const { checked, lifetime } = minted;
  return {
    credential: {
      id: minted.id,
      issuer: minted.issuer,
      task_id: checked.task.id,
      target_id: checked.target.id,
      decision_id: minted.decisionId,
      expires_at: new Date(lifetime.expiresMs).toISOString(),
      ttl_seconds: lifetime.ttlSeconds,
      ttl_bound: lifetime.bound,
      revocability: minted.revocability,
      effective_bound_seconds: minted.effectiveBoundSeconds,
    },
    // The one place where a secret becomes text: the answer to the one who asked.
    secret: Object.fromEntries(
      Object.entries(minted.secret).map(([name, value]) => [name, value instanceof Secret ? value.reveal() : value]),
    ),
  };
}
