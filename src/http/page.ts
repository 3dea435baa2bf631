import { createHmac, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import { canonicalJson } from "../lib/canonical-json.ts";
import { invalid } from "../lib/errors.ts";
import type { Call, Reply } from "./endpoint.ts";

const DEFAULT_SIZE = 50;
const MAX_SIZE = 200;

/**
 * The query members of every list, to spread into its `z.strictObject`. A `page_size` above 200 is taken as 200
 * (AIP-158); nothing else is corrected.
 */
export const pageQuery = {
  page_size: z
    .string()
    .regex(/^[1-9][0-9]{0,8}$/, "must be a whole number from 1 to 200")
    .transform((text) => Math.min(Number(text), MAX_SIZE))
    .optional(),
  page_token: z.string().max(2048).optional(),
};

/** The body of a list's reply. `next_page_token` is empty at the end. */
export function pageOf<Item extends z.ZodType>(item: Item) {
  return z.strictObject({ items: z.array(item), next_page_token: z.string() });
}

type ListCall = Pick<Call<unknown, Readonly<Record<string, unknown>>, unknown>, "principal" | "query" | "request">;

/** Which page a caller wants: `limit` rows (one more than fit, to see whether more follow) after the key `after`. */
export interface Page<Key> {
  readonly size: number;
  readonly limit: number;
  readonly after: Key | undefined;
}

interface PageRows<Row, Key> {
  /** What the query gave for {@link Page.limit}, in its order. */
  readonly rows: readonly Row[];
  /** The values that the list is sorted by, unique together; JSON values only. */
  readonly keyOf: (row: Row) => Key;
  readonly toItem: (row: Row) => unknown;
}

/** Reads and makes the pages of keyset-paginated lists. */
export interface Pager {
  /** The page that this call asks for. A token of another list, tenant or filter, or a changed one, is a 400. */
  read<Key>(call: ListCall, key: z.ZodType<Key>): Page<Key>;
  /** The 200 of a list: items, the token of the next page and its `Link` (RFC 8288). */
  reply<Row, Key>(call: ListCall, page: Page<Key>, found: PageRows<Row, Key>): Reply;
}

/**
 * Page tokens are `<sort key>.<HMAC-SHA256>`: the MAC covers tenant, path, filters and sort key, so a token opens
 * only the list that it came from. `macKey` has 32 bytes, the same in every process of a deployment.
 */
export function createPager(macKey: Uint8Array): Pager {
  if (macKey.byteLength !== 32) throw new RangeError("the page token key must be 32 bytes");

  function macOf(call: ListCall, sortKey: string): Buffer {
    const { page_size: _, page_token: __, ...filter } = call.query;
    const bound = canonicalJson([call.principal.tenantId, call.request.path, plain(filter), sortKey]);
    return createHmac("sha256", macKey).update("mayfly/page/v1\n").update(bound).digest();
  }

  return {
    read(call, key) {
      const size = typeof call.query["page_size"] === "number" ? call.query["page_size"] : DEFAULT_SIZE;
      const token = call.query["page_token"];
      // Empty is how a token says "the end", and how a client that sends what it was given starts again.
      if (typeof token !== "string" || token === "") return { size, limit: size + 1, after: undefined };
      const wrong = invalid("#/query/page_token", "is not a token of this list with these filters; start again");
      const [sortKey, mac, ...rest] = token.split(".");
      if (sortKey === undefined || mac === undefined || rest.length > 0) throw wrong;
      const given = Buffer.from(mac, "base64url");
      const expected = macOf(call, sortKey);
      if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw wrong;
      const parsed = key.safeParse(JSON.parse(Buffer.from(sortKey, "base64url").toString("utf8")));
      // Ours, but of a version that sorted by something else.
      if (!parsed.success) throw wrong;
      return { size, limit: size + 1, after: parsed.data };
    },

    reply(call, page, { rows, keyOf, toItem }) {
      const shown = rows.slice(0, page.size);
      const last = rows.length > page.size ? shown.at(-1) : undefined;
      if (last === undefined) return { status: 200, body: { items: shown.map(toItem), next_page_token: "" } };
      const sortKey = Buffer.from(canonicalJson(plain(keyOf(last))), "utf8").toString("base64url");
      const token = `${sortKey}.${macOf(call, sortKey).toString("base64url")}`;
      const next = new URLSearchParams(textEntries(call.query));
      next.set("page_size", String(page.size));
      next.set("page_token", token);
      return {
        status: 200,
        body: { items: shown.map(toItem), next_page_token: token },
        headers: { link: `<${call.request.path}?${next.toString()}>; rel="next"` },
      };
    },
  };
}

/** As JSON has it: dates become text, what is undefined goes. */
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

function textEntries(query: Readonly<Record<string, unknown>>): [string, string][] {
  return Object.entries(query)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, value instanceof Date ? value.toISOString() : String(value)]);
}
