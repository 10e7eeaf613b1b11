/** Small values of all ranks. */
import { describe, fail, messageOf } from '../base/errors.js'
import { deviceTensor } from '../base/symbols.js'
import { agreed } from './comparison.js'
import { enqueue } from './world.js'

const { deserialize, serialize } = process.getBuiltinModule('node:v8')

const GATHER = 'allGather()'
const BARRIER = 'barrier()'

/**
 * Gives all ranks the values of all ranks, such as losses for a log. It is for small values: each rank sends its own to every
 * other one.
 *
 * @param value what the structured clone algorithm copies: numbers, texts, typed arrays, Maps and plain objects, but no functions.
 *   Of a Tensor pass `data`
 * @returns the values in the order of ranks, each a copy
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, also on all ranks if they call other operations
 * @example
 * const losses = await mpi.allGather(loss)
 */
export async function allGather<T>(value: T): Promise<T[]> {
  const bytes = bytesOf(value)
  return enqueue(GATHER, async ({ mpi }) => {
    const all =
      mpi === null ? [bytes] : await agreed(mpi, { operation: GATHER }, (key) => mpi.gather(GATHER, key, bytes))
    return all.map((each) => deserialize(each) as T)
  })
}

function bytesOf(value: unknown): Uint8Array {
  if (typeof value === 'object' && value !== null && deviceTensor in value) {
    fail(
      'ERR_LILY_ARGUMENT',
      'value',
      `expected a small value, got ${describe(value)}; pass its data: (await value.toHost()).data`,
    )
  }
  try {
    return serialize(value)
  } catch (cause) {
    return fail(
      'ERR_LILY_ARGUMENT',
      'value',
      `expected a value that can be copied, got another one: ${messageOf(cause)}`,
    )
  }
}

/**
 * Resolves once all ranks have called it. No other function requires it: it is for what a program does beside them, such as
 * reading a file that rank 0 has written.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT before init, and on all ranks if they call other operations
 * @example
 * if (rank === 0) await download(file)
 * await mpi.barrier()
 */
export async function barrier(): Promise<void> {
  await enqueue(BARRIER, async ({ mpi }) => {
    if (mpi !== null) await agreed(mpi, { operation: BARRIER }, (key) => mpi.barrier(BARRIER, key))
  })
}
