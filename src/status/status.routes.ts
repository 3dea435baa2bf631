import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { invalid, MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { idSchema } from "../lib/wire.ts";
import { type Cursor, parseCursor } from "./cursor.ts";
import { createReadStatuses, statusEvents } from "./events.ts";
import type { StatusFeed } from "./feed.ts";
import { createSeats } from "./seats.ts";
import type { StatusLists } from "./serve-lists.ts";
import { STATUS_LIST_MEDIA_TYPE, statusUri } from "./status-list.ts";

interface StatusRoutesDeps {
  readonly db: Db;
  readonly statusFeed: StatusFeed;
  readonly statusLists: StatusLists;
  readonly issuerUrl: (tenantName: string) => string;
  readonly onStream: (open: number) => void;
}

const tenantName = z.string().max(63);
const MAX_TENANTS = 5_000;
/** Less than a list's `ttl`: what a shared cache adds to the time in which a verifier may believe a revoked token. */
const CACHE_CONTROL = "public, max-age=5";

/** The status lists of each tenant, for everybody, and the events, for those whom they concern. */
export function statusEndpoints(deps: StatusRoutesDeps): Endpoint[] {
  const tenants = new Map<string, Id<"tenant">>();
  const seats = createSeats(deps.onStream);
  const read = createReadStatuses(deps.db);
  const tenantOf = async (name: string): Promise<{ id: Id<"tenant">; name: string }> => {
    const known = tenants.get(name);
    if (known !== undefined) return { id: known, name };
    const [tenant] = await deps.db.callAcrossTenants<{ id: Id<"tenant"> }>("tenant_by_name", [name]);
    if (tenant === undefined) throw notFound();
    // Names and ids never change.
    keepNewest(tenants, MAX_TENANTS, name, tenant.id);
    return { id: tenant.id, name };
  };
  return [
    endpoint({
      method: "get",
      path: "/t/{tenant}/status/{list}",
      summary: "Which of the tokens in this list are revoked (draft-ietf-oauth-status-list-21)",
      tag: "oauth",
      allow: "public",
      params: z.strictObject({ tenant: tenantName, list: idSchema("statusList") }),
      query: z.strictObject({ time: z.string().max(32).optional() }),
      mediaType: STATUS_LIST_MEDIA_TYPE,
      replies: { 200: z.string() },
      async handle({ params, query }) {
        if (query.time !== undefined)
          throw new MayflyError("not_supported", "a list is served as it is now, and not as it was at another time");
        return {
          status: 200,
          body: await deps.statusLists.token(await tenantOf(params.tenant), params.list),
          headers: { "cache-control": CACHE_CONTROL },
        };
      },
    }),
    endpoint({
      method: "get",
      path: "/t/{tenant}/status",
      summary: "The status lists that living tokens of this tenant point at (draft-ietf-oauth-status-list-21 §9)",
      tag: "oauth",
      allow: "public",
      params: z.strictObject({ tenant: tenantName }),
      replies: { 200: z.strictObject({ status_lists: z.array(z.string()) }) },
      async handle({ params }) {
        const tenant = await tenantOf(params.tenant);
        const lists = await deps.db.callForTenant<{ id: string }>("list_status_lists", tenant.id, []);
        const prefix = statusUri(deps.issuerUrl(tenant.name));
        return {
          status: 200,
          body: { status_lists: lists.map(({ id }) => `${prefix}/${id}`) },
          headers: { "cache-control": CACHE_CONTROL },
        };
      },
    }),
    endpoint({
      method: "get",
      path: "/status/events",
      summary:
        "Server-sent events: each token that is taken back, within a second; an agent hears of targets that it serves",
      tag: "oauth",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      stream: true,
      mediaType: "text/event-stream",
      replies: { 200: z.string() },
      async handle({ principal, authenticateAgain, request, signal }) {
        const since = lastEventId(request.headers["last-event-id"]);
        const ending = signal();
        seats.take(principal.tenantId, ending);
        return {
          status: 200,
          body: statusEvents({ read, feed: deps.statusFeed }, { principal, authenticateAgain }, since, ending),
          // A proxy that collects before it passes on would turn a second into minutes.
          headers: { "cache-control": "no-store", "x-accel-buffering": "no" },
        };
      },
    }),
  ];
}

function lastEventId(sent: string | readonly string[] | undefined): Cursor | undefined {
  // Empty is what a client sends that has received no id yet.
  if (sent === undefined || sent === "") return undefined;
  const cursor = typeof sent === "string" ? parseCursor(sent) : undefined;
  if (cursor === undefined)
    throw invalid("#/header/last-event-id", "is not the id of one of these events; leave it out");
  return cursor;
}
