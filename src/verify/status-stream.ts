import { setTimeout as delay } from "node:timers/promises";
import { type Authorization, ask } from "./broker-http.ts";
import { type Clock, pauseMs } from "./clock.ts";
import { createEventParser } from "./event-parser.ts";
import { createKnownStatuses } from "./known-statuses.ts";
import { BrokerProblem, type ReportProblem, sentenceOf } from "./problem.ts";

/** Which of the issuer's tokens for this API are not valid, as the broker says the moment it changes. */
export interface StatusStream {
  /** Whether this token was said to be invalid. False says nothing unless the stream is connected. */
  isInvalid(credentialId: string): boolean;
  /** Whether all is known, and news came within the last seconds. */
  isConnected(): boolean;
  /** How old what is known is, in milliseconds; Infinity until all is known. */
  ageMs(): number;
  /** Resolves when the stream is connected for the first time. */
  readonly ready: Promise<void>;
  close(): void;
}

/** Limits of a stream. Only tests change them. */
export interface StreamLimits {
  /** Without an event for so long it is not connected, and opened anew. The broker sends one every second. */
  readonly silenceMs: number;
  /** The same for the first event, which holds all that is invalid. */
  readonly firstEventMs: number;
  readonly maxEventLength: number;
  readonly maxInvalid: number;
}

export const streamLimits: StreamLimits = {
  silenceMs: 3000,
  firstEventMs: 10_000,
  maxEventLength: 32 * 1024 * 1024,
  maxInvalid: 200_000,
};

/** A connection that lasted so long was a good one: the next attempt follows at once. */
const GOOD_CONNECTION_MS = 5000;
const SWEEP_MS = 30_000;
const badCursorStatuses = [400, 404, 409, 410, 412, 422];

export function createStatusStream(settings: {
  readonly endpoint: string;
  /** The API's identifier. A stream that does not tell of it is not believed. */
  readonly audience: string;
  readonly authorization: Authorization;
  readonly clock: Clock;
  readonly onProblem: ReportProblem;
  readonly limits?: StreamLimits;
}): StatusStream {
  const { endpoint, audience, authorization, clock, onProblem, limits = streamLimits } = settings;
  const known = createKnownStatuses(audience, clock, limits.maxInvalid);
  const ended = new AbortController();
  let cursor: string | undefined;
  let connected = false;
  let becameReady = (): void => {};
  const ready = new Promise<void>((resolve) => {
    becameReady = resolve;
  });
  const startOver = (): void => {
    cursor = undefined;
    known.startOver();
  };

  const open = async (signal: AbortSignal): Promise<Response> => {
    const headers = cursor === undefined ? {} : { "last-event-id": cursor };
    known.connect();
    if (cursor === undefined) known.startOver();
    try {
      const response = await ask(endpoint, { accept: "text/event-stream", authorization, headers, signal });
      if (response.headers.get("content-type")?.split(";", 1)[0]?.trim().toLowerCase() === "text/event-stream")
        return response;
      throw new BrokerProblem("the status stream has another content type");
    } catch (error) {
      // It may be the cursor that the broker does not take.
      if (error instanceof BrokerProblem && badCursorStatuses.includes(error.status ?? 0)) startOver();
      throw error;
    }
  };

  /** Takes in the pieces of one connection. `heard` is called after every event that counts. */
  const reader = (heard: () => void): ((bytes: Uint8Array) => void) => {
    const parse = createEventParser(limits.maxEventLength);
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return (bytes) => {
      try {
        for (const event of parse(decoder.decode(bytes, { stream: true }))) {
          if (!known.apply(event)) continue;
          heard();
          if (!known.isComplete()) continue;
          connected = true;
          becameReady();
          // One that cannot be sent back in a header is no cursor. Without a new one the last one holds. Ids of the broker
          // have up to 2,500 characters.
          if (event.id !== undefined) cursor = /^[\x21-\x7e]{1,4096}$/.test(event.id) ? event.id : undefined;
        }
      } catch (error) {
        // Whatever was not understood may have been a revocation: all is asked for again.
        startOver();
        throw error instanceof BrokerProblem ? error : new BrokerProblem("the status stream is not UTF-8");
      }
    };
  };

  /** One connection, from the request to its end. Always throws: a stream has no good end. */
  const connect = async (): Promise<never> => {
    const silence = new AbortController();
    const stop = (): void => silence.abort();
    let watchdog = setTimeout(stop, limits.firstEventMs);
    try {
      const response = await open(AbortSignal.any([ended.signal, silence.signal]));
      const read = reader(() => {
        clearTimeout(watchdog);
        watchdog = setTimeout(stop, known.isComplete() ? limits.silenceMs : limits.firstEventMs);
      });
      for await (const bytes of response.body ?? []) read(bytes);
      throw new BrokerProblem("the status stream ended");
    } catch (error) {
      throw silence.signal.aborted ? new BrokerProblem("the status stream fell silent") : error;
    } finally {
      connected = false;
      clearTimeout(watchdog);
      stop();
    }
  };

  const run = async (): Promise<void> => {
    for (let failures = 0; !ended.signal.aborted; ) {
      const since = clock.monotonicMs();
      try {
        await connect();
      } catch (error) {
        if (ended.signal.aborted) return;
        onProblem({ code: "stream_down", detail: sentenceOf(error) });
      }
      failures = clock.monotonicMs() - since >= GOOD_CONNECTION_MS ? 0 : failures + 1;
      await delay(pauseMs(failures), undefined, { signal: ended.signal }).catch(() => {});
    }
  };
  void run();
  const sweep = setInterval(known.forgetExpired, SWEEP_MS).unref();

  return {
    isInvalid: known.isInvalid,
    isConnected: () => connected && known.ageMs() <= limits.silenceMs,
    ageMs: known.ageMs,
    ready,
    close() {
      clearInterval(sweep);
      ended.abort();
    },
  };
}
