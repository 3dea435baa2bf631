import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from "node:crypto";

/** A certificate and its key, made on the spot so that no private key lies in the repository. */
export interface Certified {
  readonly der: Buffer;
  readonly cert: string;
  readonly key: string;
  readonly privateKey: KeyObject;
  readonly name: string;
  /** `x5t#S256`. */
  readonly thumbprint: string;
}

export type KeyKind = "P-256" | "P-384" | "Ed25519" | "RSA-1024" | "RSA-2048" | "RSA-PSS" | "secp256k1";

/** What a certificate shall say. The defaults make a client's certificate that is good for an hour. */
export interface Wanted {
  /** Who signs it. Default: itself. */
  readonly by?: Certified;
  readonly cn?: string;
  /** The DER of the subject, instead of `cn`. */
  readonly subject?: Buffer;
  readonly san?: readonly Buffer[];
  /** Seconds from now. Default: a minute ago to in an hour. */
  readonly from?: number;
  readonly to?: number;
  readonly key?: KeyKind;
  readonly hash?: "sha1" | "sha256" | "sha384" | "sha512";
  readonly pss?: true;
  /** A CA, with this path length if it is a number. */
  readonly ca?: boolean | number;
  /** Bits of RFC 5280 §4.2.1.3, digitalSignature first. Absent: no key usage. */
  readonly usage?: readonly number[];
  readonly usageCritical?: boolean;
  readonly eku?: readonly string[];
  readonly extensions?: readonly Buffer[];
  readonly version?: 1 | 3;
  /** The key pair of another certificate, for one that differs in nothing else. */
  readonly sameKeyAs?: Certified;
  /** What the signature says it is by, when it lies. */
  readonly issuerName?: string;
}

export const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
export const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";
export const digitalSignature = 0;
export const keyCertSign = 5;

/** One general name (RFC 5280 §4.2.1.6). */
export const names = {
  email: (text: string): Buffer => tlv(0x81, Buffer.from(text, "latin1")),
  dns: (text: string): Buffer => tlv(0x82, Buffer.from(text, "latin1")),
  uri: (text: string): Buffer => tlv(0x86, Buffer.from(text, "latin1")),
  ip: (...bytes: number[]): Buffer => tlv(0x87, Buffer.from(bytes)),
};

/** An extension with any DER inside. */
export function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [tlv(0x01, Buffer.from([0xff]))] : []), tlv(0x04, value));
}

/** A distinguished name of these attributes, one relative name each, in this order. */
export function distinguished(...parts: readonly (readonly [id: string, text: string, tag?: number])[]): Buffer {
  return sequence(...parts.map(([id, text, tag = 0x0c]) => tlv(0x31, sequence(oid(id), tlv(tag, Buffer.from(text))))));
}

