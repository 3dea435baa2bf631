import { certificateClaims } from "./certificate-claims.ts";
import { findPath, judgeTime } from "./certificate-path.ts";
import { claimAt, meetsCondition } from "./claim-conditions.ts";
import type { Claims } from "./decode-token.ts";
import type { KeyCache } from "./key-cache.ts";
import type { ClientCertificate } from "./principal.ts";
import type { Source } from "./principal-of.ts";
import { readCertificate } from "./read-certificate.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { type CertificateSource, certificatesOf, type TokenSource, vouchesByTokens } from "./trust-source.ts";
import { svidOf } from "./x509-svid.ts";

/** Who a certificate says its holder is, by the word of a trust source. */
export type CertificateVerdict =
  | { readonly ok: true; readonly claims: Claims; readonly subject: string }
  | { readonly ok: false; readonly refusal: Refusal };

/**
 * Whether a trust source vouches for a client's certificate: by a path to its anchors (`x509_ca`, RFC 8705 §2.1), because
 * the very certificate is registered (`self_signed`, §2.2), or as an X.509-SVID of its trust domain (`spiffe`). It must be
 * in its time and strong in each case, and meet the source's conditions.
 */
export async function judgeCertificate(
  certificate: ClientCertificate,
  clientId: string,
  source: Source,
  deps: { readonly keyCache: Pick<KeyCache, "authoritiesOf">; readonly now: Date },
): Promise<CertificateVerdict> {
  const { config } = source;
  const verdict = vouchesByTokens(config)
    ? await judgeSvid(certificate, clientId, { ...source, config }, deps)
    : config.kind === "x509_ca"
      ? judgeByPath(certificate, config, deps.now)
      : judgeByThumbprint(certificate, config, deps.now);
  if (!verdict.ok) return verdict;
  const unmet = config.conditions.find((condition) => !meetsCondition(condition, verdict.claims))?.claim;
  const required = vouchesByTokens(config) ? config.required_claims : [];
  const absent = required.find((name) => claimAt(verdict.claims, name) === undefined);
  const claim = unmet ?? absent;
  return claim === undefined
    ? verdict
    : no("certificate_conditions_not_met", `the trust source demands another value of the claim ${claim}`);
}

function judgeByPath(certificate: ClientCertificate, source: CertificateSource, now: Date): CertificateVerdict {
  const path = findPath(certificate, certificatesOf(source), now);
  if (!path.ok) return path;
  const claims = certificateClaims(path.leaf);
  const subject = [claims?.["subject_dn"], ...Object.values(claims ?? {})].flat().find((name) => name !== undefined);
  return claims === undefined || typeof subject !== "string"
    ? no("certificate_malformed", "the certificate has no names, too many, or one that can be read in two ways")
    : { ok: true, claims, subject };
}

function judgeByThumbprint({ leaf }: ClientCertificate, source: CertificateSource, now: Date): CertificateVerdict {
  if (!certificatesOf(source).some(({ raw }) => raw.equals(leaf.raw)))
    return no("certificate_untrusted", "this certificate is not registered for the client");
  const read = readCertificate(leaf);
  if (read === undefined) return no("certificate_malformed", "the certificate is not what RFC 5280 says");
  if (read.weakKey !== undefined) return no("certificate_weak", `the certificate is too weak: ${read.weakKey}`);
  const late = judgeTime(read, now);
  return late === undefined
    ? { ok: true, claims: { sub: source.issuer }, subject: source.issuer }
    : { ok: false, refusal: late };
}

async function judgeSvid(
  certificate: ClientCertificate,
  clientId: string,
  source: Source<TokenSource>,
  { keyCache, now }: { readonly keyCache: Pick<KeyCache, "authoritiesOf">; readonly now: Date },
): Promise<CertificateVerdict> {
  if (source.config.kind !== "spiffe") return no("client_unknown", "the client's trust source vouches by tokens alone");
  const authorities = await keyCache.authoritiesOf(source);
  if ("code" in authorities) return { ok: false, refusal: authorities };
  const path = findPath(certificate, authorities, now);
  if (!path.ok) return path;
  const svid = svidOf(path.leaf);
  if ("code" in svid) return { ok: false, refusal: svid };
  // Two trust domains may share a root: the comparison is what tells them apart.
  return svid.id === clientId
    ? { ok: true, claims: { sub: svid.id }, subject: svid.id }
    : no("client_id_mismatch", "client_id must be the SPIFFE ID of the certificate");
}

function no(code: Refusal["code"], detail: string): CertificateVerdict {
  return { ok: false, refusal: refuse(code, detail) };
}
