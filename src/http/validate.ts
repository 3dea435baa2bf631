import { z } from "zod";
import type { FieldError } from "../lib/errors.ts";

// One reply names this many problems; who made more has enough to start with.
const MAX_ERRORS = 32;
const MAX_TOKEN = 64;

/** One token of a JSON pointer (RFC 6901 §3). Cut when long: it repeats a name that the caller chose. */
export function pointerToken(name: string | number | symbol): string {
  const text = String(name).replaceAll("~", "~0").replaceAll("/", "~1");
  return text.length > MAX_TOKEN ? `${text.slice(0, MAX_TOKEN)}…` : text;
}

/**
 * Parses a value, or adds every problem to `problems` and gives undefined. A problem names the field and the rule,
 * never the value that broke it. `prefix` is what pointers start with: empty for the body, `#/query` for the query.
 */
export function check(schema: z.ZodType, value: unknown, prefix: string, problems: FieldError[]): unknown {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  for (const issue of result.error.issues) {
    const pointer = prefix + issue.path.map((part) => `/${pointerToken(part)}`).join("");
    if (issue.code === "unrecognized_keys") {
      for (const key of issue.keys) {
        problems.push({ pointer: `${pointer}/${pointerToken(key)}`, detail: "is not a known member" });
      }
    } else {
      problems.push({ pointer, detail: issue.message.replace(/^Invalid input: /, "") });
    }
  }
  if (problems.length > MAX_ERRORS) problems.length = MAX_ERRORS;
  return undefined;
}

const made = new WeakMap<z.ZodType, Partial<Record<"input" | "output", z.core.JSONSchema.JSONSchema>>>();

/** The JSON Schema (2020-12) of what a schema takes (`input`) or gives (`output`). Made once: it takes a millisecond. */
export function jsonSchemaOf(schema: z.ZodType, io: "input" | "output"): z.core.JSONSchema.JSONSchema {
  const both = made.get(schema) ?? {};
  made.set(schema, both);
  return (both[io] ??= makeJsonSchema(schema, io));
}

function makeJsonSchema(schema: z.ZodType, io: "input" | "output"): z.core.JSONSchema.JSONSchema {
  const generated = z.toJSONSchema(schema, { target: "draft-2020-12", io, unrepresentable: "any" });
  const { $schema: _, "~standard": __, ...rest } = generated as z.core.JSONSchema.JSONSchema & Record<string, unknown>;
  return rest;
}

/**
 * The places in a schema where unknown members would be dropped in silence (`z.object` instead of
 * `z.strictObject`). Mass assignment starts there (M12), so the server does not start with one.
 */
export function laxPlaces(schema: z.ZodType): readonly string[] {
  const places: string[] = [];
  walk(jsonSchemaOf(schema, "input"), "", places);
  return places;
}

function walk(node: unknown, at: string, places: string[]): void {
  if (typeof node !== "object" || node === null) return;
  if (!Array.isArray(node) && "properties" in node && !("additionalProperties" in node)) places.push(at || "/");
  for (const [name, child] of Object.entries(node)) walk(child, `${at}/${name}`, places);
}
