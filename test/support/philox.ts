/**
 * Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), and the mask of dropout that
 * docs/math.md derives from it. In integers of any size, so that it has nothing in common with the kernels.
 */

type Words = readonly [number, number, number, number]

const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n]
const KEY_STEPS = [0x9e3779b9n, 0xbb67ae85n]
const LOW = 0xffffffffn

export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter.map(BigInt)
  let [k0, k1] = key.map(BigInt)
  for (let round = 0; round < 10; round++) {
    const [first, second] = [MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2]
    ;[c0, c1, c2, c3] = [(second >> 32n) ^ c1 ^ k0, second & LOW, (first >> 32n) ^ c3 ^ k1, first & LOW]
    k0 = (k0 + KEY_STEPS[0]) & LOW
    k1 = (k1 + KEY_STEPS[1]) & LOW
  }
  return [Number(c0), Number(c1), Number(c2), Number(c3)]
}

/** Dropout of a call: its rate, and the draw, which are the words of seed and position, the low one first. */
export interface Dropout {
  readonly rate: number
  readonly draw: Int32Array
}

/** n: an element is dropped if its number of 16 bits is below it. */
export const thresholdOf = (rate: number): number => Math.min(Math.round(65536 * rate), 65535)

/** The mask, [M, d_in]: 0 for a dropped element. */
export function maskOf(tokens: number, dIn: number, { rate, draw }: Dropout): Uint8Array {
  const threshold = thresholdOf(rate)
  const [seedLow, seedHigh, positionLow, positionHigh] = new Uint32Array(draw)
  const mask = new Uint8Array(tokens * dIn)
  for (let t = 0; t < tokens; t++)
    for (let j = 0; j < dIn; j += 8) {
      const words = philox([j / 8, t, positionLow, positionHigh], [seedLow, seedHigh])
      for (let i = 0; i < Math.min(8, dIn - j); i++) {
        const number = (words[i >> 1] >>> (16 * (i % 2))) & 0xffff
        mask[t * dIn + j + i] = number >= threshold ? 1 : 0
      }
    }
  return mask
}
