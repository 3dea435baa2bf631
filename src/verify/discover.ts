import { parseStrictJson } from "../lib/strict-json.ts";
import { fetchText } from "./broker-http.ts";
import { BrokerProblem } from "./problem.ts";

/** What the kit needs to know of an issuer. All URLs are of the issuer's own origin. */
export interface IssuerMetadata {
  readonly jwksUri: string;
  readonly statusEventsEndpoint: string | undefined;
  readonly usesEndpoint: string | undefined;
}

const MAX_BYTES = 64 * 1024;

/**
 * Reads an issuer's metadata from where RFC 8414 §3.1 puts it. Throws {@link BrokerProblem} when it cannot be read, is of another
 * issuer (compared byte for byte, §3.3), or names a URL of another origin: the API's own token is sent to them.
 */
export async function discover(issuer: string): Promise<IssuerMetadata> {
  const { origin, pathname } = new URL(issuer);
  const url = `${origin}/.well-known/oauth-authorization-server${pathname.replace(/\/$/, "")}`;
  const metadata = parseObject(await fetchText(url, { types: ["application/json"], maxBytes: MAX_BYTES }));
  if (metadata["issuer"] !== issuer) throw new BrokerProblem("the metadata is of another issuer");
  const endpoint = (name: string): string | undefined => {
    const value = metadata[name];
    if (value === undefined) return undefined;
    if (typeof value !== "string" || !URL.canParse(value) || new URL(value).origin !== origin)
      throw new BrokerProblem(`${name} is not a URL of the issuer's origin`);
    return value;
  };
  const jwksUri = endpoint("jwks_uri");
  if (jwksUri === undefined) throw new BrokerProblem("the metadata has no jwks_uri");
  return {
    jwksUri,
    statusEventsEndpoint: endpoint("mayfly_status_events_endpoint"),
    usesEndpoint: endpoint("mayfly_uses_endpoint"),
  };
}

/** The JSON object that a document of the issuer is. */
export function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const value = parseStrictJson(text, { maxDepth: 10, maxMembers: 5000 });
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Below, with everything else that is no object.
  }
  throw new BrokerProblem("the issuer's answer is not a strict JSON object");
}
