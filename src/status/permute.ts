import { createCipheriv } from "node:crypto";

/** How many places a list has: 128 KiB of bits. */
export const LIST_SIZE = 2 ** 20;

const HALF_BITS = 10;
const HALF = 2 ** HALF_BITS;
/** Four are enough only against somebody who has seen few places; a small domain needs more, and they cost nothing. */
const ROUNDS = 8;
const BLOCK = 16;

/**
 * The places of the counts `first` to `first + count - 1` of a list, all below {@link LIST_SIZE}: a permutation under `seed`
 * (16 bytes), so no two counts ever have one place, and the place of a token tells nobody how many there were before it
 * (draft-21 §13.1). A Feistel network over two halves of ten bits, with AES as its round function.
 */
export function permuted(seed: Uint8Array, first: number, count: number): Uint32Array {
  const places = Uint32Array.from({ length: count }, (_, index) => first + index);
  const cipher = createCipheriv("aes-128-ecb", seed, null).setAutoPadding(false);
  const blocks = Buffer.alloc(count * BLOCK);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [index, place] of places.entries()) {
      blocks.writeUInt16BE(place % HALF, index * BLOCK);
      blocks.writeUInt8(round, index * BLOCK + 2);
    }
    // All of them in one call: AES itself is not what takes time.
    const mixed = cipher.update(blocks);
    for (const [index, place] of places.entries()) {
      const right = place % HALF;
      const left = (place >>> HALF_BITS) ^ (mixed.readUInt16BE(index * BLOCK) % HALF);
      places[index] = right * HALF + left;
    }
  }
  return places;
}
