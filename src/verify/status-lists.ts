import { decodeToken, shortType } from "../identity/decode-token.ts";
import { isSignedBy } from "../identity/is-signed-by.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import type { StatusReference } from "./access-token.ts";
import { fetchText } from "./broker-http.ts";
import { CLOCKS_APART_SECONDS, type Clock } from "./clock.ts";
import { type IssuerKeys, TOKEN_ALGORITHM } from "./issuer-keys.ts";
import { BrokerProblem, type ReportProblem, sentenceOf } from "./problem.ts";
import { decodeStatusList, type StatusList, statusAt } from "./status-list.ts";

/** The issuer's published status lists, for when there is no stream. */
export interface StatusLists {
  /** What the list says of a token; `unknown` when no list that may be used could be read, or it has no such place. */
  statusOf(reference: StatusReference): Promise<"valid" | "invalid" | "unknown">;
}

const MAX_LISTS = 32;
const MAX_TEXT = 4 * 1024 * 1024;
/** How long a list that could not be read is not asked for again. */
const RETRY_MS = 1000;
const MIN_KEEP_MS = 1000;

interface Fetched {
  readonly list: StatusList | undefined;
  readonly until: number;
}

/**
 * Reads lists (draft-ietf-oauth-status-list-21 §8.3): from under the issuer alone, signed by its keys, named by their `sub`,
 * fresh by `iat`, `exp` and `ttl`. One is kept for its `ttl`, for at most `maxAgeMs`; calls that need it share the fetch.
 */
export function createStatusLists(settings: {
  readonly issuer: string;
  readonly keys: IssuerKeys;
  readonly clock: Clock;
  readonly maxAgeMs: number;
  readonly onProblem: ReportProblem;
}): StatusLists {
  const { issuer, clock, maxAgeMs, onProblem } = settings;
  const lists = new Map<string, Promise<Fetched>>();

  const fetchList = async (uri: string): Promise<Fetched> => {
    // Before the request: the list is as old as the moment in which it was asked for.
    const asked = clock.monotonicMs();
    try {
      const text = await fetchText(uri, { types: ["application/statuslist+jwt"], maxBytes: MAX_TEXT });
      const { list, keepMs } = await verifyList(text, uri, settings);
      return { list, until: asked + Math.max(MIN_KEEP_MS, Math.min(keepMs, maxAgeMs)) };
    } catch (error) {
      onProblem({ code: "list_not_read", detail: sentenceOf(error) });
      return { list: undefined, until: clock.monotonicMs() + RETRY_MS };
    }
  };
  const listOf = async (uri: string): Promise<StatusList | undefined> => {
    const present = lists.get(uri);
    const kept = await present;
    if (kept !== undefined && clock.monotonicMs() < kept.until) return kept.list;
    // Whoever came first fetches, for all.
    const begun = lists.get(uri);
    if (begun !== undefined && begun !== present) return (await begun).list;
    const fetching = fetchList(uri);
    keepNewest(lists, MAX_LISTS, uri, fetching);
    return (await fetching).list;
  };

  return {
    async statusOf({ idx, uri }) {
      if (!isUnder(uri, `${issuer}/status/`)) return "unknown";
      const list = await listOf(uri);
      const status = list && statusAt(list, idx);
      if (status === undefined) return "unknown";
      return status === 0 ? "valid" : "invalid";
    },
  };
}

async function verifyList(
  text: string,
  uri: string,
  { keys, clock, issuer }: { readonly keys: IssuerKeys; readonly clock: Clock; readonly issuer: string },
): Promise<{ readonly list: StatusList; readonly keepMs: number }> {
  const decoding = decodeToken(text.trim(), "identity", MAX_TEXT);
  if (!decoding.ok) throw new BrokerProblem("the status list is no JWT that may be used");
  const { typ, alg, kid, claims } = decoding.token;
  if (typ === undefined || shortType(typ) !== "statuslist+jwt") throw new BrokerProblem("typ is not statuslist+jwt");
  if (alg !== TOKEN_ALGORITHM || kid === undefined)
    throw new BrokerProblem("the status list has another alg, or no kid");
  if (claims["sub"] !== uri) throw new BrokerProblem("the status list is another one: its sub is not its URI");
  if (claims["iss"] !== undefined && claims["iss"] !== issuer) throw new BrokerProblem("it is of another issuer");
  const found = await keys.find(kid);
  const tried = found === "unavailable" ? [] : found;
  let isSigned = false;
  for (const key of tried) isSigned ||= await isSignedBy(key, text.trim(), decoding.token);
  if (!isSigned) throw new BrokerProblem("the status list is not signed by a key of the issuer");
  const keepMs = checkFreshness(claims, clock.wallMs() / 1000);
  const list = decodeStatusList(claims["status_list"]);
  if (list === undefined) throw new BrokerProblem("the status list cannot be decoded, or is too large");
  return { list, keepMs };
}

/** How long the list may be kept. An old one would be valid as a signature, and hide what was revoked since. */
function checkFreshness(claims: Readonly<Record<string, unknown>>, now: number): number {
  const { iat, exp = Number.POSITIVE_INFINITY, ttl = Number.POSITIVE_INFINITY } = claims;
  if (typeof iat !== "number" || iat > now + CLOCKS_APART_SECONDS)
    throw new BrokerProblem("the status list has no iat, or one of the future");
  if (typeof exp !== "number" || !(now < exp)) throw new BrokerProblem("the status list is over");
  if (typeof ttl !== "number" || !(ttl > 0)) throw new BrokerProblem("the status list's ttl is not a time");
  const seconds = Math.min(ttl, exp - now);
  if (seconds === Number.POSITIVE_INFINITY) throw new BrokerProblem("the status list has neither exp nor ttl");
  // The issuer signs a new one within ttl, so one that is older came from somewhere in between.
  if (now - iat > ttl + CLOCKS_APART_SECONDS) throw new BrokerProblem("the status list is older than its ttl");
  return seconds * 1000;
}

/** Whether a URI is spelled as it is fetched, and lies below a prefix. */
function isUnder(uri: string, prefix: string): boolean {
  return uri.startsWith(prefix) && /^[\x21-\x7e]+$/.test(uri) && !/[?#\\]/.test(uri) && isNormal(uri);
}

function isNormal(uri: string): boolean {
  return URL.canParse(uri) && new URL(uri).href === uri;
}
