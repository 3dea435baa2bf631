import { TASK_DETAILS } from "../lib/access-token.ts";
import type { AccessToken } from "./access-token.ts";
import { type AccessRefusal, type Refuse, refusal, type Scheme } from "./refusal.ts";
import type { UseReports } from "./use-reports.ts";

/** What a call does, in the words of the registry: the action and the resource that a task was granted. */
export interface Operation {
  readonly action: string;
  readonly resource: string;
}

/** What came of a call. `refused` also when the API itself said no. */
export type Outcome = "allowed" | "refused";

/** What one object of `authorization_details` grants (RFC 9396), as far as the kit reads it. */
export interface TaskGrant {
  readonly taskId: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
}

/** A call whose token is good now. What it may do, {@link Access.require} says. */
export interface Access {
  /** The credential's id (`jti`): what to log, instead of the token. */
  readonly credentialId: string;
  /** The agent (`sub`) and the client that it is (`client_id`). */
  readonly subject: string;
  readonly clientId: string;
  readonly expiresAt: Date;
  readonly grants: readonly TaskGrant[];
  /** All claims, verified. */
  readonly claims: Readonly<Record<string, unknown>>;
  /** Headers for the answer, in lower case: `dpop-nonce` when nonces are asked for. */
  readonly responseHeaders: Readonly<Record<string, string>>;
  /** Throws `insufficient_scope` (403) unless the token's task was granted exactly this. */
  require(operation: Operation): void;
  /** Tells the broker what was done with the token. Returns at once; what cannot be delivered is counted, not thrown. */
  used(use: Operation & { readonly outcome: Outcome }): void;
}

// Constraints that the broker enforces when it grants. One that is not here is for us to enforce, and we do not know how.
const knownConstraints = ["environment", "data_class_max"];

export function createAccess(
  token: AccessToken,
  context: {
    readonly audience: string;
    readonly refuse: Refuse;
    readonly scheme: Scheme;
    readonly uses: UseReports;
    readonly responseHeaders: Readonly<Record<string, string>>;
  },
): Access {
  const { audience, refuse, scheme, uses, responseHeaders } = context;
  const grants = grantsOf(token, audience);
  return {
    credentialId: token.credentialId,
    subject: token.subject,
    clientId: token.clientId,
    expiresAt: new Date(token.expiresAt * 1000),
    grants,
    claims: token.claims,
    responseHeaders,
    require({ action, resource }) {
      const covered = grants.some(({ actions, resources }) => actions.includes(action) && resources.includes(resource));
      if (!covered) throw refuse(notGranted(), scheme);
    },
    used({ action, resource, outcome }) {
      uses.report({ credential_id: token.credentialId, action, resource, outcome });
    },
  };
}

const read = new WeakMap<AccessToken, readonly TaskGrant[]>();

/** What a token grants at this API. An object of another type, of other shape, for another place or with an unknown constraint grants nothing. */
function grantsOf(token: AccessToken, audience: string): readonly TaskGrant[] {
  const known = read.get(token);
  if (known !== undefined) return known;
  const { authorization_details: details } = token.claims;
  const grants = Array.isArray(details) ? details.flatMap((one: unknown) => grantOf(one, audience) ?? []) : [];
  read.set(token, grants);
  return grants;
}

function grantOf(detail: unknown, audience: string): TaskGrant | undefined {
  if (typeof detail !== "object" || detail === null) return undefined;
  const { type, task_id: taskId, locations, actions, resources, constraints } = detail as Record<string, unknown>;
  if (type !== TASK_DETAILS || typeof taskId !== "string" || !isTexts(actions) || !isTexts(resources)) return undefined;
  if (!isTexts(locations) || !locations.includes(audience)) return undefined;
  if (constraints !== undefined && !isKnown(constraints)) return undefined;
  return { taskId, actions, resources };
}

function isKnown(constraints: unknown): boolean {
  return (
    typeof constraints === "object" &&
    constraints !== null &&
    Object.keys(constraints).every((name) => knownConstraints.includes(name))
  );
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === "string");
}

function notGranted(): AccessRefusal {
  return refusal("insufficient_scope", "the task that the token is for was not granted this action on this resource");
}
