import { parseFetchUrl } from "./fetch-url.ts";
import { KeySetError } from "./key-set.ts";
import type { FetchedJson, SafeFetch } from "./safe-fetch.ts";
import type { TokenSource } from "./trust-source.ts";

/** Where a key document was read and its entity tag, to ask for it again only if it has changed. */
export interface Validator {
  readonly url: string;
  readonly etag: string;
}

/** A key document just read, or the news that the last one still stands. */
export interface FetchedKeys {
  readonly answer: FetchedJson;
  readonly validator: Validator | undefined;
}

/** Whether the source's keys are fetched. Else they are pinned in its configuration. */
export function isRemote(source: TokenSource): boolean {
  return (
    source.kind === "oidc" ||
    source.kind === "jwks_uri" ||
    (source.kind === "spiffe" && source.bundle_url !== undefined)
  );
}

/**
 * Reads a remote source's key document. URLs come from the trust source alone, never from a token; for `oidc` by way
 * of the discovery document, which must name the very same issuer (OpenID Connect Discovery §4.3).
 */
export async function fetchKeys(
  source: TokenSource,
  fetchJson: SafeFetch,
  previous: Validator | undefined,
): Promise<FetchedKeys> {
  const url = await keysUrl(source, fetchJson);
  const answer = await fetchJson(url, previous?.url === url ? { etag: previous.etag } : {});
  if (answer.status === "not_modified") return { answer, validator: previous };
  return { answer, validator: answer.etag === undefined ? undefined : { url, etag: answer.etag } };
}

async function keysUrl(source: TokenSource, fetchJson: SafeFetch): Promise<string> {
  if (source.kind === "jwks_uri") return source.jwks_uri;
  if (source.kind === "spiffe" && source.bundle_url !== undefined) return source.bundle_url;
  if (source.kind !== "oidc") throw new KeySetError("the trust source has no remote keys");
  const discovery = await fetchJson(`${source.issuer.replace(/\/$/, "")}/.well-known/openid-configuration`);
  const document = discovery.status === "fresh" ? discovery.document : undefined;
  const { issuer, jwks_uri: jwksUri } = (document ?? {}) as Record<string, unknown>;
  // Byte for byte, or one issuer could speak for another (mix-up).
  if (issuer !== source.issuer) throw new KeySetError("the discovery document is of another issuer");
  if (typeof jwksUri !== "string") throw new KeySetError("the discovery document has no jwks_uri");
  // The issuer may not use us to reach loopback unless it is there itself.
  const local = typeof parseFetchUrl(source.issuer, { allowLoopbackHttp: false }) === "string";
  const url = parseFetchUrl(jwksUri, { allowLoopbackHttp: local });
  if (typeof url === "string")
    throw new KeySetError("the discovery document's jwks_uri is not a URL that may be fetched");
  return jwksUri;
}
