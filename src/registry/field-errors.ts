import type { z } from "zod";
import { type FieldError, MayflyError } from "../lib/errors.ts";

/**
 * What a schema makes of a value that only the use case could put together (a stored part and a given one). Throws a
 * 400 that points below `prefix` and repeats no value.
 */
export function parseAt<Output>(schema: z.ZodType<Output>, value: unknown, prefix: string): Output {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const errors: FieldError[] = [];
  for (const issue of result.error.issues.slice(0, 32)) {
    const pointer = prefix + issue.path.map((part) => `/${pointerToken(part)}`).join("");
    if (issue.code === "unrecognized_keys")
      for (const key of issue.keys)
        errors.push({ pointer: `${pointer}/${pointerToken(key)}`, detail: "is not a known member" });
    else errors.push({ pointer, detail: issue.message.replace(/^Invalid input: /, "") });
  }
  throw new MayflyError("invalid_request", "some of what was sent is not acceptable", { errors });
}

function pointerToken(name: PropertyKey): string {
  return String(name).replaceAll("~", "~0").replaceAll("/", "~1").slice(0, 64);
}
