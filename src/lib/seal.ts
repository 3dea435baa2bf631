import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";

/**
 * Seals small things at rest (handles, target configurations, signing keys) with AES-256-GCM under keys derived from
 * the key encryption key, one per use (HKDF, RFC 5869). `context` is authenticated beside the text: what was sealed
 * for one row does not open for another.
 */
export interface Sealer {
  seal(text: string, context: string): Buffer;
  /** Throws when the key, the context or a single bit differs. */
  open(sealed: Uint8Array, context: string): string;
}

const VERSION = 1;
const NONCE = 12;
const TAG = 16;

/** `use` names the kind of thing (`handle`, `target-config`, `signing-key`) and separates their keys. */
export function createSealer(keyEncryptionKey: Uint8Array, use: string): Sealer {
  if (keyEncryptionKey.byteLength !== 32) throw new RangeError("the key encryption key must be 32 bytes");
  const key = Buffer.from(hkdfSync("sha256", keyEncryptionKey, Buffer.alloc(0), `mayfly/seal/${use}/v1`, 32));
  return {
    seal(text, context) {
      const nonce = randomBytes(NONCE);
      const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(context, "utf8"));
      const body = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
      return Buffer.concat([Buffer.of(VERSION), nonce, body, cipher.getAuthTag()]);
    },
    open(sealed, context) {
      const bytes = Buffer.from(sealed);
      if (bytes.length < 1 + NONCE + TAG || bytes[0] !== VERSION) throw new Error("not something that Mayfly sealed");
      const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(1, 1 + NONCE), { authTagLength: TAG })
        .setAAD(Buffer.from(context, "utf8"))
        .setAuthTag(bytes.subarray(bytes.length - TAG));
      return Buffer.concat([decipher.update(bytes.subarray(1 + NONCE, bytes.length - TAG)), decipher.final()]).toString(
        "utf8",
      );
    },
  };
}
