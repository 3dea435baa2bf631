import type { X509Certificate } from "node:crypto";
import { fetchKeys, isRemote, type Validator } from "./fetch-keys.ts";
import { importSourceKeys, type SourceKeys } from "./import-bundle.ts";
import { type FindKeys, findIn, type KeyAnswer, KeySetError, pinned, unknownKey } from "./key-set.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { type SafeFetch, SafeFetchError } from "./safe-fetch.ts";
import type { TokenSource } from "./trust-source.ts";

/** A stored trust source. A new `version` means new configuration: nothing of the old one's keys is kept. */
export interface RegisteredSource {
  readonly id: string;
  readonly version: number;
  readonly config: TokenSource;
  /** SPIFFE: no bundle with a lower sequence is taken. Absent when none has been read for this version. */
  readonly leastSequence?: number;
}

/** What happened to a source's keys, for logs, metrics and the owner's view. No key material. */
export interface KeyEvent {
  readonly sourceId: string;
  readonly outcome: "refreshed" | "unchanged" | "failed";
  /** Why it failed: a {@link SafeFetchError} problem, `sequence_went_back` or `document_refused`. */
  readonly reason?: string;
  readonly detail?: string;
  /** Keys of the document that are not used, and why. */
  readonly leftOut?: readonly string[];
}

export interface KeyCacheOptions {
  readonly fetchJson: SafeFetch;
  /** A clock in milliseconds that never goes back (`performance.now`). It paces fetches and ages keys. */
  readonly nowMs: () => number;
  /** How long a request may wait for keys when there are none that may be used. Default 2 s. */
  readonly firstFetchWaitMs?: number;
  readonly report?: (event: KeyEvent) => void;
}

/** The keys of all trust sources of this process. */
export interface KeyCache {
  /**
   * The finder of one source's keys, to hand to `verifyToken`. Cheap: call it for every token. Who still has an older
   * version of the source gets the newer one's keys, and hears of the new version when the caller is looked up.
   */
  keysOf(source: RegisteredSource): FindKeys;
  /** The sequence of the bundle held for this version of a source. Absent when it says none, or none is held. */
  sequenceOf(source: Pick<RegisteredSource, "id" | "version">): number | undefined;
  /** The anchors of a SPIFFE trust domain's X.509-SVIDs, from the same set as its keys and by the same rules of age. */
  authoritiesOf(source: RegisteredSource): Promise<readonly X509Certificate[] | Refusal>;
  /** Fetches what is due. Call it from a timer, every few seconds, so that idle sources stay fresh too. */
  refreshDue(): Promise<void>;
  /** Drops a source that was deleted or suspended. */
  forget(sourceId: string): void;
}

const MIN_REFRESH_MS = 60_000;
const MAX_REFRESH_MS = 3_600_000;
const DEFAULT_REFRESH_MS = 600_000;
// SPIFFE trust domain and bundle §4.1.2 recommends five minutes where the bundle gives no hint.
const DEFAULT_BUNDLE_REFRESH_MS = 300_000;
const UNKNOWN_KID_MS = 60_000;
const FIRST_RETRY_MS = 10_000;
const MAX_RETRY_MS = 300_000;
const CONCURRENT_REFRESHES = 8;
// A set is read again well before it is too old to be believed, whatever its publisher says.
const REFRESHES_PER_MAX_AGE = 3;

/** What is known of one remote source. Times are of the injected clock. */
interface Entry {
  readonly source: RegisteredSource;
  readonly find: FindKeys;
  leastSequence: number | undefined;
  readonly held: () => Promise<SourceKeys | Refusal>;
  set?: SourceKeys;
  validator: Validator | undefined;
  /** When the publisher last said that `set` is what it publishes. */
  confirmedAt: number;
  refreshAt: number;
  attemptedAt: number;
  failures: number;
  inFlight?: Promise<void>;
}

/**
 * Makes the cache (standards §5; reliability D6, D7). While a usable set is held, a request never waits for the
 * network: the set answers, and a due refresh runs behind it, one at a time per source. A `kid` that the set lacks
 * causes one refetch a minute. Only a source that has no keys yet makes its first tokens wait, and a SPIFFE one not even
 * then: its bundle is read by {@link KeyCache.refreshDue} alone. When fetching fails, the last good set stays for the source's `keys_max_age_seconds`;
 * then every token is refused (`keys_stale`) until the publisher answers again.
 */
