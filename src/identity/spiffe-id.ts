/** A SPIFFE ID in its one canonical spelling. `path` is `""` for the trust domain itself, else starts with `/`. */
export interface SpiffeId {
  readonly trustDomain: string;
  readonly path: string;
}

const MAX_LENGTH = 2048;
const TRUST_DOMAIN = /^[a-z0-9._-]{1,255}$/;
const SEGMENT = /^[A-Za-z0-9._-]+$/;

/**
 * Parses `spiffe://<trust domain>/<path>` (SPIFFE-ID §2), or answers undefined. Nothing is folded or decoded: an
 * upper-case trust domain, a port, user info, percent-encoding, a query, an empty, `.` or `..` segment and a
 * trailing slash are all refused, so equal ids are equal texts. WHATWG `URL` would normalise them instead.
 */
export function parseSpiffeId(text: string): SpiffeId | undefined {
  if (text.length > MAX_LENGTH || !text.startsWith("spiffe://")) return undefined;
  const rest = text.slice("spiffe://".length);
  const slash = rest.indexOf("/");
  const trustDomain = slash === -1 ? rest : rest.slice(0, slash);
  if (!TRUST_DOMAIN.test(trustDomain)) return undefined;
  if (slash === -1) return { trustDomain, path: "" };
  const path = rest.slice(slash);
  const segments = path.slice(1).split("/");
  const fit = segments.every((segment) => SEGMENT.test(segment) && segment !== "." && segment !== "..");
  return fit ? { trustDomain, path } : undefined;
}

/** Whether `text` names a trust domain as a trust source's issuer does: `spiffe://td`, with no path. */
export function isTrustDomainIssuer(text: string): boolean {
  return parseSpiffeId(text)?.path === "";
}

/** Whether `pattern` is `spiffe://td/path/*` with at least one segment before the wildcard. */
export function isSpiffePattern(pattern: string): boolean {
  if (!pattern.endsWith("/*")) return false;
  const base = parseSpiffeId(pattern.slice(0, -"/*".length));
  return base !== undefined && base.path !== "";
}

/**
 * Whether `text` is a SPIFFE ID strictly below the pattern, by whole segments: `spiffe://td/agent/*` takes
 * `/agent/a` and `/agent/a/b`, and neither `/agent` nor `/agent-evil`.
 */
export function matchesSpiffePattern(pattern: string, text: string): boolean {
  return isSpiffePattern(pattern) && parseSpiffeId(text) !== undefined && text.startsWith(pattern.slice(0, -1));
}
