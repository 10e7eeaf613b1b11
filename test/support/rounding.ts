/**
 * Rounds numbers of float32 in a child process with an instruction set: LoRA's forward of rank 1 with h = 1 has them as
 * rows of y. This file contains both sides.
 */
import { fileURLToPath } from 'node:url'
import { backends, cast, loraForward, tensor } from '../../lib/index.js'
import { answer, ask } from './fork.js'

type Type = 'bfloat16' | 'float16'

interface Question {
  /** Of the numbers, because those of a NaN are of interest. */
  bits: Uint32Array
  type: Type
}

/** Tokens that fill two tiles, and one more. */
const TOKENS = 13

/** @returns the rows of y as numbers of 16 bits; none without the instruction set */
export async function roundInTiles(numbers: Float32Array, type: Type, isa: string): Promise<Uint16Array[]> {
  const question: Question = { bits: new Uint32Array(numbers.buffer), type }
  return ask<Uint16Array[]>(fileURLToPath(import.meta.url), question, { LILY_CPU_ISA: isa })
}

function rows({ bits, type }: Question): Uint16Array[] {
  if (!backends()[0].available) return []
  const b = tensor(new Float32Array(bits.buffer, bits.byteOffset, bits.length), [bits.length, 1])
  const x = cast(tensor(new Float32Array(TOKENS).fill(1), [TOKENS, 1]), type)
  const { y } = loraForward({ x, a: tensor(Float32Array.of(1), [1, 1]), b })
  const values = y.data as Uint16Array
  return Array.from({ length: TOKENS }, (_, t) => values.slice(t * bits.length, (t + 1) * bits.length))
}

answer((question) => Promise.resolve(rows(question)))
