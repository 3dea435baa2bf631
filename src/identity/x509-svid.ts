import { CLIENT_AUTH } from "./certificate-path.ts";
import type { ReadCertificate } from "./read-certificate.ts";
import { type Refusal, refuse } from "./refusal.ts";
import { parseSpiffeId } from "./spiffe-id.ts";

const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";

/**
 * The SPIFFE ID of a certificate whose path is good, or why it is no X.509-SVID (X.509-SVID §2 to §4): one URI name and no
 * more, which is a workload's id; no CA; a critical key usage with digitalSignature and without what signs certificates;
 * both purposes, if any is named.
 */
export function svidOf({ isCa, keyUsage, purposes, altNames }: ReadCertificate): { readonly id: string } | Refusal {
  const uris = altNames.flatMap(({ uniformResourceIdentifier: uri }) => uri ?? []);
  const [uri] = uris;
  if (uri === undefined || uris.length > 1) return not("it must have exactly one URI name");
  const id = parseSpiffeId(uri);
  if (id === undefined || id.path === "") return not("its URI name must be the SPIFFE ID of a workload");
  if (isCa) return not("it is a signing certificate");
  if (keyUsage?.critical !== true || !keyUsage.has("digitalSignature") || keyUsage.has("keyCertSign", "cRLSign"))
    return not("its key usage must be critical, with digitalSignature and neither keyCertSign nor cRLSign");
  if (purposes !== undefined && ![CLIENT_AUTH, SERVER_AUTH].every((purpose) => purposes.includes(purpose)))
    return not("its extended key usage must have clientAuth and serverAuth");
  return { id: uri };
}

function not(why: string): Refusal {
  return refuse("certificate_not_svid", `the certificate is not an X.509-SVID: ${why}`);
}
