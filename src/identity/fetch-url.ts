import ipaddr from "ipaddr.js";

/** What the operator's configuration allows beyond https to public addresses. */
export interface FetchPolicy {
  /** Plain http, and loopback addresses, for hosts spelled as loopback (`localhost`, `127.0.0.1`, `[::1]`). For the demo and tests. */
  readonly allowLoopbackHttp: boolean;
}

const MAX_URL_LENGTH = 2048;
// The virtual address of the Azure host agent (metadata, keys) lies in public space.
const hostAgentAddresses = ["168.63.129.16"];
const publicIpv6 = ipaddr.IPv6.parseCIDR("2000::/3");

/**
 * The URL of a text that Mayfly may fetch, or a sentence that says why not. https; a port of 443 or ≥ 1024 (issuers
 * on 8443 are real, while the low ports belong to other protocols); no user info, no fragment, no white space,
 * backslash or non-ASCII text that two parsers could read differently. An IP address in any spelling is judged as
 * the address it is. A name is judged again by {@link isAllowedAddress} when it has been resolved.
 */
export function parseFetchUrl(text: string, policy: FetchPolicy): URL | string {
  if (text.length > MAX_URL_LENGTH) return "the URL is too long";
  if (!/^[\x21-\x7e]+$/.test(text) || /[\\#]/.test(text)) {
    return "a URL is printable ASCII without spaces, backslashes and fragment";
  }
  if (!/^https?:\/\/[^/]/.test(text) || !URL.canParse(text)) return "this is not an absolute https URL";
  const url = new URL(text);
  if (/^https?:\/\/[^/?]*@/.test(text)) return "a URL with user info is not accepted";
  const isLoopback = isLoopbackHost(url);
  const loopback = policy.allowLoopbackHttp && isLoopback;
  if (url.protocol !== "https:" && !loopback) return "only https is accepted";
  if (!loopback && url.port !== "" && Number(url.port) < 1024) return "the port must be 443 or at least 1024";
  const literal = hostLiteral(url);
  const isPublic = ipaddr.isValid(literal) ? isAllowedAddress(literal, url, policy) : loopback || !isLoopback;
  if (!isPublic) return "the address is not a public one";
  return url;
}

/**
 * Whether a resolved or connected address may be talked to for this URL: public unicast alone. Private, link-local
 * (metadata services), carrier-grade, documentation and multicast ranges are refused, and so is every IPv6 form that
 * carries an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64).
 */
export function isAllowedAddress(address: string, url: URL, policy: FetchPolicy): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.parse(address);
  const range = parsed.range();
  if (range === "loopback") return policy.allowLoopbackHttp && isLoopbackHost(url);
  if (range !== "unicast" || hostAgentAddresses.includes(parsed.toString())) return false;
  // ipaddr.js calls everything without a name "unicast"; only 2000::/3 is assigned to the public (RFC 4291 §2.4).
  return parsed.kind() === "ipv4" || parsed.match(publicIpv6);
}

/** Whether the URL's host is spelled as loopback. A name that merely resolves to it does not count. */
function isLoopbackHost(url: URL): boolean {
  const literal = hostLiteral(url);
  if (literal === "localhost") return true;
  return ipaddr.isValid(literal) && ipaddr.parse(literal).range() === "loopback";
}

function hostLiteral(url: URL): string {
  return url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname;
}
