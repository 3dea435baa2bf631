import { z } from "zod";
import { ACCESS_TOKEN_TYP, TASK_DETAILS } from "../lib/access-token.ts";
import type { SelfContainedIssuer } from "./issuer.ts";

const config = z.strictObject({
  /** The one audience of the tokens: the identifier of the API (RFC 8707: absolute, no fragment), compared byte for byte. */
  audience: z
    .url()
    .max(512)
    .refine((text) => !text.includes("#"), "an audience has no fragment"),
});

/** Scopes are optional: what a token may do is in `authorization_details`. */
const access = z.strictObject({
  scope: z
    .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,64}$/))
    .max(20)
    .optional(),
});

const BOUNDS = { ttlSeconds: { min: 1, max: 3600 }, revocability: "immediate" } as const;

/**
 * JWT access tokens in the shape of RFC 9068 with `authorization_details` (RFC 9396): one audience, the agent as
 * subject and client, the task, actions and resources as data. Taken back by introspection from the commit of the
 * revoke; an API that only verifies offline believes the token until its `exp`, and the API says so.
 */
export const jwt: SelfContainedIssuer<"jwt", z.infer<typeof config>, z.infer<typeof access>> = {
  kind: "jwt",
  config,
  access,
  secretConfig: [],
  identityConfig: ["audience"],
  bounds: () => BOUNDS,
  token({ audience }, grant) {
    const scope = [...new Set(grant.access.flatMap((one) => one.scope ?? []))].join(" ");
    return {
      typ: ACCESS_TOKEN_TYP,
      claims: {
        aud: audience,
        ...(scope === "" ? {} : { scope }),
        authorization_details: [
          {
            type: TASK_DETAILS,
            task_id: grant.taskId,
            locations: [audience],
            actions: grant.actions,
            resources: grant.resources,
            constraints: { environment: grant.environment, data_class_max: grant.dataClass },
            purpose: grant.purpose,
            ...(grant.delegation === undefined ? {} : { delegation: grant.delegation }),
          },
        ],
      },
    };
  },
};
