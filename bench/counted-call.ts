/**
 * One call on a CUDA device, in a process of its own: the emulator writes its counts when the process ends. The job is
 * JSON on the command line; count.ts starts it.
 */
import { fileURLToPath } from 'node:url'
import { lilyBackward, lilyForward, loraBackward, loraForward, Stream, type Tensor } from '../lib/index.js'
import { makeOperands } from './operands.js'
import { dtypes, type DTypeName, type Shape } from './shapes.js'

export const methods = ['batch', 'sequence', 'token', 'uniform', 'lora'] as const

export interface Job {
  readonly shape: Shape
  readonly dtype: DTypeName
  /** A routing of Lily, or LoRA of the same rank. */
  readonly method: (typeof methods)[number]
}

/** Four ragged sequences: the ends are moved off the multiples of any tile. */
export function sequenceOffsets(tokens: number): Int32Array {
  const ends = [1, 2, 3].map((quarter) => Math.floor((quarter * tokens) / 4) + (2 - quarter) * Math.min(5, tokens >> 3))
  return Int32Array.of(0, ...ends, tokens)
}

/** y, dx and all gradients are given and accumulated into. */
function call({ shape, dtype, method }: Job, withBackward: boolean): void {
  const moved = <T extends Record<string, Tensor>>(tensors: T): T =>
    Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.to({ type: 'cuda' })])) as T
  const { x, dy, y, dx, a, da, router, dRouter, b, db, loraB, loraDb } = moved(makeOperands(shape, dtypes[dtype]))
  if (method === 'lora') {
    const { saved } = loraForward({ x, a, b: loraB, y })
    if (withBackward) loraBackward({ dy, dx, da, db: loraDb }, saved)
  } else if (method === 'uniform') {
    const { saved } = lilyForward({ x, a, b, y }, { routing: 'uniform' })
    if (withBackward) lilyBackward({ dy, dx, da, db }, saved)
  } else {
    const options = method === 'sequence' ? { sequenceOffsets: sequenceOffsets(shape.tokens) } : {}
    const { saved } = lilyForward({ x, a, router, b, y }, { routing: method, ...options })
    if (withBackward) lilyBackward({ dy, dx, da, dRouter, db }, saved)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [job, direction] = process.argv.slice(2)
  call(JSON.parse(job ?? '') as Job, direction === 'backward')
  await Stream.default({ type: 'cuda' }).synchronize()
}
