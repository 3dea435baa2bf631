import { z } from "zod";
import { type Id, type IdKind, idPattern } from "./ids.ts";

/** An id of one kind, as a schema: OpenAPI shows its pattern. */
export function idSchema<Kind extends IdKind>(kind: Kind): z.ZodType<Id<Kind>> {
  return z.string().regex(idPattern(kind)) as unknown as z.ZodType<Id<Kind>>;
}

/** A moment as RFC 3339 text, in UTC. */
export const moment = z.iso.datetime({ offset: true });

/** A machine name: lower-case, compared byte by byte (reliability E2). */
export const machineName = z.string().regex(/^[a-z0-9][a-z0-9_-]{0,62}$/);

/** One to twenty {@link machineName}s, none twice. */
export const machineNames = z
  .array(machineName)
  .min(1)
  .max(20)
  .refine((names) => new Set(names).size === names.length, "names something twice");

/** Text for people: bounded, no control characters. It never grants anything (invariant 12). */
export function prose(max: number): z.ZodType<string> {
  return z
    .string()
    .min(1)
    .max(max)
    .regex(/^(?:[^\p{Cc}]|[\n\t])*$/u, "holds a control character");
}
