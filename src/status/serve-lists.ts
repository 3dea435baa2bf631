import type { Db } from "../db/database.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import { notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { StatusFeed } from "./feed.ts";
import { listOf, signStatusList, statusUri, TTL_SECONDS } from "./status-list.ts";

export interface StatusListDeps {
  readonly db: Db;
  readonly keys: SigningKeys;
  readonly feed: StatusFeed;
  /** A tenant's issuer string. */
  readonly issuerUrl: (tenantName: string) => string;
}

/** Serves the status lists of all tenants. */
export interface StatusLists extends Disposable {
  /**
   * The status list token of one list (draft-21 §5.1), as the database has it now or a look of the feed ago. Throws
   * `not_found` for a list that this tenant does not have, and `unavailable` when the database does not say: an old list is
   * never served.
   */
  token(tenant: { readonly id: Id<"tenant">; readonly name: string }, listId: string): Promise<string>;
}

interface Served {
  /** Somebody was taken back since the list was read. */
  isStale: boolean;
  lst: string;
  token: string;
  /** Of the tenant's registry, as the last look found it. */
  generation: number | undefined;
  signedAtMs: number;
  askedAtMs: number;
  reading: Promise<void> | undefined;
  stopListening(): void;
}

/** So that nobody is given a token that is about to be refused by its `exp`. */
const SIGN_AGAIN_MS = (TTL_SECONDS * 1000) / 2;
/** Nobody has asked for so long: nothing is kept, and nothing listened for. Verifiers ask every {@link TTL_SECONDS}. */
const FORGET_MS = 4 * TTL_SECONDS * 1000;
/** Some 20 KB each; the largest have 240 KB. */
const MAX_SERVED = 500;

/** Keeps what it served as long as the feed says that it is still so. */
export function createStatusLists(deps: StatusListDeps): StatusLists {
  const served = new Map<string, Served>();
  // Apart, so that asking for lists that do not exist pushes out none that do.
  const reading = new Map<string, Served>();

  const drop = (name: string, list: Served): void => {
    list.stopListening();
    if (served.get(name) === list) served.delete(name);
  };
  const dropUnasked = (): void => {
    const nowMs = performance.now();
    // By the time of their last question, oldest first.
    for (const [name, list] of served) {
      if (nowMs - list.askedAtMs <= FORGET_MS && served.size <= MAX_SERVED) return;
      drop(name, list);
    }
  };
  const sweeper = setInterval(dropUnasked, FORGET_MS);
  sweeper.unref();

  const begun = (tenantId: string, listId: string): Served => {
    const list: Served = {
      isStale: true,
      lst: "",
      token: "",
      signedAtMs: Number.NEGATIVE_INFINITY,
      askedAtMs: 0,
      reading: undefined,
      generation: undefined,
      stopListening: deps.feed.listen(tenantId, ({ changed, anew, generation }) => {
        list.isStale ||= anew || changed.has(listId);
        // The key that signed it may have been withdrawn.
        if (generation !== list.generation) list.signedAtMs = Number.NEGATIVE_INFINITY;
        list.generation = generation;
      }),
    };
    return list;
  };

  const read = async (list: Served, tenantId: string, listId: string): Promise<void> => {
    // From here on the feed tells of every change, so none can come between it and what is read.
    await deps.feed.ready();
    list.isStale = false;
    const [row] = await deps.db.callForTenant<{ places: Buffer }>("read_status_list", tenantId, [listId]);
    if (row === undefined) throw notFound();
    const { places } = row;
    const invalid = Uint32Array.from({ length: places.length / 4 }, (_, index) => places.readUInt32BE(index * 4));
    list.lst = await listOf(invalid);
    list.signedAtMs = Number.NEGATIVE_INFINITY;
  };

  return {
    async token({ id: tenantId, name: tenantName }, listId) {
      const name = `${tenantId} ${listId}`;
      const list = served.get(name) ?? reading.get(name) ?? begun(tenantId, listId);
      list.askedAtMs = performance.now();
      if (list.isStale || list.reading !== undefined || !deps.feed.isCurrent()) {
        reading.set(name, list);
        list.reading ??= read(list, tenantId, listId).finally(() => {
          list.reading = undefined;
          reading.delete(name);
        });
        await list.reading.catch((error: unknown) => {
          drop(name, list);
          throw error;
        });
      }
      served.delete(name);
      served.set(name, list);
      dropUnasked();
      if (performance.now() - list.signedAtMs >= SIGN_AGAIN_MS) {
        const issuer = deps.issuerUrl(tenantName);
        const [uri, aggregationUri] = [`${statusUri(issuer)}/${listId}`, statusUri(issuer)];
        const signer = await deps.keys.signer(tenantId, "status_list", list.generation);
        list.token = signStatusList(signer, { issuer, uri, lst: list.lst, aggregationUri }, Date.now());
        list.signedAtMs = performance.now();
      }
      return list.token;
    },
    [Symbol.dispose]() {
      clearInterval(sweeper);
      for (const [name, list] of [...served, ...reading]) drop(name, list);
    },
  };
}
