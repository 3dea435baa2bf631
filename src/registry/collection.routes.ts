import { sql, type Transaction } from "kysely";
import { z } from "zod";
import { constraintOf, type Db, sqlState, type Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import { type Call, type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import { newId } from "../lib/ids.ts";
import { idSchema, moment } from "../lib/wire.ts";
import type { WakeUps } from "../queue/queue.ts";
import type { Action, Change, Collection, CollectionTable, Columns, Row } from "./collection.ts";
import { refuseWhileReferred, requireReference } from "./references.ts";

/** What every collection of the registry needs. */
export interface CollectionDeps {
  readonly db: Db;
  readonly pager: Pager;
  readonly wakeUps: WakeUps;
}

/** The endpoints of a collection, and what its other endpoints are made of. */
export interface CollectionRoutes {
  readonly endpoints: readonly Endpoint[];
  /** The wire form of one thing. */
  readonly reply: z.ZodType;
  action<Body = undefined>(action: Action<Body>): Endpoint;
  /** The thing as a reply, read in a transaction of its own. Throws `not_found`. */
  read(caller: Principal, id: string): Promise<{ readonly body: Columns; readonly etag: string }>;
  readonly change: Change;
}

// The tables are chosen at run time, which Kysely's types cannot follow. The descriptions are typed; this is not.
// biome-ignore lint/suspicious/noExplicitAny: see above
type AnyTx = Transaction<any>;
type AnyRow = Record<string, unknown> & { readonly id: string; readonly version: number };

/**
 * Makes the endpoints of a kind: POST, a list with keyset pages, GET, PATCH and DELETE under `If-Match`. Every
 * statement names the tenant and runs under row-level security; what is another tenant's does not exist (invariant 10).
 */
export function collectionRoutes<Table extends CollectionTable, Create, Update>(
  { db, pager, wakeUps }: CollectionDeps,
  collection: Collection<Table, Create, Update>,
): CollectionRoutes {
  const { path, word, idKind, unique = {} } = collection;
  const table: string = collection.table;
  const what = word.replaceAll("_", " ");
  const tag = path.slice("/v1/".length);
  const parameter = `${word}_id`;
  const id = idSchema(idKind) as z.ZodType<string>;
  const byId = z.strictObject({ [parameter]: id });
  const members = Object.keys(collection.shape);
  const reply = z.strictObject({
    id,
    ...collection.shape,
    version: z.int().describe("Also the ETag. Counts the changes."),
    created_at: moment,
    updated_at: moment,
  });
  const query = z.strictObject({
    ...Object.fromEntries(Object.entries(collection.filters).map(([name, schema]) => [name, schema.optional()])),
    ...pageQuery,
  });
  const idOf = (call: Call<Record<string, string>, unknown, unknown>): string => call.params[parameter] ?? "";

  const repliesOf = async (tx: Tx, rows: readonly AnyRow[], caller: Principal) => {
    const typed = rows as unknown as readonly Row<Table>[];
    const read = await collection.readMembers?.(tx, typed, caller);
    return typed.map((row) => {
      const stored = row as unknown as AnyRow;
      const own = { ...collection.toMembers?.(row, caller), ...read?.get(stored.id) } as Columns;
      const picked = members.map((name) => [name, Object.hasOwn(own, name) ? own[name] : stored[name]]);
      const { version, created_at, updated_at } = stored;
      const body = { id: stored.id, ...Object.fromEntries(picked), version, created_at, updated_at };
      const freshness = collection.freshness?.(body);
      return { body, etag: freshness === undefined ? `${version}` : `${version}-${freshness}` };
    });
  };
  const replyOf = async (tx: Tx, row: AnyRow, caller: Principal) => {
    const [one] = await repliesOf(tx, [row], caller);
    if (one === undefined) throw notFound();
    return one;
  };
  const rowsOf = (tx: AnyTx, caller: Principal) =>
    tx.selectFrom(table).selectAll().where("tenant_id", "=", caller.tenantId);
  const find = async (tx: AnyTx, caller: Principal, wanted: string, lock: "none" | "update" | "no key update") => {
    const one = rowsOf(tx, caller).where("id", "=", wanted);
    const locked = { none: one, update: one.forUpdate(), "no key update": one.forNoKeyUpdate() }[lock];
    const row = await locked.executeTakeFirst();
    if (row === undefined) throw notFound();
    return row as AnyRow;
  };
  const references = async (tx: Tx, caller: Principal, body: Columns) => {
    for (const [member, kind] of Object.entries(collection.references ?? {})) {
      const given = body[member];
      if (typeof given === "string") await requireReference(tx, caller.tenantId, kind, given, `/${member}`);
      if (!Array.isArray(given)) continue;
      for (const [index, one] of given.entries())
        await requireReference(tx, caller.tenantId, kind, String(one), `/${member}/${index}`);
    }
  };
  const columnsOf = (body: Columns): Columns => {
    const columns = collection.toColumns?.(body as Partial<Create & Update>) ?? body;
    return Object.fromEntries(Object.entries(columns).filter(([, value]) => value !== undefined));
  };
  const change: Change = async (caller, requestId, work) => {
    try {
      return await db.withTenant({ tenantId: caller.tenantId, actor: caller.subject, requestId }, async (tx) => {
        await closeGate(tx, caller.tenantId);
        return work(tx);
      });
    } catch (error) {
      throw wordDatabaseError(error, what, unique);
    }
  };

  const list = endpoint({
    method: "get",
    path,
    summary: `List ${tag.replaceAll("-", " ")}, oldest first`,
    tag,
    allow: collection.reads,
    query,
    replies: { 200: pageOf(reply) },
    async handle(call) {
      const { principal } = call;
      const page = pager.read(call, id);
      const asked: Columns = call.query;
      const rows = await db.withTenant({ tenantId: principal.tenantId, actor: principal.subject }, async (tx) => {
        let found = rowsOf(tx, principal).orderBy("id").limit(page.limit);
        for (const column of Object.keys(collection.filters)) {
          if (asked[column] !== undefined) found = found.where(column, "=", asked[column]);
        }
        if (page.after !== undefined) found = found.where("id", ">", page.after);
        return repliesOf(tx, (await found.execute()) as AnyRow[], principal);
      });
      return pager.reply(call, page, { rows, keyOf: ({ body }) => body.id, toItem: ({ body }) => body });
    },
  });

  const read: CollectionRoutes["read"] = (caller, wanted) =>
    db.withTenant({ tenantId: caller.tenantId, actor: caller.subject }, async (tx) =>
      replyOf(tx, await find(tx, caller, wanted, "none"), caller),
    );

  const get = endpoint({
    method: "get",
    path: `${path}/{${parameter}}`,
    summary: `Read one ${what}`,
    tag,
    allow: collection.reads,
    params: byId,
    replies: { 200: reply },
    handle: async (call) => ({ status: 200, ...(await read(call.principal, idOf(call))) }),
  });

  const post = (create: z.ZodType<Create>) =>
    endpoint({
      method: "post",
      path,
      summary: `Register ${/^[aeio]/.test(what) ? "an" : "a"} ${what}`,
      tag,
      allow: collection.writes,
      body: create,
      replies: { 201: reply },
      async handle({ principal, body, requestId }) {
        const made = newId(idKind);
        const answer = await change(principal, requestId, async (tx) => {
          await references(tx, principal, body as Columns);
          const more = await collection.beforeCreate?.(tx, body, principal);
          const row = await (tx as AnyTx)
            .insertInto(table)
            .values({ ...columnsOf(body as Columns), ...more, tenant_id: principal.tenantId, id: made })
            .returningAll()
            .executeTakeFirstOrThrow();
          return replyOf(tx, row as AnyRow, principal);
        });
        return { status: 201, ...answer, headers: { location: `${path}/${made}` } };
      },
    });

  const patch = (update: z.ZodType<Update>) =>
    endpoint({
      method: "patch",
      path: `${path}/{${parameter}}`,
      summary: `Change members of one ${what}`,
      tag,
      allow: collection.writes,
      params: byId,
      body: update,
      conditional: true,
      replies: { 200: reply },
      async handle(call) {
        const { principal, body, requestId, ifMatch = "" } = call;
        const answer = await change(principal, requestId, async (tx) => {
          await references(tx, principal, body as Columns);
          const before = await find(tx, principal, idOf(call), "no key update");
          const more = await collection.beforeUpdate?.(tx, before as unknown as Row<Table>, body, principal);
          const row = await (tx as AnyTx)
            .updateTable(table)
            .set({ ...columnsOf(body as Columns), ...more, version: sql`version + 1`, updated_at: sql`now()` })
            .where("tenant_id", "=", principal.tenantId)
            .where("id", "=", before.id)
            .where(sql<string>`version::text`, "=", versionIn(ifMatch))
            .returningAll()
            .executeTakeFirst();
          if (row === undefined) throw hasChanged(what);
          return replyOf(tx, row as AnyRow, principal);
        });
        return { status: 200, ...answer };
      },
    });

  const remove = endpoint({
    method: "delete",
    path: `${path}/{${parameter}}`,
    summary: `Remove one ${what}, when nothing refers to it any more`,
    tag,
    allow: collection.writes,
    params: byId,
    conditional: true,
    replies: { 204: null },
    async handle(call) {
      const { principal, requestId, ifMatch = "" } = call;
      await change(principal, requestId, async (tx) => {
        const row = await find(tx, principal, idOf(call), "update");
        const typed = row as unknown as Row<Table>;
        if (`${row.version}` !== versionIn(ifMatch)) throw hasChanged(what);
        await collection.beforeDelete?.(tx, typed, principal);
        await refuseWhileReferred(tx, principal.tenantId, row.id, what, collection.referrers);
        await (tx as AnyTx)
          .deleteFrom(table)
          .where("tenant_id", "=", principal.tenantId)
          .where("id", "=", row.id)
          .execute();
        await collection.afterDelete?.(tx, typed, principal);
      });
      wakeUps.now();
      return { status: 204 };
    },
  });

  return {
    endpoints: [
      ...(collection.create === undefined ? [] : [post(collection.create)]),
      list,
      get,
      ...(collection.update === undefined ? [] : [patch(collection.update)]),
      remove,
    ],
    reply,
    read,
    change,
    action: <Body>(action: Action<Body>) =>
      endpoint({
        method: "post",
        path: `${path}/{${parameter}}/${action.name}`,
        summary: action.summary,
        tag,
        allow: action.allow,
        params: byId,
        ...(action.body === undefined ? {} : { body: action.body }),
        ...(action.conditional === true ? { conditional: true } : {}),
        replies: { 200: reply },
        async handle(call: Call<Record<string, string>, unknown, Body>) {
          const { principal, body, requestId, ifMatch = "" } = call;
          const answer = await change(principal, requestId, async (tx) => {
            await action.run(tx, principal, idOf(call), { body, version: versionIn(ifMatch) });
            return replyOf(tx, await find(tx, principal, idOf(call), "none"), principal);
          });
          wakeUps.now();
          return { status: 200, ...answer };
        },
      }),
  };
}

/** The version that an entity tag of ours names: what follows `-` is about members that change without it. */
export function versionIn(etag: string): string {
  return etag.split("-")[0] ?? "";
}

/** The 412 of a change to something that is not any more what the caller read. */
function hasChanged(what: string): MayflyError {
  return new MayflyError("precondition_failed", `the ${what} has changed since this ETag: read it again`);
}

/** Unique and foreign keys as the 409 that they mean; everything else as it is. */
function wordDatabaseError(error: unknown, what: string, unique: Readonly<Record<string, string>>): unknown {
  if (error instanceof MayflyError) return error;
  if (sqlState(error) === "23505") {
    const pointer = unique[constraintOf(error) ?? ""];
    if (pointer === undefined) return new MayflyError("conflict", `there is already such a ${what}`, { cause: error });
    const detail = `another ${what} of the tenant has this already`;
    return new MayflyError("conflict", detail, { errors: [{ pointer, detail }], cause: error });
  }
  if (sqlState(error) === "23503")
    return new MayflyError("conflict", `something still refers to this ${what}`, { cause: error });
  return error;
}