export function createKeyCache(options: KeyCacheOptions): KeyCache {
  const entries = new Map<string, Entry>();
  const entryOf = (source: RegisteredSource): Entry => {
    const known = entries.get(source.id);
    if (known !== undefined && known.source.version >= source.version) {
      if (known.source.version === source.version) raiseSequence(known, source.leastSequence);
      return known;
    }
    const remote = isRemote(source.config);
    const imported = once(() => importPinned(source, options));
    const entry: Entry = {
      source,
      find: remote
        ? (kid, algorithm) => find(entry, kid, algorithm, options)
        : async (kid, algorithm) => {
            const set = await imported();
            return "code" in set ? { refusal: set } : pinned(set)(kid, algorithm);
          },
      held: remote ? () => heldSet(entry, options) : imported,
      leastSequence: source.leastSequence,
      validator: undefined,
      confirmedAt: Number.NEGATIVE_INFINITY,
      refreshAt: Number.NEGATIVE_INFINITY,
      attemptedAt: Number.NEGATIVE_INFINITY,
      failures: 0,
    };
    entries.set(source.id, entry);
    return entry;
  };
  return {
    keysOf: (source) => entryOf(source).find,
    async authoritiesOf(source) {
      const set = await entryOf(source).held();
      return "code" in set ? set : set.authorities;
    },
    sequenceOf({ id, version }) {
      const entry = entries.get(id);
      return entry?.source.version === version ? entry.set?.sequence : undefined;
    },
    async refreshDue() {
      const due = [...entries.values()].filter(
        (entry) => isRemote(entry.source.config) && isDue(entry, options.nowMs()),
      );
      const work = due.values();
      await Promise.all(
        Array.from({ length: CONCURRENT_REFRESHES }, async () => {
          for (const entry of work) await refresh(entry, options);
        }),
      );
    },
    forget(sourceId) {
      entries.delete(sourceId);
    },
  };
}

/** Keys in the configuration: imported at the first use, the same for ever. */
async function importPinned({ id, config }: RegisteredSource, options: KeyCacheOptions): Promise<SourceKeys | Refusal> {
  const document = config.kind === "key_set" ? config.jwks : config.kind === "spiffe" ? config.bundle : undefined;
  try {
    return await importSourceKeys(config, document);
  } catch (error) {
    options.report?.(failure(id, error));
    return unavailable();
  }
}

async function find(
  entry: Entry,
  ...[kid, algorithm, options]: [...Parameters<FindKeys>, KeyCacheOptions]
): Promise<KeyAnswer> {
  const usable = usableSet(entry, options.nowMs());
  if (usable === undefined) return await findAfterFetch(entry, kid, algorithm, options);
  const keys = findIn(usable, kid, algorithm);
  const now = options.nowMs();
  // Not awaited: a request with a made-up kid must not be able to wait for the issuer on everybody's behalf.
  if (isDue(entry, now) || (keys.length === 0 && now - entry.attemptedAt >= UNKNOWN_KID_MS))
    void refresh(entry, options);
  return keys.length > 0 ? { keys } : { refusal: unknownKey() };
}

async function findAfterFetch(
  entry: Entry,
  ...[kid, algorithm, options]: [...Parameters<FindKeys>, KeyCacheOptions]
): Promise<KeyAnswer> {
  const set = await fetchedSet(entry, options);
  return "code" in set ? { refusal: set } : await pinned(set)(kid, algorithm);
}

/** The set that may be used now; a due refresh runs behind it. */
async function heldSet(entry: Entry, options: KeyCacheOptions): Promise<SourceKeys | Refusal> {
  const usable = usableSet(entry, options.nowMs());
  if (usable === undefined) return fetchedSet(entry, options);
  if (isDue(entry, options.nowMs())) void refresh(entry, options);
  return usable;
}

/**
 * With nothing to answer from, a short wait is better than a refusal: the source may have been registered just now. Bundles
 * are read in the background from the moment that their source exists, so there is nothing to wait for.
 */
async function fetchedSet(entry: Entry, options: KeyCacheOptions): Promise<SourceKeys | Refusal> {
  const waits = entry.source.config.kind !== "spiffe";
  if (waits && (entry.inFlight !== undefined || isDue(entry, options.nowMs()))) {
    await atMost(options.firstFetchWaitMs ?? 2000, refresh(entry, options));
  }
  return usableSet(entry, options.nowMs()) ?? (entry.set === undefined ? unavailable() : stale());
}

