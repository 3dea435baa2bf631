import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import { idSchema, machineName, moment } from "../lib/wire.ts";
import { listUses, type UseRow } from "./list-uses.ts";
import { reportUses } from "./report-uses.ts";

const outcome = z.enum(["allowed", "refused"]);

const MAX_USES = 500;
/** 500 of the longest there are. */
const BODY_LIMIT_BYTES = 256 * 1024;
const BODY_LIMIT_MEMBERS = MAX_USES * 6 + 1;

const use = z.strictObject({
  credential_id: idSchema("credential").describe("The `jti` of a token."),
  action: machineName,
  resource: machineName.describe("Its name or id."),
  outcome,
  at: moment.describe("When, by the tool's clock; at most a minute ahead of Mayfly's."),
});

const useReply = z.strictObject({
  id: idSchema("use"),
  credential_id: idSchema("credential"),
  action: z.string(),
  resource: z.string(),
  outcome,
  at: moment,
  after_end: z.boolean().describe("The credential had expired or been taken back by then."),
  reported_by: z.string(),
  recorded_at: moment,
});

/** How credentials were used, as the tools that they were shown to report it. */
export function useEndpoints({ db, pager }: { db: Db; pager: Pager }): Endpoint[] {
  return [
    endpoint({
      method: "post",
      path: "/v1/uses",
      summary: "Report how credentials were used at a target that the caller serves",
      tag: "uses",
      allow: ["agent"],
      body: z.strictObject({ uses: z.array(use).min(1).max(MAX_USES) }),
      bodyLimitBytes: BODY_LIMIT_BYTES,
      bodyLimitMembers: BODY_LIMIT_MEMBERS,
      replies: {
        200: z.strictObject({
          accepted: z.int(),
          unknown: z.int().describe("Of no credential, or of none for a target that the caller serves."),
        }),
      },
      async handle({ principal, body, requestId }) {
        return { status: 200, body: await reportUses(db, principal, body.uses, requestId) };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/credentials/{credential_id}/uses",
      summary: "What tools reported about one credential, newest first",
      tag: "uses",
      allow: ["agent", "auditor", "admin"],
      params: z.strictObject({ credential_id: idSchema("credential") }),
      query: z.strictObject(pageQuery),
      replies: { 200: pageOf(useReply) },
      async handle(call) {
        const page = pager.read(call, idSchema("use"));
        const rows = await listUses(db, call.principal, call.params.credential_id, page);
        return pager.reply(call, page, { rows, keyOf: ({ id }) => id, toItem });
      },
    }),
  ];
}

function toItem({ at, recorded_at: recordedAt, ...row }: UseRow): z.infer<typeof useReply> {
  return { ...row, at: at.toISOString(), recorded_at: recordedAt.toISOString() };
}
