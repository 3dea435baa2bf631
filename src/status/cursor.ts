/**
 * How far a reader of status events is: the snapshot of the database in which it has seen everything (`pg_snapshot` as
 * text), and which targets it serves, as a hash. Its text is the `id` of an event, for `Last-Event-ID`.
 */
export interface Cursor {
  readonly snapshot: string;
  readonly serves: string;
}

/** Longer than a snapshot with a hundred transactions in flight. */
const MAX_LENGTH = 2_500;
const CURSOR = /^([0-9]{1,19}:[0-9]{1,19}:(?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)\.(all|[0-9a-f]{16})$/;
const MAX_XID = 2n ** 63n - 1n;

/** The text of a cursor; undefined for one that is too long to be sent back: its event goes without an id. */
export function cursorText({ snapshot, serves }: Cursor): string | undefined {
  const text = `${snapshot}.${serves}`;
  return text.length <= MAX_LENGTH ? text : undefined;
}

/**
 * The cursor that a text is, if it is one that Postgres can read; undefined for any other. A made-up one tells its maker
 * nothing that it may not know: a cursor says only where to begin.
 */
export function parseCursor(text: string): Cursor | undefined {
  const [, snapshot, serves] = text.length <= MAX_LENGTH ? (CURSOR.exec(text) ?? []) : [];
  if (snapshot === undefined || serves === undefined) return undefined;
  const [xmin = "", xmax = "", running = ""] = snapshot.split(":");
  const ascending = [xmin, ...(running === "" ? [] : running.split(","))].map(BigInt);
  const [least, most] = [BigInt(xmin), BigInt(xmax)];
  if (least < 1n || least > most || most > MAX_XID) return undefined;
  const inOrder = ascending.every((xid, index) => index === 0 || (ascending[index - 1] ?? 0n) <= xid);
  if (!inOrder || ascending.slice(1).some((xid) => xid >= most)) return undefined;
  return { snapshot, serves };
}
