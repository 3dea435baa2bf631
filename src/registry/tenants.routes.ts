import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import { idSchema, moment } from "../lib/wire.ts";
import type { WakeUps } from "../queue/queue.ts";
import { versionIn } from "./collection.routes.ts";
import {
  changeTenantState,
  createTenant,
  listTenants,
  type OnTenantCreated,
  readTenant,
  renameTenant,
  requireOperator,
  type TenantRow,
} from "./manage-tenants.ts";
import { line, tenantName } from "./names.ts";

export interface TenantDeps {
  readonly db: Db;
  readonly pager: Pager;
  readonly wakeUps: WakeUps;
  /** Gives a new tenant what it starts with (its default policies), in the transaction that makes it. */
  readonly onTenantCreated: OnTenantCreated;
  /** The tenant's issuer string: the one audience that its callers' tokens carry. */
  readonly issuerUrl: (tenantName: string) => string;
}

const displayName = line(1, 100);
const byId = z.strictObject({ tenant_id: idSchema("tenant") });
const states = ["active", "suspended"] as const;

const reply = z.strictObject({
  id: idSchema("tenant"),
  name: z.string(),
  display_name: z.string(),
  state: z.enum(states),
  issuer: z.string().describe("Its issuer string: the `iss` of its tokens, and the `aud` of tokens sent to it."),
  version: z.int().describe("Also the ETag. Counts the changes."),
  created_at: moment,
  updated_at: moment,
});

/**
 * Tenants, for operators in the system tenant; of what is inside a tenant they see nothing. A tenant is never deleted:
 * its evidence is kept, and its issuer string must never come to mean another.
 */
export function tenantEndpoints({ db, pager, wakeUps, onTenantCreated, issuerUrl }: TenantDeps): Endpoint[] {
  const toReply = (row: TenantRow) => ({ ...row, issuer: issuerUrl(row.name) });
  const answer = (row: TenantRow) => ({ status: 200, body: toReply(row), etag: row.version });
  const common = { tag: "tenants", allow: ["operator"] as const };
  return [
    endpoint({
      ...common,
      method: "post",
      path: "/v1/tenants",
      summary: "Make a tenant, with the default policies",
      body: z.strictObject({ name: tenantName, display_name: displayName }),
      replies: { 201: reply },
      async handle({ principal, body, requestId }) {
        const row = await createTenant(db, principal, body, onTenantCreated, requestId);
        return { ...answer(row), status: 201, headers: { location: `/v1/tenants/${row.id}` } };
      },
    }),
    endpoint({
      ...common,
      method: "get",
      path: "/v1/tenants",
      summary: "List tenants, oldest first",
      query: z.strictObject({ name: tenantName.optional(), state: z.enum(states).optional(), ...pageQuery }),
      replies: { 200: pageOf(reply) },
      async handle(call) {
        requireOperator(call.principal);
        const page = pager.read(call, idSchema("tenant"));
        const rows = await listTenants(db, call.principal, call.query, page);
        return pager.reply(call, page, { rows, keyOf: (row) => row.id, toItem: toReply });
      },
    }),
    endpoint({
      ...common,
      method: "get",
      path: "/v1/tenants/{tenant_id}",
      summary: "Read one tenant",
      params: byId,
      replies: { 200: reply },
      handle: async ({ principal, params }) => answer(await readTenant(db, principal, params.tenant_id)),
    }),
    endpoint({
      ...common,
      method: "patch",
      path: "/v1/tenants/{tenant_id}",
      summary: "Change what a tenant is called. Its name, which is in its issuer string, never changes",
      params: byId,
      body: z.strictObject({ display_name: displayName }),
      conditional: true,
      replies: { 200: reply },
      async handle({ principal, params, body, requestId, ifMatch = "" }) {
        const change = { displayName: body.display_name, version: versionIn(ifMatch) };
        return answer(await renameTenant(db, principal, params.tenant_id, change, requestId));
      },
    }),
    endpoint({
      ...common,
      method: "post",
      path: "/v1/tenants/{tenant_id}/state",
      summary: "Suspend a tenant (nobody gets in, and everything it holds is taken back), or let it in again",
      params: byId,
      body: z.strictObject({ state: z.enum(states) }),
      replies: { 200: reply },
      async handle({ principal, params, body, requestId }) {
        const row = await changeTenantState(db, principal, params.tenant_id, body.state, requestId);
        wakeUps.now();
        return answer(row);
      },
    }),
  ];
}
