import type { App } from "../support/app.ts";
import { until } from "../support/until.ts";

/** One server-sent event, as it came. */
export interface Heard {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: {
    readonly statuses?: { readonly jti: string; readonly status: number; readonly exp: number }[];
    readonly complete?: boolean;
    readonly audiences?: string[] | null;
    readonly more?: boolean;
    readonly at_ms?: number;
  };
}

/** A reader of an API's events. */
export interface Reader extends AsyncDisposable {
  readonly status: number;
  readonly headers: Headers;
  readonly heard: Heard[];
  /** Every token told of so far, once for each time. */
  told(): string[];
  /** The id that would be sent to go on from here. */
  lastId(): string | undefined;
  alive(): number;
  /** Resolves when the answer has ended: `end` properly, or cut off. */
  readonly ended: Promise<"end" | "cut">;
}

/** Listens at an API until disposed. */
export async function listen(app: App, token: string, lastEventId?: string): Promise<Reader> {
  const controller = new AbortController();
  const response = await fetch(`http://127.0.0.1:${app.api.port}/status/events`, {
    headers: {
      authorization: `Bearer ${token}`,
      ...(lastEventId === undefined ? {} : { "last-event-id": lastEventId }),
    },
    signal: controller.signal,
  });
  const heard: Heard[] = [];
  const read = async (): Promise<"end" | "cut"> => {
    let rest = "";
    try {
      for await (const chunk of response.body ?? []) {
        rest += Buffer.from(chunk).toString("utf8");
        const parts = rest.split("\n\n");
        rest = parts.pop() ?? "";
        heard.push(...parts.map(parse));
      }
      return "end";
    } catch {
      return "cut";
    }
  };
  const ended = read();
  return {
    status: response.status,
    headers: response.headers,
    heard,
    told: () => heard.flatMap(({ data }) => data.statuses ?? []).map(({ jti }) => jti),
    lastId: () => heard.findLast(({ id }) => id !== undefined)?.id,
    alive: () => heard.filter(({ event }) => event === "alive").length,
    ended,
    async [Symbol.asyncDispose]() {
      controller.abort();
      await ended;
    },
  };
}

/** Waits until a reader has been told of all of these. */
export async function hears(reader: Reader, ids: readonly string[]): Promise<void> {
  await until(`${ids.length} tokens are told of`, () => ids.every((id) => reader.told().includes(id)));
}

/** Waits for one more sign of life than there have been. */
export async function staysAlive(reader: Reader): Promise<number> {
  const before = reader.alive();
  await until("a sign of life", () => reader.alive() > before);
  return reader.heard.findLast(({ event }) => event === "alive")?.data.at_ms ?? 0;
}

function parse(text: string): Heard {
  const fields = new Map(
    text.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
  );
  return { event: fields.get("event") ?? "", id: fields.get("id"), data: JSON.parse(fields.get("data") ?? "null") };
}