function usableSet(entry: Entry, now: number): SourceKeys | undefined {
  return now - entry.confirmedAt < maxAgeMs(entry.source.config) ? entry.set : undefined;
}

function maxAgeMs(config: TokenSource): number {
  return "keys_max_age_seconds" in config ? config.keys_max_age_seconds * 1000 : 0;
}

/** Due: the publisher's time is over, and after failures so is the pause (10 s, doubling to 5 min). */
function isDue(entry: Entry, now: number): boolean {
  const pause = entry.failures === 0 ? 0 : Math.min(FIRST_RETRY_MS * 2 ** (entry.failures - 1), MAX_RETRY_MS);
  return now >= entry.refreshAt && now - entry.attemptedAt >= pause;
}

/** Fetches once, however many ask. Never rejects; what went wrong is reported. */
function refresh(entry: Entry, options: KeyCacheOptions): Promise<void> {
  entry.inFlight ??= fetchInto(entry, options).finally(() => {
    delete entry.inFlight;
  });
  return entry.inFlight;
}

async function fetchInto(entry: Entry, options: KeyCacheOptions): Promise<void> {
  const { id, config } = entry.source;
  entry.attemptedAt = options.nowMs();
  try {
    const { answer, validator } = await fetchKeys(config, options.fetchJson, entry.validator);
    if (answer.status === "fresh") {
      const set = await importSourceKeys(config, answer.document);
      refuseOlder(entry, set);
      entry.set = set;
      raiseSequence(entry, set.sequence);
    } else if (entry.set === undefined) {
      throw new KeySetError("the publisher says that nothing has changed, and there is nothing yet");
    }
    entry.validator = validator;
    entry.failures = 0;
    entry.confirmedAt = options.nowMs();
    entry.refreshAt = entry.confirmedAt + refreshAfterMs(config, entry.set, answer.maxAgeSeconds);
    const leftOut = answer.status === "fresh" ? { leftOut: entry.set.leftOut } : {};
    options.report?.({ sourceId: id, outcome: answer.status === "fresh" ? "refreshed" : "unchanged", ...leftOut });
  } catch (error) {
    entry.failures += 1;
    options.report?.(failure(id, error));
  }
}

/** SPIFFE trust domain and bundle §4.1.1: a bundle that was overtaken must not bring withdrawn keys back. */
function refuseOlder({ leastSequence }: Entry, next: SourceKeys): void {
  if (leastSequence !== undefined && (next.sequence === undefined || next.sequence < leastSequence)) {
    throw new SequenceWentBack("the bundle is older than the one held; the newer one stays");
  }
}

function raiseSequence(entry: Entry, sequence: number | undefined): void {
  if (sequence !== undefined) entry.leastSequence = Math.max(entry.leastSequence ?? 0, sequence);
}

class SequenceWentBack extends KeySetError {}

function refreshAfterMs(config: TokenSource, set: SourceKeys, maxAgeSeconds: number | undefined): number {
  const wanted =
    config.kind === "spiffe"
      ? (set.refreshHintSeconds ?? DEFAULT_BUNDLE_REFRESH_MS / 1000)
      : (maxAgeSeconds ?? DEFAULT_REFRESH_MS / 1000);
  const longest = Math.min(MAX_REFRESH_MS, maxAgeMs(config) / REFRESHES_PER_MAX_AGE);
  return Math.min(Math.max(wanted * 1000, MIN_REFRESH_MS), longest);
}

function failure(sourceId: string, error: unknown): KeyEvent {
  const reason =
    error instanceof SafeFetchError
      ? error.problem
      : error instanceof SequenceWentBack
        ? "sequence_went_back"
        : "document_refused";
  const own = error instanceof SafeFetchError || error instanceof KeySetError;
  return { sourceId, outcome: "failed", reason, ...(own ? { detail: error.message } : {}) };
}

function unavailable(): Refusal {
  return refuse("keys_unavailable", "the keys of the trust source have not been read yet: try again in a few seconds");
}

function stale(): Refusal {
  return refuse("keys_stale", "the keys of the trust source could not be read again for too long, so none is believed");
}

function once<Value>(make: () => Promise<Value>): () => Promise<Value> {
  let value: Promise<Value> | undefined;
  return () => (value ??= make());
}

async function atMost(milliseconds: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  await Promise.race([work, limit]);
  clearTimeout(timer);
}
