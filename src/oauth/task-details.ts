import { z } from "zod";
import { delegationSchema } from "../delegation/delegation.ts";
import { TASK_DETAILS } from "../issuers/registry.ts";
import { oauthError } from "../lib/oauth-error.ts";
import { parseStrictJson, StrictJsonError } from "../lib/strict-json.ts";
import { idSchema, machineNames } from "../lib/wire.ts";

/** What a client asks for in `authorization_details` (RFC 9396): the part of our type that a client decides. Closed. */
const requested = z.strictObject({
  type: z.literal(TASK_DETAILS),
  task_id: idSchema("task"),
  actions: machineNames,
  resources: machineNames,
  delegation: delegationSchema.optional(),
  /** Says again what `resource` says. */
  locations: z.array(z.string()).length(1).optional(),
});

export type TaskDetails = z.output<typeof requested>;

/**
 * The one object of our type in `authorization_details`. Throws `invalid_authorization_details` (RFC 9396 §5) for
 * anything that is not exactly one such object with known members; the text sent is not repeated.
 */
export function parseTaskDetails(text: string | undefined, resource: string): TaskDetails {
  if (text === undefined) throw wrong(`is needed: a JSON array of one object of type ${TASK_DETAILS}`);
  const parsed = z.tuple([requested]).safeParse(jsonOf(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const at = (issue?.path ?? []).filter((part) => typeof part === "number" || /^[a-z_]{1,20}$/.test(String(part)));
    const what = issue?.code === "unrecognized_keys" ? "has an unknown member" : "is not what its type says";
    throw wrong(`${at.length === 0 ? "" : `at /${at.join("/")} `}${what}`);
  }
  const [details] = parsed.data;
  if (details.locations !== undefined && details.locations[0] !== resource)
    throw wrong("at /0/locations is not the resource that was asked for");
  return details;
}

function jsonOf(text: string): unknown {
  try {
    return parseStrictJson(text);
  } catch (error) {
    if (error instanceof StrictJsonError) throw wrong("is not JSON, or has a member twice");
    throw error;
  }
}

function wrong(what: string): Error {
  return oauthError("invalid_authorization_details", `authorization_details ${what}`);
}
