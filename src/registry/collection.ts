import type { Selectable } from "kysely";
import type { z } from "zod";
import type { Tx } from "../db/database.ts";
import type { Database } from "../db/schema.ts";
import type { Principal, Role } from "../identity/principal.ts";
import type { IdKind } from "../lib/ids.ts";
import type { Referable, Referrer } from "./references.ts";

export type CollectionTable =
  | "teams"
  | "owners"
  | "agents"
  | "trust_sources"
  | "identities"
  | "resources"
  | "relationships"
  | "purposes"
  | "targets";

export type Row<Table extends CollectionTable> = Selectable<Database[Table]>;

/** Columns as they are written, beside those that the factory writes itself. */
export type Columns = Readonly<Record<string, unknown>>;

/**
 * One kind of thing as data. Members of the wire are columns by the same name, so only what differs needs a function.
 * Hooks run in the transaction of the change and refuse by throwing; what they do is undone with it.
 */
export interface Collection<Table extends CollectionTable, Create, Update> {
  readonly path: `/v1/${string}`;
  /** What one is called: in the path parameter (`trust_source_id`) and in answers. */
  readonly word: string;
  readonly idKind: IdKind;
  readonly table: Table;
  readonly reads: readonly Role[];
  readonly writes: readonly Role[];
  /** What a reply holds besides `id`, `version`, `created_at` and `updated_at`. */
  readonly shape: z.ZodRawShape;
  /** Query members of the list: each narrows it to rows whose column of this name is equal. */
  readonly filters: Readonly<Record<string, z.ZodType<string>>>;
  /** The body of POST. Absent: no such endpoint here. */
  readonly create?: z.ZodType<Create>;
  /** The body of PATCH. Absent: it never changes this way. */
  readonly update?: z.ZodType<Update>;
  /** Body members that are ids of other things of the tenant. */
  readonly references?: Readonly<Record<string, Referable>>;
  /** What stands in the way of a deletion. */
  readonly referrers: readonly Referrer[];
  /** Unique constraints, and the body member that the caller must change. */
  readonly unique?: Readonly<Record<string, string>>;
  /** A body as columns. Default: member by member. */
  toColumns?(body: Partial<Create & Update>): Columns;
  /** Members of the reply that are not columns, or not as they are stored. */
  toMembers?(row: Row<Table>, caller: Principal): Readonly<Record<string, unknown>>;
  /** As {@link toMembers}, for those that take a query: one for all the rows of a reply, answered by id. */
  readMembers?(tx: Tx, rows: readonly Row<Table>[], caller: Principal): Promise<ReadonlyMap<string, Columns>>;
  /** What the entity tag says besides the version, for members that change without it. No `-` in it. */
  freshness?(members: Columns): string;
  beforeCreate?(tx: Tx, body: Create, caller: Principal): Promise<Columns | undefined>;
  /** `row` is locked against other changes. */
  beforeUpdate?(tx: Tx, row: Row<Table>, patch: Update, caller: Principal): Promise<Columns | undefined>;
  /** `row` is locked against other changes and references. */
  beforeDelete?(tx: Tx, row: Row<Table>, caller: Principal): Promise<void>;
  afterDelete?(tx: Tx, row: Row<Table>, caller: Principal): Promise<void>;
}

/** Runs a change in one transaction of the caller's tenant, and words what the database has against it. */
export type Change = <Value>(caller: Principal, requestId: string, work: (tx: Tx) => Promise<Value>) => Promise<Value>;

/** Something that can be done to one thing of a collection: `POST <path>/{id}/<name>`, answered with the thing. */
export interface Action<Body> {
  readonly name: string;
  readonly summary: string;
  readonly allow: readonly Role[];
  readonly body?: z.ZodType<Body>;
  /** Requires `If-Match`: what is done is done to exactly what the caller read. */
  readonly conditional?: boolean;
  /** Does it, or throws. Runs in one transaction of the caller's tenant. */
  run(tx: Tx, caller: Principal, id: string, given: { readonly body: Body; readonly version: string }): Promise<void>;
}
