import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { type Authorization, post } from "./broker-http.ts";
import { type Clock, pauseMs } from "./clock.ts";
import { BrokerProblem, type ReportProblem, sentenceOf } from "./problem.ts";

/** One use of a credential, as the broker's evidence has it. */
export interface Use {
  readonly credential_id: string;
  readonly action: string;
  readonly resource: string;
  readonly outcome: "allowed" | "refused";
}

/** Delivers use reports behind the calls: batched, in order, each batch until the broker has taken it. */
export interface UseReports {
  report(use: Use): void;
  /** How many wait, and how many were given up since the start. */
  state(): { readonly waiting: number; readonly dropped: number };
  /** Sends what waits, for at most `limitMs`; the rest is dropped. */
  close(limitMs: number): Promise<void>;
}

const MAX_BATCH = 500;
const MAX_WAITING = 10_000;
const LINGER_MS = 1000;
/** How the registry spells actions and resources. */
const MACHINE_NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/;
// The batch itself is at fault. Everything else may pass: the broker is away, or the API's own token is being renewed.
const faultStatuses = [400, 413, 422];

/** For an API that does not authenticate to the broker: nothing is reported, nothing counted. */
export const noUseReports: UseReports = {
  report: () => {},
  state: () => ({ waiting: 0, dropped: 0 }),
  close: async () => {},
};

export function createUseReports(settings: {
  readonly endpoint: string;
  readonly authorization: Authorization;
  readonly clock: Clock;
  readonly onProblem: ReportProblem;
}): UseReports {
  const { endpoint, authorization, clock, onProblem } = settings;
  const waiting: (Use & { readonly at: string })[] = [];
  const abort = new AbortController();
  let underway: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  let sending = 0;
  let dropped = 0;
  let closing = false;

  const drop = (count: number, detail: string): void => {
    dropped += count;
    onProblem({ code: "uses_dropped", detail, count });
  };
  const deliver = async (batch: readonly Use[]): Promise<void> => {
    const headers = { "idempotency-key": randomUUID() };
    const body = JSON.stringify({ uses: batch });
    for (let failures = 1; ; failures += 1) {
      try {
        return await post(endpoint, { body, headers, authorization, signal: abort.signal });
      } catch (error) {
        if (abort.signal.aborted) return drop(batch.length, "the verifier was closed before they could be delivered");
        if (error instanceof BrokerProblem && faultStatuses.includes(error.status ?? 0)) return split(batch);
        onProblem({ code: "uses_not_sent", detail: sentenceOf(error) });
        await delay(pauseMs(failures), undefined, { signal: abort.signal, ref: false }).catch(() => {});
      }
    }
  };
  /** One report that the broker does not take must not take the others with it. */
  const split = async (batch: readonly Use[]): Promise<void> => {
    if (batch.length === 1) return drop(1, "the broker does not accept the report");
    const middle = Math.ceil(batch.length / 2);
    await deliver(batch.slice(0, middle));
    await deliver(batch.slice(middle));
  };
  const sendAll = async (): Promise<void> => {
    while (waiting.length > 0) {
      const batch = waiting.splice(0, MAX_BATCH);
      sending = batch.length;
      await deliver(batch);
      sending = 0;
      if (!closing && waiting.length < MAX_BATCH) break;
    }
  };
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    underway ??= sendAll().finally(() => {
      underway = undefined;
      schedule();
    });
  };
  const schedule = (): void => {
    if (underway !== undefined || waiting.length === 0) return;
    if (closing || waiting.length >= MAX_BATCH) flush();
    else timer ??= setTimeout(flush, LINGER_MS).unref();
  };

  return {
    report(use) {
      if (closing) return drop(1, "the verifier is closed");
      // They may come from the call, and the broker would refuse the batch.
      if (!MACHINE_NAME.test(use.action) || !MACHINE_NAME.test(use.resource))
        return drop(1, "a report names an action or a resource that is none of the registry");
      waiting.push({ ...use, at: new Date(clock.wallMs()).toISOString() });
      if (waiting.length + sending > MAX_WAITING) {
        waiting.shift();
        drop(1, `more than ${MAX_WAITING} reports wait: the oldest make room`);
      }
      schedule();
    },
    state: () => ({ waiting: waiting.length + sending, dropped }),
    async close(limitMs) {
      closing = true;
      const limit = setTimeout(() => abort.abort(), limitMs);
      while (underway !== undefined || waiting.length > 0) {
        flush();
        await underway;
      }
      clearTimeout(limit);
    },
  };
}
