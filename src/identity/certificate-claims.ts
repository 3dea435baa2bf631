import { isIP } from "node:net";
import { AsnConvert } from "@peculiar/asn1-schema";
import { type AttributeTypeAndValue, AttributeValue, type Name } from "@peculiar/asn1-x509";
import ipaddr from "ipaddr.js";
import type { Claims } from "./decode-token.ts";
import type { ReadCertificate } from "./read-certificate.ts";

/** What a certificate can be known by: the five of RFC 8705 §2.1.2. An identity is anchored on exactly one of them. */
export const certificateAnchors = ["subject_dn", "san_dns", "san_uri", "san_ip", "san_email"] as const;

/** The most names of all kinds that a certificate may have. */
const MAX_NAMES = 20;

/**
 * What a certificate says about its holder, as claims: `subject_dn`, `san_dns`, `san_uri`, `san_ip`, `san_email`. One name
 * of a kind is a text; several are an array, each good for an anchor, and for `contains` in conditions. Undefined when a
 * name is one that two readers could read in two ways.
 *
 * `subject_dn` is RFC 4514 in one spelling: the short names of its table in §3 and dotted OIDs for the rest, no spaces
 * around the separators, as `openssl x509 -subject -nameopt RFC2253` prints it. DNS names are in lower case, addresses as
 * RFC 5952 has them.
 */
export function certificateClaims({ subject, altNames }: ReadCertificate): Claims | undefined {
  if (altNames.length > MAX_NAMES) return undefined;
  const names: Record<(typeof certificateAnchors)[number], (string | undefined)[]> = {
    subject_dn: subject.length === 0 ? [] : [distinguishedName(subject)],
    san_dns: [],
    san_uri: [],
    san_ip: [],
    san_email: [],
  };
  for (const name of altNames) {
    if (name.dNSName !== undefined) names.san_dns.push(plain(name.dNSName)?.toLowerCase());
    if (name.uniformResourceIdentifier !== undefined) names.san_uri.push(plain(name.uniformResourceIdentifier));
    if (name.rfc822Name !== undefined) names.san_email.push(plain(name.rfc822Name));
    if (name.iPAddress !== undefined) names.san_ip.push(canonicalIp(name.iPAddress));
  }
  const claims: Record<string, unknown> = {};
  for (const [claim, values] of Object.entries(names)) {
    if (values.includes(undefined)) return undefined;
    if (values.length > 0) claims[claim] = values.length === 1 ? values[0] : [...new Set(values)];
  }
  return claims;
}

/** An address in its one spelling, or undefined. */
export function canonicalIp(text: string): string | undefined {
  if (isIP(text) === 0) return undefined;
  const address = ipaddr.parse(text);
  return address instanceof ipaddr.IPv6 ? address.toRFC5952String() : address.toString();
}

/** An IA5 name: printable ASCII without spaces. A NUL in one is the oldest trick there is. */
function plain(text: string): string | undefined {
  return /^[\x21-\x7e]{1,2048}$/.test(text) ? text : undefined;
}

const shortNames: Readonly<Record<string, string>> = {
  "2.5.4.3": "CN",
  "2.5.4.7": "L",
  "2.5.4.8": "ST",
  "2.5.4.10": "O",
  "2.5.4.11": "OU",
  "2.5.4.6": "C",
  "2.5.4.9": "STREET",
  "0.9.2342.19200300.100.1.25": "DC",
  "0.9.2342.19200300.100.1.1": "UID",
};

function distinguishedName(name: Name): string | undefined {
  // RFC 4514 §2.1: from the last to the first.
  const parts = [...name].toReversed().map((rdn) => [...rdn].map(attribute));
  if (parts.some((rdn) => rdn.length === 0 || rdn.includes(undefined))) return undefined;
  const text = parts.map((rdn) => rdn.join("+")).join(",");
  return text.length <= 2048 ? text : undefined;
}

function attribute({ type, value }: AttributeTypeAndValue): string | undefined {
  const text = value.utf8String ?? value.printableString ?? value.ia5String;
  const shortName = shortNames[type];
  if (shortName === undefined || text === undefined)
    // RFC 4514 §2.4: what has no name, or no text that everybody reads alike, is shown as its DER.
    return `${shortName ?? type}=#${Buffer.from(AsnConvert.serialize(new AttributeValue(value))).toString("hex")}`;
  if (text === "" || /\p{Cc}|\ufffd/u.test(text)) return undefined;
  const escaped = text
    .replace(/[",+;<>\\]/g, "\\$&")
    .replace(/^[# ]/, "\\$&")
    .replace(/ $/, "\\ ");
  return `${shortName}=${escaped}`;
}
