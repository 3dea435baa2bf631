import { inflateSync } from "node:zlib";

/** The bytes of a Token Status List (draft-ietf-oauth-status-list-21 §4.1), inflated. */
export interface StatusList {
  /** How many bits a status has. */
  readonly bits: 1 | 2 | 4 | 8;
  readonly bytes: Uint8Array;
}

/** 2^20 statuses of 8 bits, twice. */
const MAX_BYTES = 2 * 1024 * 1024;

/** The list of a `status_list` claim; undefined when it is none, or would grow beyond 2 MiB. */
export function decodeStatusList(claim: unknown): StatusList | undefined {
  if (typeof claim !== "object" || claim === null) return undefined;
  const { bits, lst } = claim as Readonly<Record<string, unknown>>;
  if (bits !== 1 && bits !== 2 && bits !== 4 && bits !== 8) return undefined;
  if (typeof lst !== "string" || !/^[A-Za-z0-9_-]+$/.test(lst)) return undefined;
  try {
    return { bits, bytes: inflateSync(Buffer.from(lst, "base64url"), { maxOutputLength: MAX_BYTES }) };
  } catch {
    return undefined;
  }
}

/** The status of one token: 0 is valid. Undefined beyond the end of the list. */
export function statusAt({ bits, bytes }: StatusList, index: number): number | undefined {
  const byte = bytes[Math.floor((index * bits) / 8)];
  // §4.1: from the least significant bit upwards.
  return byte === undefined ? undefined : (byte >> ((index * bits) % 8)) & (2 ** bits - 1);
}
