import { X509Certificate } from "node:crypto";

const PEM = /^\s*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END CERTIFICATE-----\s*$/;

/** The one certificate of a PEM text (RFC 7468 §5.1), or undefined: for no certificate, for several, for anything around it. */
export function certificateOfPem(text: string): X509Certificate | undefined {
  const base64 = PEM.exec(text)?.[1]?.replace(/[\r\n]/g, "");
  return base64 === undefined ? undefined : certificateOfBase64(base64);
}

/** The certificate of a member of `x5c` (RFC 7517 §4.7: base64, not base64url, of DER), or undefined. */
export function certificateOfBase64(base64: string): X509Certificate | undefined {
  const der = Buffer.from(base64, "base64");
  if (der.length === 0 || der.toString("base64") !== base64) return undefined;
  try {
    const certificate = new X509Certificate(der);
    // OpenSSL also takes PEM, and bytes behind the end.
    return certificate.raw.equals(der) ? certificate : undefined;
  } catch {
    return undefined;
  }
}
