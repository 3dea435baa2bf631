import type { X509Certificate } from "node:crypto";
import type { ClientCertificate } from "./principal.ts";
import { type ReadCertificate, readCertificate } from "./read-certificate.ts";
import { type Refusal, refuse } from "./refusal.ts";

/** What a look for a path found: the leaf, trusted, or why not. */
export type PathVerdict =
  | { readonly ok: true; readonly leaf: ReadCertificate }
  | { readonly ok: false; readonly refusal: Refusal };

/** id-kp-clientAuth and anyExtendedKeyUsage (RFC 5280 §4.2.1.12). The second one is a CA's to have, not a client's. */
export const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
const ANY_PURPOSE = "2.5.29.37.0";

/** The longest path, leaf and anchor included, and the most signatures that one request may have us verify. */
const MAX_PATH = 6;
const MAX_SIGNATURES = 16;

/**
 * Whether a path leads from the client's certificate to one of these anchors and no others (RFC 5280 §6.1), and the
 * certificate is one for clients. Of every certificate on the path, the anchor's included: it is in its time, its key and
 * its signature are strong, nothing critical in it is unknown. Of every issuer: it is a CA, may sign certificates, for
 * clients, and its path length is kept. Name constraints are not worked out: a path with any is refused. Nothing is fetched:
 * no AIA, CRL or OCSP; to withdraw a certificate, take its anchor or its identity away, or make it short-lived.
 */
export function findPath(certificate: ClientCertificate, anchors: readonly X509Certificate[], now: Date): PathVerdict {
  const leaf = readCertificate(certificate.leaf);
  if (leaf === undefined) return refused("certificate_malformed", "the certificate is not what RFC 5280 says");
  const weakness = leaf.weakKey ?? leaf.weakSignature;
  if (weakness !== undefined) return refused("certificate_weak", `the certificate is too weak: ${weakness}`);
  const between = certificate.chain.flatMap((one) => readCertificate(one) ?? []);
  const ends = anchors.flatMap((one) => readCertificate(one) ?? []);
  let signatures = MAX_SIGNATURES;
  let nearest: Refusal | undefined;

  const signed = (by: ReadCertificate, what: ReadCertificate): boolean => {
    // Compares the names and what the issuer's key may be used for, without work on signatures.
    if (!what.x509.checkIssued(by.x509)) return false;
    signatures -= 1;
    return signatures >= 0 && what.x509.verify(by.x509.publicKey);
  };
  const search = (path: readonly ReadCertificate[]): boolean => {
    const last = path.at(-1) ?? leaf;
    for (const anchor of ends) {
      if (anchor.weakKey !== undefined || !signed(anchor, last)) continue;
      const problem = judgePath([...path, anchor], now);
      if (problem === undefined) return true;
      nearest ??= problem;
    }
    if (path.length + 2 > MAX_PATH) return false;
    return between.some(
      (next) => !path.includes(next) && next.weakKey === undefined && signed(next, last) && search([...path, next]),
    );
  };
  if (search([leaf])) return { ok: true, leaf };
  return nearest === undefined
    ? refused(
        "certificate_untrusted",
        "no path leads from the certificate to a trust anchor of the client's trust source",
      )
    : { ok: false, refusal: nearest };
}

/** The first thing that is wrong with a path whose signatures are right, from the leaf to the anchor. */
function judgePath(path: readonly ReadCertificate[], now: Date): Refusal | undefined {
  for (const [index, one] of path.entries()) {
    const late = judgeTime(one, now);
    if (late !== undefined) return late;
    if (one.beyondUs !== undefined)
      return refuse("certificate_untrusted", `a certificate of the path cannot be judged: ${one.beyondUs}`);
    // Nobody relies on an anchor's own signature.
    if (index < path.length - 1 && one.weakSignature !== undefined)
      return refuse("certificate_weak", `a certificate of the path is too weak: ${one.weakSignature}`);
    if (index === 0) continue;
    if (!one.isCa || one.keyUsage?.has("keyCertSign") === false)
      return refuse("certificate_untrusted", "an issuer on the path is not a certificate authority");
    if (index - 1 > one.pathLength)
      return refuse("certificate_untrusted", "the path is longer than a certificate authority on it allows");
    if (
      one.purposes !== undefined &&
      !one.purposes.some((purpose) => purpose === CLIENT_AUTH || purpose === ANY_PURPOSE)
    )
      return refuse("certificate_untrusted", "a certificate authority on the path is not one for clients");
  }
  const [leaf] = path;
  return leaf && judgeUse(leaf);
}

/** Whether it is in its time (RFC 5280 §4.1.2.5), to the second that the broker's clock shows. */
export function judgeTime({ notBeforeMs, notAfterMs }: ReadCertificate, now: Date): Refusal | undefined {
  const at = now.getTime();
  if (!(at >= notBeforeMs)) return refuse("certificate_not_yet_valid", "a certificate is not valid yet");
  return at <= notAfterMs ? undefined : refuse("certificate_expired", "a certificate is no longer valid: renew it");
}

/** What is signed by a CA and is one itself, or is for servers alone, is nobody's proof of being a client (CVE-2025-49825). */
function judgeUse({ isCa, keyUsage, purposes }: ReadCertificate): Refusal | undefined {
  if (isCa || keyUsage?.has("keyCertSign", "cRLSign"))
    return refuse("certificate_not_for_clients", "a certificate authority's certificate is no client's");
  if (keyUsage?.has("digitalSignature") === false)
    return refuse("certificate_not_for_clients", "the certificate's key usage lacks digitalSignature");
  if (purposes !== undefined && !purposes.includes(CLIENT_AUTH))
    return refuse("certificate_not_for_clients", "the certificate's extended key usage lacks clientAuth");
  return undefined;
}

function refused(code: Refusal["code"], detail: string): PathVerdict {
  return { ok: false, refusal: refuse(code, detail) };
}
