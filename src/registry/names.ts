import { z } from "zod";

/** Names that mean something to Mayfly, to Postgres or to whoever reads a log (reliability E1, M3). */
const reserved = new Set(
  "admin all any anonymous default everyone false guest mayfly me none null nobody operator postgres public root self superuser system true undefined unknown".split(
    " ",
  ),
);
const reservedPrefix = /^(pg_|mfy_|mayfly_|mayfly-)/;

/** Calls take an id or a name in the same place, so no name may be spelled as an id. */
const idSpelling = /^[a-z]{3}_[0-9a-f]{32}$/;

function isFree(name: string): boolean {
  return !reserved.has(name) && !reservedPrefix.test(name);
}

/** The name of a thing in the registry: a machine name, compared byte by byte, that is neither reserved nor an id. */
export const thingName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9_-]{0,62}$/, "must be 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or a digit")
  .refine((name) => !idSpelling.test(name), "must not be spelled as an id")
  .refine(isFree, "this name is reserved")
  .describe("Unique among its kind in the tenant. Compared byte by byte.");

/** The name of a tenant: part of its issuer string, so without an underscore, and never changed. */
export const tenantName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, "must be 1 to 63 of a-z, 0-9 and -, and begin with a letter or a digit")
  .refine(isFree, "this name is reserved")
  .describe("Part of the tenant's issuer string. Never changes and is never used again.");

/** The name of one operation of a resource, or of a group of resources. */
export const wordName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9_-]{0,62}$/, "must be 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or a digit")
  .refine((name) => !idSpelling.test(name), "must not be spelled as an id");

// Control characters, separators that break lines, and characters that nobody sees or that turn the text around.
// Zero-width joiner and non-joiner stay: scripts and emoji need them.
const unseen = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}\p{Co}]|(?![\u200c\u200d])\p{Cf}/u;

/** One line of text for people: in NFC, with nothing in it that a reader would not see. It never grants anything. */
export function line(min: number, max: number) {
  return textOf(min, max, (value) => value);
}

/** As {@link line}, and it may have several lines. */
export function paragraphs(min: number, max: number) {
  return textOf(min, max, (value) => value.replaceAll("\n", ""));
}

function textOf(min: number, max: number, visible: (value: string) => string) {
  return z
    .string()
    .normalize("NFC")
    .min(min)
    .max(max)
    .refine((value) => !unseen.test(visible(value)), "holds a character that cannot be seen")
    .refine((value) => value === "" || value.trim() !== "", "is blank");
}

/** A list without repetitions. */
export function distinct<Item extends z.ZodType>(item: Item, min: number, max: number) {
  return z
    .array(item)
    .min(min)
    .max(max)
    .refine((items) => new Set(items).size === items.length, "names something twice");
}

/** The members of a body that may be given on their own: at least one of them. */
export function atLeastOne<Body extends Record<string, unknown>>(body: z.ZodType<Body>): z.ZodType<Body> {
  return body.refine((given) => Object.keys(given).length > 0, "changes nothing: give at least one member");
}
