import type { X509Certificate } from "node:crypto";
import { z } from "zod";
import { certificateOfBase64 } from "./pem.ts";
import { readCertificate } from "./read-certificate.ts";

/** What a member of a bundle's `keys` is as an X.509 authority: one, not meant as one, or not usable as one. */
export type AuthorityVerdict =
  | { readonly kind: "usable"; readonly certificate: X509Certificate }
  | { readonly kind: "other" }
  | { readonly kind: "refused"; readonly why: string };

const authority = z.looseObject({ x5c: z.tuple([z.string()]) });

/**
 * Judges one key of a SPIFFE bundle as an authority for X.509-SVIDs (SPIFFE trust domain and bundle §4.2.1): `use` is
 * `x509-svid` and `x5c` holds one CA certificate with a strong key. Whether it is in its time is asked when it is used.
 */
export function judgeAuthority(key: unknown): AuthorityVerdict {
  if (typeof key !== "object" || key === null || !("use" in key) || key.use !== "x509-svid") return { kind: "other" };
  const parsed = authority.safeParse(key);
  const certificate = parsed.success ? certificateOfBase64(parsed.data.x5c[0]) : undefined;
  const why = certificate === undefined ? "its x5c is not exactly one certificate" : anchorProblem(certificate);
  return certificate === undefined || why !== undefined
    ? { kind: "refused", why: why ?? "its x5c cannot be read" }
    : { kind: "usable", certificate };
}

/** Why a certificate cannot be a trust anchor, whenever that would be; undefined for one that can. */
export function anchorProblem(certificate: X509Certificate): string | undefined {
  const read = readCertificate(certificate);
  if (read === undefined) return "the certificate is not what RFC 5280 says";
  if (!read.isCa || read.keyUsage?.has("keyCertSign") === false) return "it is not a certificate authority";
  return read.weakKey ?? read.beyondUs;
}
