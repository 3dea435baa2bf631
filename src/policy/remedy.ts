import { assertNever } from "../lib/errors.ts";
import type { Remedy } from "./request.ts";

/**
 * Reads the text of a `@remedy` annotation: `ttl:<seconds>`, `approval:<approver group>` or `dpop`. Undefined when it
 * is none of them: a remedy that nobody understands lifts nothing.
 */
export function parseRemedy(text: string): Remedy | undefined {
  if (text === "dpop") return { kind: "dpop" };
  const ttl = /^ttl:([1-9][0-9]{0,6})$/.exec(text)?.[1];
  if (ttl !== undefined) return { kind: "ttl", seconds: Number(ttl) };
  const by = /^approval:([A-Za-z0-9][A-Za-z0-9_.-]{0,63})$/.exec(text)?.[1];
  if (by !== undefined) return { kind: "approval", by };
  return undefined;
}

/** The text of a remedy, as policies and reasons write it. */
export function remedyText(remedy: Remedy): string {
  switch (remedy.kind) {
    case "ttl":
      return `ttl:${remedy.seconds}`;
    case "approval":
      return `approval:${remedy.by}`;
    case "dpop":
      return "dpop";
    default:
      return assertNever(remedy);
  }
}
