import { isName } from "../identity/decode-token.ts";
import { parseStrictJson } from "../lib/strict-json.ts";
import { CLOCKS_APART_SECONDS, type Clock } from "./clock.ts";
import type { StreamEvent } from "./event-parser.ts";
import { BrokerProblem } from "./problem.ts";

/** What the events of the status stream add up to. */
export interface KnownStatuses {
  isInvalid(credentialId: string): boolean;
  /** Whether everything that is invalid was told, and all changes up to the last event: nothing is half told. */
  isComplete(): boolean;
  /** Milliseconds since the broker last spoke, by its clock if that is later than ours allows; Infinity until complete. */
  ageMs(): number;
  /** Takes in one event. False for one that says nothing to us. Throws {@link BrokerProblem} when it breaks the contract. */
  apply(event: StreamEvent): boolean;
  /** A new connection: what the last one began to tell and did not end is forgotten. */
  connect(): void;
  /** What was told cannot be built on: the next status event must be complete. */
  startOver(): void;
  /** Tokens that are over need no status. */
  forgetExpired(): void;
}

/** What is kept of a token beyond its end, so that no difference of clocks uncovers it. */
const KEEP_SECONDS = 2 * CLOCKS_APART_SECONDS;

interface Change {
  readonly jti: string;
  readonly status: number;
  readonly exp: number;
}

/** Believes a stream only if it tells of this audience. */
export function createKnownStatuses(audience: string, clock: Clock, maxInvalid: number): KnownStatuses {
  let invalid = new Map<string, number>();
  /** A complete account of which more is to come. It takes the place of `invalid` when it is whole. */
  let coming: Map<string, number> | undefined;
  let complete = false;
  /** Changes of which more is to come. */
  let behind = false;
  let asOf = Number.NEGATIVE_INFINITY;
  let lagMs = 0;
  const limits = { maxDepth: 4, maxMembers: 4 * maxInvalid + 10 };

  const take = (into: Map<string, number>, changes: readonly Change[]): void => {
    for (const { jti, status, exp } of changes) {
      // Whatever is not valid is invalid: suspended too, and what later versions think of.
      if (status === 0) into.delete(jti);
      else into.set(jti, exp);
    }
    if (into.size > maxInvalid) throw new BrokerProblem(`more than ${maxInvalid} tokens of this API are invalid`);
  };
  const readStatus = (data: string): void => {
    const event = parse(data, limits) as Readonly<Record<string, unknown>>;
    const { statuses, complete: isAll, more, audiences } = event;
    const isEvent = typeof isAll === "boolean" && typeof more === "boolean" && Array.isArray(statuses);
    if (!isEvent || !statuses.every(isChange)) throw new BrokerProblem("a status event is not what it should be");
    // A tool that does not serve this API hears of nothing, which must not look like nothing to hear of.
    if (isAll && audiences !== null && !(Array.isArray(audiences) && audiences.includes(audience)))
      throw new BrokerProblem("the status stream does not tell of this API: the tool does not serve its target");
    if (isAll) coming = new Map();
    else if (coming === undefined && !complete)
      throw new BrokerProblem("the first status event does not tell everything");
    take(coming ?? invalid, statuses);
    behind = more;
    if (more || coming === undefined) return;
    invalid = coming;
    coming = undefined;
    complete = true;
  };
  const readAlive = (data: string): void => {
    const { at_ms: at } = parse(data, limits) as { at_ms?: unknown };
    if (!Number.isSafeInteger(at)) throw new BrokerProblem("an alive event does not say when it was sent");
    // Not only when it arrived: whatever stands between may have kept it.
    lagMs = Math.max(0, clock.wallMs() - (at as number) - CLOCKS_APART_SECONDS * 1000);
  };

  return {
    isInvalid: (credentialId) => invalid.has(credentialId) || coming?.has(credentialId) === true,
    isComplete: () => complete && coming === undefined && !behind,
    ageMs: () => (complete ? clock.monotonicMs() - asOf : Number.POSITIVE_INFINITY),
    apply({ type, data }) {
      if (type === "status") readStatus(data);
      else if (type === "alive") readAlive(data);
      else return false;
      if (complete && coming === undefined && !behind) asOf = clock.monotonicMs() - lagMs;
      return true;
    },
    connect() {
      coming = undefined;
      behind = false;
    },
    // What was invalid stays so until all is told again.
    startOver() {
      complete = false;
    },
    forgetExpired() {
      const now = clock.wallMs() / 1000;
      for (const [jti, exp] of invalid) if (exp + KEEP_SECONDS < now) invalid.delete(jti);
    },
  };
}

function isChange(value: unknown): value is Change {
  if (typeof value !== "object" || value === null) return false;
  const { jti, status, exp } = value as Record<string, unknown>;
  return isName(jti, 256) && Number.isSafeInteger(status) && Number.isSafeInteger(exp);
}

function parse(data: string, limits: { readonly maxDepth: number; readonly maxMembers: number }): object {
  try {
    const value = parseStrictJson(data, limits);
    if (typeof value === "object" && value !== null) return value;
  } catch {
    // Below, with everything else that is no object.
  }
  throw new BrokerProblem("an event of the status stream is not strict JSON");
}
