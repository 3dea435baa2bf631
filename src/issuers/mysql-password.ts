import { createHash, randomInt } from "node:crypto";
import type { Secret } from "../lib/secret.ts";

/**
 * What MariaDB's `mysql_native_password` stores for a password, and takes in its place: the password is in no statement. A double
 * SHA-1 without a salt, which is enough for 256 random bits and for nothing else.
 */
export function nativePassword(password: Secret): string {
  return `*${sha1(sha1(Buffer.from(password.reveal())))
    .toString("hex")
    .toUpperCase()}`;
}

/**
 * What MySQL 8's `caching_sha2_password` stores for a password: `$A$005$`, a salt of 20 characters and 43 of SHA-256-crypt
 * (Drepper, "Unix crypt using SHA-256 and SHA-512", but for the salt, which may have 16 there) with 5,000 rounds. MySQL takes it
 * from 8.0.17 on as `AS 0x…`.
 */
export function cachingSha2Password(password: Secret, salt = randomSalt()): string {
  return `$A$005$${salt}${sha256Crypt(Buffer.from(password.reveal()), Buffer.from(salt), 5_000)}`;
}

const ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

function randomSalt(): string {
  return Array.from({ length: 20 }, () => ALPHABET[randomInt(64)]).join("");
}

function sha1(data: Buffer): Buffer {
  return createHash("sha1").update(data).digest();
}

function sha256(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** So many bytes of what is repeated without end. */
function stretch(repeated: Buffer, length: number): Buffer {
  return Buffer.alloc(length, repeated);
}

/** The digest alone, without prefix and salt. The step numbers are the specification's. */
export function sha256Crypt(key: Buffer, salt: Buffer, rounds: number): string {
  const b = sha256(key, salt, key); // 4 to 8
  const parts: Buffer[] = [key, salt, stretch(b, key.length)]; // 1 to 3, 9, 10
  for (let bits = key.length; bits > 0; bits >>= 1) parts.push((bits & 1) === 1 ? b : key); // 11
  let a = sha256(...parts); // 12
  const p = stretch(sha256(stretch(key, key.length ** 2)), key.length); // 13 to 16
  const s = stretch(sha256(stretch(salt, salt.length * (16 + (a[0] ?? 0)))), salt.length); // 17 to 20
  for (let round = 0; round < rounds; round += 1) {
    const odd = round % 2 === 1;
    const middle = [...(round % 3 === 0 ? [] : [s]), ...(round % 7 === 0 ? [] : [p])];
    a = sha256(odd ? p : a, ...middle, odd ? a : p); // 21
  }
  return encode(a); // 22
}

/** Three bytes at a time, in the order of the specification's table. */
function encode(digest: Buffer): string {
  let text = "";
  for (let i = 0, [x, y, z] = [0, 10, 20]; i < 10; i += 1, [x, y, z] = [z + 1, x + 1, y + 1]) {
    text += characters(((digest[x] ?? 0) << 16) | ((digest[y] ?? 0) << 8) | (digest[z] ?? 0), 4);
  }
  return text + characters(((digest[31] ?? 0) << 8) | (digest[30] ?? 0), 3);
}

function characters(bits: number, count: number): string {
  return Array.from({ length: count }, (_, i) => ALPHABET[(bits >> (6 * i)) & 63]).join("");
}
