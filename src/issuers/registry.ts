import { awsSts } from "./aws-sts.ts";
import { githubApp } from "./github-app.ts";
import type { Issuer, SelfContainedIssuer } from "./issuer.ts";
import { jwt } from "./jwt.ts";
import { kubernetes } from "./kubernetes.ts";
import { mysql } from "./mysql.ts";
import { oauthIssuer } from "./oauth.ts";
import { postgres } from "./postgres.ts";
import { redis } from "./redis.ts";
import { vault } from "./vault.ts";

export { ACCESS_TOKEN_TYP, TASK_DETAILS } from "../lib/access-token.ts";

/** Every kind of token that Mayfly signs itself. */
const selfContained = { jwt } as const;

/** Every kind of credential that lives in a far system. Adding one is its file, its test, and its name here. */
const downstream = {
  postgres,
  redis,
  mysql,
  vault,
  kubernetes,
  "aws-sts": awsSts,
  "github-app": githubApp,
  oauth: oauthIssuer,
} as const;

// The runtime treats all issuers alike: it only ever passes an issuer's own values back to it.
// biome-ignore lint/suspicious/noExplicitAny: the one place where the five types are erased
export type AnyIssuer = Issuer<string, any, any, any, AsyncDisposable>;
export type AnySelfContainedIssuer = SelfContainedIssuer<string, any, any>;

/** The kinds, as the API's enum. */
export const issuerKinds = [...Object.keys(selfContained), ...Object.keys(downstream)] as [string, ...string[]];

/** The issuer of a kind, when the credential lives in a far system. */
export function downstreamIssuer(kind: string): AnyIssuer | undefined {
  return Object.hasOwn(downstream, kind) ? (downstream as unknown as Record<string, AnyIssuer>)[kind] : undefined;
}

/** The issuer of a kind, when the credential is a token of ours. */
export function selfContainedIssuer(kind: string): AnySelfContainedIssuer | undefined {
  return Object.hasOwn(selfContained, kind)
    ? (selfContained as unknown as Record<string, AnySelfContainedIssuer>)[kind]
    : undefined;
}

/** The issuer of a kind, of either sort. Undefined for a kind that this build does not know. */
export function anyIssuer(kind: string): AnyIssuer | AnySelfContainedIssuer | undefined {
  return selfContainedIssuer(kind) ?? downstreamIssuer(kind);
}
