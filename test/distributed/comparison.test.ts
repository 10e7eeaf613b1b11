/**
 * What ranks that differ are told. The ranks here are in one process, with an exchange in place of MPI; test/mpi has those of
 * mpirun.
 *
 * @project cpu
 */
import { expect, it } from 'vitest'
import type { NativeMpi } from '../../lib/binding/native.js'
import { LilyError } from '../../lib/index.js'
import { agreed, type Description } from '../../lib/mpi/comparison.js'

/** One of `count` calls, which resolve with what all were given. */
function exchangeOf<T>(count: number): (rank: number, given: T) => Promise<T[]> {
  const all: T[] = []
  let arrived = 0
  let resolve: (all: T[]) => void
  const promise = new Promise<T[]>((done) => (resolve = done))
  return (rank, given) => {
    all[rank] = given
    if (++arrived === count) resolve(all)
    return promise
  }
}

/** What each rank is told: 'fine', or the message. */
async function told(
  descriptions: readonly Description[],
  changeKey = (key: string, _rank: number) => key,
): Promise<string[]> {
  const keys = exchangeOf<string>(descriptions.length)
  const gathered = exchangeOf<Uint8Array>(descriptions.length)
  return Promise.all(
    descriptions.map(async (description, rank) => {
      const mpi = {
        gather: (_label: string, _key: string, bytes: Uint8Array) => gathered(rank, bytes),
      } as unknown as NativeMpi
      const call = async (key: string) => {
        expect(Buffer.byteLength(key)).toBeLessThanOrEqual(120)
        const all = await keys(rank, changeKey(key, rank))
        return all.every((each) => each === all[0]) ? null : all
      }
      const outcome = agreed(mpi, description, call)
      return outcome.then(
        () => 'fine',
        (error: unknown) => {
          expect(error).toBeInstanceOf(LilyError)
          return (error as LilyError).message
        },
      )
    }),
  )
}

const tensor = (name: string, ...properties: string[]) => ({ name, properties })
const [a, b] = [tensor('a', 'of shape [2, 3]', 'on cpu'), tensor('b', 'of shape [4]', 'on cpu')]
const operation = 'averageGradients()'
const settings = (bucketBytes: number) => ({ bucketBytes: { value: bucketBytes, remedy: 'pass the same' } })
const model = 'create the same model on all ranks, from the same layers and options'

it.each<[string, Description[], string]>([
  ['equal', [1, 2, 3].map(() => ({ operation, tensors: [a, b], settings: settings(8) })), 'fine'],
  [
    'another operation',
    [{ operation }, { operation }, { operation: 'barrier()' }],
    'rank 2 calls barrier(), rank 0 averageGradients(); call the same operations on all ranks, in the same order',
  ],
  [
    'another shape, of the first rank that differs',
    [
      { operation, tensors: [a, b] },
      { operation, tensors: [a, b] },
      { operation, tensors: [a, tensor('b', 'of shape [5]', 'on cpu')] },
      { operation, tensors: [tensor('a', 'of shape [1]', 'on cuda'), b] },
    ],
    `rank 2 has parameter 'b' of shape [5], rank 0 of shape [4]; ${model}`,
  ],
  [
    'another device',
    [
      { operation, tensors: [a] },
      { operation, tensors: [tensor('a', 'of shape [2, 3]', 'on cuda')] },
    ],
    `rank 1 has parameter 'a' on cuda, rank 0 on cpu; ${model}`,
  ],
  [
    'another order',
    [
      { operation, tensors: [a, b] },
      { operation, tensors: [b, a] },
    ],
    `rank 1 has 'b' as parameter 0, rank 0 'a' as parameter 0; ${model}`,
  ],
  [
    'fewer parameters',
    [
      { operation, tensors: [a, b] },
      { operation, tensors: [a] },
    ],
    `rank 1 has no parameter 1, rank 0 'b' as parameter 1; ${model}`,
  ],
  [
    'more parameters',
    [
      { operation, tensors: [a] },
      { operation, tensors: [a, b] },
    ],
    `rank 1 has 'b' as parameter 1, rank 0 no parameter 1; ${model}`,
  ],
  [
    'a setting',
    [
      { operation, tensors: [a], settings: settings(8) },
      { operation, tensors: [a], settings: settings(16) },
    ],
    'rank 1 has bucketBytes 16, rank 0 8; pass the same',
  ],
])('%s', async (_, descriptions, expected) => {
  const messages = await told(descriptions)
  const operations = descriptions.map((each) => each.operation)
  expect(messages).toEqual(
    operations.map((own) =>
      expected === 'fine' ? 'fine' : `${own}: the ranks differ: ${expected}; nothing has been written`,
    ),
  )
})

it('another version of the package, whose descriptions are not compared', async () => {
  const [first, second] = await told([{ operation }, { operation, tensors: [a] }], (key, rank) =>
    rank === 0 ? key : key.replace(/ \S+ /, ' 9.9.9 '),
  )
  expect(first).toMatch(
    /rank 1 has lily-kernels 9\.9\.9, rank 0 \d+\.\d+\.\d+\S*; install the same version on all machines/,
  )
  expect(second).toBe(first)
})
