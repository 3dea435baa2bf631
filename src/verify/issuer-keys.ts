import type { CryptoKey } from "jose";
import { findIn, importKeySet, type KeySet, KeySetError } from "../identity/key-set.ts";
import { fetchText } from "./broker-http.ts";
import type { Clock } from "./clock.ts";
import { parseObject } from "./discover.ts";
import { BrokerProblem, type ReportProblem, sentenceOf } from "./problem.ts";

/** The one algorithm of Mayfly's tokens and lists. */
export const TOKEN_ALGORITHM = "ES256";

/** The issuer's published keys, held in memory and read again every minute. */
export interface IssuerKeys {
  /** Reads the keys for the first time. Throws {@link BrokerProblem}, or what fetch throws. */
  load(): Promise<void>;
  /**
   * The keys of this `kid`; none when it is not published. An unknown one has the set read again, at most once a minute,
   * and the call that meets it first waits for that. `unavailable` when the set could not be read for an hour.
   */
  find(kid: string): Promise<readonly CryptoKey[] | "unavailable">;
  /** Whether this very key is still published under its name: one that was withdrawn is gone with the set that lacks it. */
  isCurrent(kid: string, key: CryptoKey): boolean;
  close(): void;
}

const REFRESH_MS = 60_000;
const UNKNOWN_KID_MS = 60_000;
const MAX_AGE_MS = 3_600_000;
const MAX_BYTES = 64 * 1024;

export function createIssuerKeys(
  jwksUri: string,
  clock: Clock,
  report: ReportProblem,
  refreshMs = REFRESH_MS,
): IssuerKeys {
  let set: KeySet = { keys: [], leftOut: [] };
  let document = "";
  let confirmedAt = Number.NEGATIVE_INFINITY;
  let askedForUnknownAt = Number.NEGATIVE_INFINITY;
  let loading: Promise<void> | undefined;

  const read = async (): Promise<void> => {
    const types = ["application/jwk-set+json", "application/json"];
    // The broker lets caches keep the set for five minutes. A key that was withdrawn may not live for so long here.
    const headers = { "cache-control": "no-cache" };
    const text = await fetchText(jwksUri, { types, headers, maxBytes: MAX_BYTES });
    // The same document: the same keys, as objects too, by which signatures that were checked are remembered.
    if (text !== document) set = await importKeySet(parseObject(text), "sig", [TOKEN_ALGORITHM]).catch(refused);
    document = text;
    confirmedAt = clock.monotonicMs();
  };
  const load = (): Promise<void> => {
    loading ??= read().finally(() => {
      loading = undefined;
    });
    return loading;
  };
  const refresh = (): Promise<void> =>
    load().catch((error: unknown) => report({ code: "keys_not_refreshed", detail: sentenceOf(error) }));
  const timer = setInterval(() => void refresh(), refreshMs).unref();
  const isStale = (): boolean => clock.monotonicMs() - confirmedAt > MAX_AGE_MS;

  return {
    load,
    async find(kid) {
      const found = findIn(set, kid, TOKEN_ALGORITHM);
      if (found.length > 0 && !isStale()) return found;
      const now = clock.monotonicMs();
      const due = now - askedForUnknownAt >= UNKNOWN_KID_MS;
      if (due) askedForUnknownAt = now;
      if (due || loading !== undefined) await refresh();
      return isStale() ? "unavailable" : findIn(set, kid, TOKEN_ALGORITHM);
    },
    isCurrent: (kid, key) => !isStale() && findIn(set, kid, TOKEN_ALGORITHM).includes(key),
    close() {
      clearInterval(timer);
    },
  };
}

function refused(error: unknown): never {
  throw error instanceof KeySetError ? new BrokerProblem(error.message) : error;
}