export function certify(wanted: Wanted = {}): Certified {
  const { by, sameKeyAs } = wanted;
  const name = wanted.cn ?? "client";
  const pair = sameKeyAs === undefined ? keyPair(wanted.key ?? "P-256") : { privateKey: sameKeyAs.privateKey };
  const { privateKey } = pair;
  const publicKey = createPublicKey(privateKey);
  const subject = wanted.subject ?? distinguished(["2.5.4.3", name]);
  const signer = by?.privateKey ?? privateKey;
  const algorithm = signatureAlgorithm(signer, wanted);
  const extensions = wanted.version === 1 ? [] : extensionsOf(wanted);
  const body = sequence(
    ...(wanted.version === 1 ? [] : [tlv(0xa0, Buffer.from("020102", "hex"))]),
    tlv(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    algorithm,
    wanted.issuerName !== undefined
      ? distinguished(["2.5.4.3", wanted.issuerName])
      : by === undefined
        ? subject
        : subjectOf(by),
    sequence(time(wanted.from ?? -60), time(wanted.to ?? 3600)),
    subject,
    publicKey.export({ type: "spki", format: "der" }),
    ...(extensions.length === 0 ? [] : [tlv(0xa3, sequence(...extensions))]),
  );
  const der = sequence(body, algorithm, tlv(0x03, Buffer.concat([Buffer.from([0]), signature(body, signer, wanted)])));
  return {
    der,
    name,
    privateKey,
    cert: pem(der),
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    thumbprint: createHash("sha256").update(der).digest("base64url"),
  };
}

/** A CA. */
export function authority(wanted: Wanted = {}): Certified {
  return certify({ cn: "test CA", ca: true, usage: [keyCertSign, 6], ...wanted });
}

/** As RFC 9440 writes it. */
export function asHeader({ der }: Pick<Certified, "der">): string {
  return `:${der.toString("base64")}:`;
}

const subjects = new WeakMap<Certified, Buffer>();
function subjectOf(by: Certified): Buffer {
  const known = subjects.get(by);
  if (known !== undefined) return known;
  // version, serial, algorithm, issuer, validity, then the subject.
  const [tbs = Buffer.alloc(0)] = children(by.der);
  const parts = children(tbs);
  const subject = parts[parts[0]?.[0] === 0xa0 ? 5 : 4] ?? Buffer.alloc(0);
  subjects.set(by, subject);
  return subject;
}

function children(der: Buffer): Buffer[] {
  const found: Buffer[] = [];
  let at = headerOf(der, 0);
  while (at < der.length) {
    const start = at;
    const inside = headerOf(der, at);
    at = inside + lengthOf(der, start);
    found.push(der.subarray(start, at));
  }
  return found;
}

function headerOf(der: Buffer, at: number): number {
  const first = der[at + 1] ?? 0;
  return at + 2 + (first < 0x80 ? 0 : first & 0x7f);
}

function lengthOf(der: Buffer, at: number): number {
  const first = der[at + 1] ?? 0;
  return first < 0x80 ? first : der.readUIntBE(at + 2, first & 0x7f);
}

function keyPair(kind: KeyKind): { readonly privateKey: KeyObject } {
  switch (kind) {
    case "RSA-1024":
    case "RSA-2048":
      return generateKeyPairSync("rsa", { modulusLength: kind === "RSA-1024" ? 1024 : 2048 });
    case "RSA-PSS":
      return generateKeyPairSync("rsa-pss", { modulusLength: 2048 });
    case "Ed25519":
      return generateKeyPairSync("ed25519");
    case "P-256":
    case "P-384":
    case "secp256k1":
      return generateKeyPairSync("ec", { namedCurve: kind });
    default:
      throw new TypeError("no such kind of key");
  }
}

const ecdsa = {
  sha1: "1.2.840.10045.4.1",
  sha256: "1.2.840.10045.4.3.2",
  sha384: "1.2.840.10045.4.3.3",
  sha512: "1.2.840.10045.4.3.4",
};
const rsa = {
  sha1: "1.2.840.113549.1.1.5",
  sha256: "1.2.840.113549.1.1.11",
  sha384: "1.2.840.113549.1.1.12",
  sha512: "1.2.840.113549.1.1.13",
};

function signatureAlgorithm({ asymmetricKeyType: type }: KeyObject, { hash = "sha256", pss }: Wanted): Buffer {
  if (type === "ed25519") return sequence(oid("1.3.101.112"));
  if (type === "ec") return sequence(oid(ecdsa[hash]));
  if (pss !== true && type !== "rsa-pss") return sequence(oid(rsa[hash]), Buffer.from("0500", "hex"));
  const digest = sequence(oid(hash === "sha1" ? "1.3.14.3.2.26" : "2.16.840.1.101.3.4.2.1"));
  const mask = sequence(oid("1.2.840.113549.1.1.8"), digest);
  const salt = Buffer.from(hash === "sha1" ? "020114" : "020120", "hex");
  return sequence(oid("1.2.840.113549.1.1.10"), sequence(tlv(0xa0, digest), tlv(0xa1, mask), tlv(0xa2, salt)));
}

function signature(body: Buffer, key: KeyObject, { hash = "sha256", pss }: Wanted): Buffer {
  if (key.asymmetricKeyType === "ed25519") return sign(undefined, body, key);
  const padded = pss === true || key.asymmetricKeyType === "rsa-pss";
  return sign(hash, body, padded ? { key, padding: 6, saltLength: hash === "sha1" ? 20 : 32 } : key);
}

function extensionsOf({ ca, usage, usageCritical = true, eku, san = [], extensions = [] }: Wanted): Buffer[] {
  const made: Buffer[] = [...extensions];
  if (ca !== undefined && ca !== false)
    made.push(
      extension(
        "2.5.29.19",
        true,
        sequence(tlv(0x01, Buffer.from([0xff])), ...(ca === true ? [] : [tlv(0x02, Buffer.from([ca]))])),
      ),
    );
  if (usage !== undefined) {
    let bits = 0;
    for (const bit of usage) bits |= 0x80 >> bit;
    made.push(extension("2.5.29.15", usageCritical, tlv(0x03, Buffer.from([0, bits]))));
  }
  if (eku !== undefined) made.push(extension("2.5.29.37", false, sequence(...eku.map(oid))));
  if (san.length > 0) made.push(extension("2.5.29.17", false, sequence(...san)));
  return made;
}

function time(seconds: number): Buffer {
  const text = new Date(Date.now() + seconds * 1000).toISOString().replace(/\.\d+/, "").replace(/[-:T]/g, "");
  return tlv(0x18, Buffer.from(text));
}

/** DER as PEM (RFC 7468). */
function pem(der: Buffer): string {
  const lines = der.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

export function x509({ der }: Pick<Certified, "der">): X509Certificate {
  return new X509Certificate(der);
}

export function sequence(...parts: readonly Buffer[]): Buffer {
  return tlv(0x30, Buffer.concat(parts));
}

function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split(".").map(Number);
  const bytes = [40 * first + second, ...rest].flatMap((arc) => {
    const groups = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    return groups;
  });
  return tlv(0x06, Buffer.from(bytes));
}

/** One DER value (X.690 §8.1). */
export function tlv(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
