import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import { notFound } from "../lib/errors.ts";
import { idSchema, moment } from "../lib/wire.ts";
import { activatePolicies, publishPolicies } from "./publish-policies.ts";
import { validatePolicies } from "./validate.ts";

const policySet = z.strictObject({
  id: idSchema("policySet"),
  policy_version: z.int(),
  active: z.boolean(),
  note: z.string(),
  text_hash: z.string(),
  published_by: z.string(),
  created_at: moment,
});
const text = z
  .string()
  .min(1)
  .max(256 * 1024);
const byVersion = z.strictObject({
  policy_version: z
    .string()
    .regex(/^[1-9]\d{0,8}$/)
    .transform(Number),
});

const columns = ["id", "policy_version", "active", "note", "text_hash", "published_by", "created_at"] as const;

/** Policy sets: published whole, never changed, one of them active. */
export function policyEndpoints({ db, pager }: { db: Db; pager: Pager }): Endpoint[] {
  return [
    endpoint({
      method: "post",
      path: "/v1/policies",
      summary: "Publish Cedar policies as the next version and make it the active one",
      tag: "policies",
      allow: ["admin"],
      body: z.strictObject({ text, note: z.string().max(500).default("") }),
      replies: { 201: z.strictObject({ id: idSchema("policySet"), policy_version: z.int() }) },
      async handle({ principal, body, requestId }) {
        const acting = { tenantId: principal.tenantId, actor: principal.subject, requestId };
        const published = await publishPolicies(db, acting, body);
        return { status: 201, body: published, headers: { location: `/v1/policies/${published.policy_version}` } };
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/policies/validate",
      summary: "What speaks against publishing these policies; nothing is published",
      tag: "policies",
      allow: ["admin", "auditor"],
      body: z.strictObject({ text }),
      replies: {
        200: z.strictObject({
          problems: z.array(
            z.strictObject({ policy: z.string().optional(), line: z.int().optional(), message: z.string() }),
          ),
        }),
      },
      async handle({ body }) {
        const problems = validatePolicies(body.text).map(({ policyId, line, message }) => ({
          ...(policyId === undefined ? {} : { policy: policyId }),
          ...(line === undefined ? {} : { line }),
          message,
        }));
        return { status: 200, body: { problems } };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/policies",
      summary: "The versions, newest first",
      tag: "policies",
      allow: ["admin", "auditor"],
      query: z.strictObject(pageQuery),
      replies: { 200: pageOf(policySet) },
      async handle(call) {
        const { tenantId, subject } = call.principal;
        const page = pager.read(call, z.int());
        const rows = await db.withTenant({ tenantId, actor: subject }, (tx) => {
          let sets = tx
            .selectFrom("policy_sets")
            .select(columns)
            .where("tenant_id", "=", tenantId)
            .orderBy("policy_version", "desc")
            .limit(page.limit);
          if (page.after !== undefined) sets = sets.where("policy_version", "<", page.after);
          return sets.execute();
        });
        return pager.reply(call, page, {
          rows,
          keyOf: (row) => row.policy_version,
          toItem: (row) => ({ ...row, created_at: row.created_at.toISOString() }),
        });
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/policies/{policy_version}",
      summary: "One version with its text",
      tag: "policies",
      allow: ["admin", "auditor"],
      params: byVersion,
      replies: { 200: policySet.extend({ text: z.string() }) },
      async handle({ principal, params }) {
        const row = await db.withTenant({ tenantId: principal.tenantId, actor: principal.subject }, (tx) =>
          tx
            .selectFrom("policy_sets")
            .select([...columns, "text"])
            .where("tenant_id", "=", principal.tenantId)
            .where("policy_version", "=", params.policy_version)
            .executeTakeFirst(),
        );
        if (row === undefined) throw notFound();
        return { status: 200, body: { ...row, created_at: row.created_at.toISOString() } };
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/policies/{policy_version}/activate",
      summary: "Make an earlier version the active one again",
      tag: "policies",
      allow: ["admin"],
      params: byVersion,
      replies: { 204: null },
      async handle({ principal, params, requestId }) {
        const acting = { tenantId: principal.tenantId, actor: principal.subject, requestId };
        await activatePolicies(db, acting, params.policy_version);
        return { status: 204 };
      },
    }),
  ];
}
