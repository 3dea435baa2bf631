import { type Db, wasRolledBack } from "../db/database.ts";
import type { Principal, RememberedCaller } from "../identity/principal.ts";
import { batcher } from "../lib/batch.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Cursor, cursorText } from "./cursor.ts";
import { looks, type StatusFeed } from "./feed.ts";

/** Reads what is not valid any more for one caller. Those that ask together share a statement. */
export type ReadStatuses = (tenantId: string, item: StatusQuestion) => Promise<{ readonly facts: StatusAnswer }>;

interface StatusQuestion {
  readonly caller: string | null;
  readonly since: string | null;
  readonly serves: string | null;
  readonly after: string | null;
  readonly most: number;
}

interface StatusAnswer {
  /** The caller is no agent, or an active one with an active owner. */
  readonly active: boolean;
  readonly serves: string;
  /** The APIs of which the caller is told everything; null: of all. */
  readonly audiences: readonly string[] | null;
  /** Everything, and not only what came since. */
  readonly complete: boolean;
  readonly snapshot: string;
  readonly statuses: readonly { readonly jti: string; readonly status: number; readonly exp: number }[];
}

export interface StatusEventsDeps {
  readonly read: ReadStatuses;
  readonly feed: StatusFeed;
}

/** In one event: some 70 KB. */
const MOST = 1_000;
const ALIVE_MS = 1_000;
/** A caller whose token has ended, or whose key is gone, is sent away after this at the latest. */
const AUTHENTICATE_AGAIN_MS = 3_000;
/** Readers that share a statement: each may get {@link MOST} tokens in it. */
const READ_TOGETHER = 16;

export function createReadStatuses(db: Db): ReadStatuses {
  return batcher(
    (tenantId, items: readonly StatusQuestion[]) =>
      db.prompt.callForTenant<{ facts: StatusAnswer }>("read_statuses", tenantId, [JSON.stringify(items)]),
    { nothingWasDone: wasRolledBack, maxItems: READ_TOGETHER, width: 1 },
  );
}

/**
 * The tokens that are taken back, as server-sent events (WHATWG HTML §9.2), from `since` on or, without it, from all that
 * are revoked now and not expired. After each `alive` event the reader knows of everything that was committed before its
 * `at_ms`; while none comes, nobody knows. Ends when the caller may not listen any more, or `signal` aborts.
 */
export async function* statusEvents(
  { read, feed }: StatusEventsDeps,
  { principal: first, authenticateAgain }: RememberedCaller,
  since: Cursor | undefined,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const { tenantId } = first;
  let principal = first;
  let checkedAtMs = performance.now();
  let at = since;
  let isBehind = true;
  let aliveAtMs = Number.NEGATIVE_INFINITY;
  for await (const look of looks(feed, tenantId, signal)) {
    if (look.anew) at = undefined;
    // Of another registry: it may serve other targets, or may not listen any more.
    const isOther = look.generation !== principal.generation;
    isBehind ||= look.anew || look.changed.size > 0 || isOther;
    try {
      if (isOther || performance.now() - checkedAtMs >= AUTHENTICATE_AGAIN_MS) {
        const again = await authenticateAgain();
        if (again.agentId !== principal.agentId) return;
        principal = again;
        checkedAtMs = performance.now();
      }
      if (isBehind) {
        at = yield* changes(read, principal, at);
        if (at === undefined) return;
        isBehind = false;
      }
    } catch (error) {
      if (!(error instanceof MayflyError) || (error.status >= 500 && error.code !== "unavailable")) throw error;
      if (error.code !== "unavailable") return;
      // Silence until it is known again.
      continue;
    }
    if (performance.now() - aliveAtMs >= ALIVE_MS) {
      aliveAtMs = performance.now();
      yield eventText("alive", { at_ms: look.atMs });
    }
  }
}

/**
 * One `status` event, or several when there are many: `complete` on the first says that it replaces all that the reader knew,
 * and comes with `audiences`, the APIs whose tokens it is told of (null: all), because a tool that serves another target than
 * it believes would hear nothing and believe that nothing was revoked; `more` says that another one follows at once. Only
 * the last has an `id`, so that who is cut off in between gets all again.
 * Returns how far the reader is then; undefined when it may not listen.
 */
async function* changes(
  read: ReadStatuses,
  caller: Principal,
  at: Cursor | undefined,
): AsyncGenerator<string, Cursor | undefined> {
  const { tenantId, agentId } = caller;
  const asked = { caller: agentId ?? null, since: at?.snapshot ?? null, serves: at?.serves ?? null, most: MOST };
  const { facts: first } = await read(tenantId, { ...asked, after: null });
  const reached: Cursor = { snapshot: first.snapshot, serves: first.serves };
  let part = first;
  let isFirst = true;
  for (;;) {
    if (!part.active) return undefined;
    // Its targets have become others while it was reading.
    if (part.serves !== first.serves || part.complete !== first.complete)
      return yield* changes(read, caller, undefined);
    const { statuses } = part;
    const last = statuses.at(-1);
    const more = statuses.length === MOST;
    const complete = isFirst && first.complete;
    if (complete || !isFirst || statuses.length > 0)
      yield eventText(
        "status",
        { statuses, complete, more, ...(complete ? { audiences: first.audiences } : {}) },
        more ? undefined : cursorText(reached),
      );
    if (!more || last === undefined) return reached;
    isFirst = false;
    part = (await read(tenantId, { ...asked, after: last.jti })).facts;
  }
}

function eventText(name: string, data: object, id?: string): string {
  return `event: ${name}\n${id === undefined ? "" : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`;
}
