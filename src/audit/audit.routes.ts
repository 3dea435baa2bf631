import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import { moment } from "../lib/wire.ts";

const eventId = z.string().regex(/^evt_[0-9a-f]{32}$/);
const anyId = z.string().regex(/^[a-z]{3}_[0-9a-f]{32}$/);

const eventReply = z.strictObject({
  id: eventId,
  type: z.string(),
  actor: z.string(),
  subject_id: z.string().nullable(),
  agent_id: z.string().nullable(),
  task_id: z.string().nullable(),
  credential_id: z.string().nullable(),
  data: z.record(z.string(), z.unknown()),
  request_id: z.string().nullable(),
  recorded_at: moment,
});

const query = z.strictObject({
  type: z
    .string()
    .regex(/^[a-z_]+(\.[a-z_]+)?$/)
    .optional()
    .describe("A type (`credential.denied`) or the first word of one (`credential`)."),
  actor: z.string().max(512).optional(),
  subject: anyId.optional(),
  agent: anyId.optional(),
  task: anyId.optional(),
  credential: anyId.optional(),
  after: moment.optional(),
  before: moment.optional(),
  ...pageQuery,
});

/** The audit log, newest first. Nothing in it can be changed or removed by any endpoint. */
export function auditEndpoints({ db, pager }: { db: Db; pager: Pager }): Endpoint[] {
  return [
    endpoint({
      method: "get",
      path: "/v1/audit",
      summary: "Everything that happened, denials included",
      tag: "audit",
      allow: ["auditor", "admin"],
      query,
      replies: { 200: pageOf(eventReply) },
      async handle(call) {
        const { principal, query: filter } = call;
        const page = pager.read(call, eventId);
        const rows = await db.withTenant({ tenantId: principal.tenantId, actor: principal.subject }, (tx) => {
          let events = tx
            .selectFrom("audit_events")
            .select([
              "id",
              "type",
              "actor",
              "subject_id",
              "agent_id",
              "task_id",
              "credential_id",
              "data",
              "request_id",
              "recorded_at",
            ])
            .where("tenant_id", "=", principal.tenantId)
            .orderBy("id", "desc")
            .limit(page.limit);
          const { type } = filter;
          if (type !== undefined)
            events = type.includes(".")
              ? events.where("type", "=", type)
              : events.where("type", "like", `${type.replaceAll("_", "\\_")}.%`);
          if (filter.actor !== undefined) events = events.where("actor", "=", filter.actor);
          if (filter.subject !== undefined) events = events.where("subject_id", "=", filter.subject);
          if (filter.agent !== undefined) events = events.where("agent_id", "=", filter.agent);
          if (filter.task !== undefined) events = events.where("task_id", "=", filter.task);
          if (filter.credential !== undefined) events = events.where("credential_id", "=", filter.credential);
          if (filter.after !== undefined) events = events.where("recorded_at", ">", new Date(filter.after));
          if (filter.before !== undefined) events = events.where("recorded_at", "<", new Date(filter.before));
          if (page.after !== undefined) events = events.where("id", "<", page.after);
          return events.execute();
        });
        return pager.reply(call, page, {
          rows,
          keyOf: (row) => row.id,
          toItem: (row) => ({ ...row, recorded_at: row.recorded_at.toISOString() }),
        });
      },
    }),
  ];
}
