/**
 * Compares rows of y in calls of one to eight tokens with those in a call of nine tokens, which other passes of the CPU
 * compute. This file contains both sides of a child process with an instruction set.
 */
import { fileURLToPath } from 'node:url'
import { backends, lilyForward, loraForward, tensor, type Tensor, type TensorLike } from '../../lib/index.js'
import { bits } from './compare.js'
import { type Float, pack } from './dtypes.js'
import { answer, ask } from './fork.js'
import { gaussian, randomFrom } from './random.js'

const MOST = 9

// Ranks and depths of whole squares of each set, and ragged ones; columns that begin and end within a cache line.
const PROBLEMS = [
  { routing: 'lora', rank: 16, dIn: 192, dOut: 128 },
  { routing: 'lora', rank: 7, dIn: 147, dOut: 301 },
  { routing: 'lora', rank: 3, dIn: 260, dOut: 70 },
  { routing: 'lora', rank: 36, dIn: 1060, dOut: 131 },
  // With two tiles of the rank a task adds all splits.
  { routing: 'lora', rank: 260, dIn: 600, dOut: 64 },
  { routing: 'token', rank: 9, dIn: 130, dOut: 1090 },
  { routing: 'uniform', rank: 21, dIn: 96, dOut: 600 },
  // Rows that begin at odd elements: pairs of 16-bit numbers straddle the steps of a row.
  { routing: 'lora', rank: 16, dIn: 64, dOut: 48, gap: 1 },
] as const

/** Without products in blocks. @returns problems and numbers of tokens with other bits; undefined without the instruction set */
export async function wrongRowsOn(isa: string): Promise<string[] | undefined> {
  const { available, wrong } = await ask<{ available: boolean; wrong: string[] }>(
    fileURLToPath(import.meta.url),
    {},
    { LILY_CPU_ISA: isa, LILY_CPU_BLOCKS: '0' },
  )
  return available ? wrong : undefined
}

export function wrongRows(): string[] {
  const all = PROBLEMS.flatMap((problem) =>
    (['float32', 'bfloat16', 'float16'] as const).flatMap((activations) =>
      (['float32', activations] as const).map((parameters) => ({ ...problem, activations, parameters })),
    ),
  )
  return all.flatMap((problem) => {
    const forward = forwardOf(problem)
    const expected = forward(MOST)
    const wrong = Array.from({ length: MOST - 1 }, (_, i) => i + 1).filter((tokens) => {
      const rows = expected.data.subarray(0, tokens * problem.dOut)
      return !bits(forward(tokens).data).equals(bits(rows))
    })
    return wrong.map((tokens) => JSON.stringify({ ...problem, tokens }))
  })
}

/** y of the first tokens. */
function forwardOf(problem: (typeof PROBLEMS)[number] & { gap?: number; activations: Float; parameters: Float }) {
  const { routing, rank, dIn, dOut, activations, parameters, gap = 0 } = problem
  const scaling = gap === 0 ? 2 : 1
  const random = randomFrom(1)
  const make = (type: Float, ...shape: number[]): TensorLike => {
    const columns = shape[shape.length - 1] + gap
    const rows = shape.slice(0, -1).reduce((p, q) => p * q)
    const strides = shape.map((_, i) =>
      i === shape.length - 1 ? 1 : columns * shape.slice(i + 1, -1).reduce((p, q) => p * q, 1),
    )
    return { data: pack(type, gaussian(random, rows * columns)), shape, strides, dtype: type }
  }
  const x = gaussian(random, MOST * dIn)
  const y = gaussian(random, MOST * dOut)
  const experts = 3
  const a = make(parameters, rank, dIn)
  const router = routing === 'token' ? make(parameters, experts, rank) : undefined
  const b = routing === 'lora' ? make(parameters, dOut, rank) : make(parameters, experts, rank, dOut)
  const first = (values: Float32Array, tokens: number, columns: number) =>
    tensor(pack(activations, values.subarray(0, tokens * columns)), [tokens, columns], activations)
  return (tokens: number): Tensor => {
    const operands = { x: first(x, tokens, dIn), a, b, y: first(y, tokens, dOut) }
    if (routing === 'lora') return loraForward(operands, { scaling }).y
    return lilyForward({ ...operands, router }, { scaling, routing }).y
  }
}

answer(() => {
  const { available } = backends()[0]
  return Promise.resolve({ available, wrong: available ? wrongRows() : [] })
})
