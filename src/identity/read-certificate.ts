import type { X509Certificate } from "node:crypto";
import { AsnConvert } from "@peculiar/asn1-schema";
import {
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  type GeneralName,
  KeyUsage,
  KeyUsageFlags,
  type Name,
  SubjectAlternativeName,
  Version,
} from "@peculiar/asn1-x509";
import { judgeJwk } from "./public-jwk.ts";

/** What a certificate says, as far as we look at it (RFC 5280 §4). Nothing of it is verified. */
export interface ReadCertificate {
  readonly x509: X509Certificate;
  readonly subject: Name;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** `cA` in its basic constraints. */
  readonly isCa: boolean;
  /** The most CA certificates that may come between it and the leaf. */
  readonly pathLength: number;
  /** Absent: the key may be used for anything. */
  readonly keyUsage: { readonly critical: boolean; has(...uses: readonly KeyUse[]): boolean } | undefined;
  /** OIDs. Absent: any purpose. */
  readonly purposes: readonly string[] | undefined;
  readonly altNames: readonly GeneralName[];
  /** Why no path may lead through it: its key, the algorithm of its signature, an extension that we cannot obey. */
  readonly weakKey: string | undefined;
  readonly weakSignature: string | undefined;
  readonly beyondUs: string | undefined;
}

type KeyUse = keyof typeof KeyUsageFlags;

const extensions = {
  keyUsage: "2.5.29.15",
  altName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  nameConstraints: "2.5.29.30",
  purposes: "2.5.29.37",
};
const obeyed: readonly string[] = Object.values(extensions);

/** RFC 5758, RFC 4055, RFC 8410: nothing below SHA-256. */
const goodSignatures = new Set([
  "1.2.840.10045.4.3.2",
  "1.2.840.10045.4.3.3",
  "1.2.840.10045.4.3.4",
  "1.2.840.113549.1.1.11",
  "1.2.840.113549.1.1.12",
  "1.2.840.113549.1.1.13",
  "1.3.101.112",
]);
const RSASSA_PSS = "1.2.840.113549.1.1.10";
/** The parameters that are in use, byte for byte, with and without the NULL of the hash (RFC 4055 §3.1). */
const goodPss = new Set(
  ["01:20", "02:30", "03:40"].flatMap((each) =>
    ["", "0500"].map((nothing) => {
      const [hash, salt] = each.split(":");
      const algorithm = tagged("30", `06096086480165030402${hash}${nothing}`);
      const mask = tagged("30", `06092a864886f70d010108${algorithm}`);
      return tagged("30", `${tagged("a0", algorithm)}${tagged("a1", mask)}a2030201${salt}`);
    }),
  ),
);

const alreadyRead = new WeakMap<X509Certificate, ReadCertificate | undefined>();

/** Reads a certificate; undefined for one that is not what RFC 5280 says. Read once: connections and sources keep theirs. */
export function readCertificate(x509: X509Certificate): ReadCertificate | undefined {
  if (alreadyRead.has(x509)) return alreadyRead.get(x509);
  let certificate: ReadCertificate | undefined;
  try {
    certificate = read(x509);
  } catch {
    // Whatever the parser has against it, it is no certificate to us.
  }
  alreadyRead.set(x509, certificate);
  return certificate;
}

function read(x509: X509Certificate): ReadCertificate | undefined {
  const { tbsCertificate: tbs, signatureAlgorithm } = AsnConvert.parse(x509.raw, Certificate);
  // RFC 5280 §4.1.2.1: extensions are of version 3. Version 1 has none, and so cannot be a CA's.
  if (tbs.extensions !== undefined && tbs.version !== Version.v3) return undefined;
  const found = new Map<string, { readonly critical: boolean; readonly value: ArrayBuffer }>();
  for (const { extnID, critical, extnValue } of tbs.extensions ?? []) {
    // RFC 5280 §4.2: two of one kind are two answers to one question.
    if (found.has(extnID)) return undefined;
    found.set(extnID, { critical, value: extnValue.buffer });
  }
  const part = <Value>(oid: string, as: new () => Value): Value | undefined => {
    const extension = found.get(oid);
    return extension === undefined ? undefined : AsnConvert.parse(extension.value, as);
  };
  const constraints = part(extensions.basicConstraints, BasicConstraints);
  const uses = part(extensions.keyUsage, KeyUsage)?.toNumber();
  return {
    x509,
    subject: tbs.subject,
    notBeforeMs: tbs.validity.notBefore.getTime().getTime(),
    notAfterMs: tbs.validity.notAfter.getTime().getTime(),
    isCa: constraints?.cA === true,
    pathLength: constraints?.pathLenConstraint ?? Number.POSITIVE_INFINITY,
    keyUsage:
      uses === undefined
        ? undefined
        : {
            critical: found.get(extensions.keyUsage)?.critical === true,
            has: (...wanted) => wanted.some((use) => (uses & KeyUsageFlags[use]) !== 0),
          },
    purposes: part(extensions.purposes, ExtendedKeyUsage),
    altNames: part(extensions.altName, SubjectAlternativeName) ?? [],
    weakKey: weakKey(x509),
    weakSignature: weakSignature(signatureAlgorithm),
    beyondUs: beyondUs(found),
  };
}

/** Name constraints are not worked out here, so nobody is believed under them, critical or not. */
function beyondUs(found: ReadonlyMap<string, { readonly critical: boolean }>): string | undefined {
  if (found.has(extensions.nameConstraints)) return "it has name constraints, which are not supported";
  for (const [oid, { critical }] of found)
    if (critical && !obeyed.includes(oid)) return "it has a critical extension that is not supported";
  return undefined;
}

const weakKeys = new WeakMap<X509Certificate, string>();

/** Why a certificate's key is too weak for anything; undefined when it is not. */
export function weakKey(x509: X509Certificate): string | undefined {
  const known = weakKeys.get(x509) ?? judgeKey(x509);
  weakKeys.set(x509, known);
  return known === "" ? undefined : known;
}

function judgeKey({ publicKey }: X509Certificate): string {
  try {
    if (judgeJwk(publicKey.export({ format: "jwk" }), "sig").kind === "usable") return "";
  } catch {
    // A kind of key that no JWK is made of.
  }
  return "its key is not RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519";
}

function weakSignature({ algorithm, parameters }: Certificate["signatureAlgorithm"]): string | undefined {
  const pss = algorithm === RSASSA_PSS && goodPss.has(Buffer.from(parameters ?? new ArrayBuffer(0)).toString("hex"));
  return pss || goodSignatures.has(algorithm) ? undefined : "its signature is not made with SHA-256 or better";
}

function tagged(tag: string, hex: string): string {
  return `${tag}${(hex.length / 2).toString(16).padStart(2, "0")}${hex}`;
}
