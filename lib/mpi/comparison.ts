/**
 * Compares what the ranks do. Every operation exchanges a key; where keys differ, nothing has been written, and all ranks
 * exchange descriptions and reject with the first difference.
 */
import { LilyError } from '../base/errors.js'
import { packageRoot } from '../binding/root.js'
import { settled } from '../binding/errors.js'
import type { NativeMpi } from '../binding/native.js'

const { createHash } = process.getBuiltinModule('node:crypto')
const { readFileSync } = process.getBuiltinModule('node:fs')

/** What a rank does. */
export interface Description {
  /** Such as 'averageGradients()'. */
  readonly operation: string
  /** What has to be alike, by what errors call it, in the order in which it is compared. */
  readonly settings?: Readonly<Record<string, Setting>>
  /** The arrays in their order. */
  readonly tensors?: readonly TensorDescription[]
}

export interface Setting {
  readonly value: string | number
  /** What to do if it differs. */
  readonly remedy: string
}

export interface TensorDescription {
  readonly name: string
  /** Such as 'of shape [8, 256]', in the order in which they are compared. */
  readonly properties: readonly string[]
}

const { version } = JSON.parse(readFileSync(`${packageRoot}/package.json`, 'utf8')) as { version: string }

/** Characters of a digest. */
const DIGEST = 32

/**
 * Calls an operation of the addon.
 *
 * @param call the operation with its key; it gives the keys of all ranks if they differ
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT on all ranks if they differ
 */
export async function agreed<T>(
  mpi: NativeMpi,
  description: Description,
  call: (key: string) => Promise<T | string[]>,
): Promise<T> {
  const { operation, settings = {}, tensors = NO_TENSORS } = description
  const digest = digestOf([JSON.stringify(settings), digestOfTensors(tensors)])
  const result = await settled(call(keyOf(operation, digest)))
  if (!isKeys(result)) return result
  const text = JSON.stringify(description)
  throw refused(operation, differenceOfKeys(result) ?? (await differenceOfDescriptions(mpi, operation, text)))
}

const NO_TENSORS: readonly TensorDescription[] = []
/** By the list: each step has the same one. */
const digests = new WeakMap<readonly TensorDescription[], string>()

function digestOfTensors(tensors: readonly TensorDescription[]): string {
  const digest = digests.get(tensors) ?? digestOf([JSON.stringify(tensors)])
  digests.set(tensors, digest)
  return digest
}

/** A digest of texts and of numbers. */
export function digestOf(parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex').slice(0, DIGEST)
}

function isKeys(result: unknown): result is string[] {
  return Array.isArray(result) && typeof result[0] === 'string'
}

function keyOf(operation: string, digest: string): string {
  return `${operation} ${version} ${digest}`
}

/** The operations and the versions are in the keys, because versions may describe operations differently. */
function differenceOfKeys(keys: readonly string[]): string | null {
  const [first, ...others] = keys.map((key) => key.split(' '))
  for (const [i, [operation, ofPackage]] of others.entries()) {
    if (operation !== first[0]) {
      return `rank ${i + 1} calls ${operation}, rank 0 ${first[0]}; call the same operations on all ranks, in the same order`
    }
    if (ofPackage !== first[1]) {
      return `rank ${i + 1} has lily-kernels ${ofPackage}, rank 0 ${first[1]}; install the same version on all machines`
    }
  }
  return null
}

async function differenceOfDescriptions(mpi: NativeMpi, operation: string, text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text)
  const all = await settled(mpi.gather(operation, keyOf(operation, 'descriptions'), bytes))
  const decoder = new TextDecoder()
  const difference = firstDifference(all.map((each) => JSON.parse(decoder.decode(each as Uint8Array)) as Description))
  if (difference === null) throw new Error('keys differ, and descriptions do not')
  return difference
}

/** The first difference from rank 0: of any rank in its arrays, then of any rank in a setting. Null if there is none. */
function firstDifference([first, ...others]: readonly Description[]): string | null {
  for (const [i, other] of others.entries()) {
    const difference = differenceOfTensors(first.tensors ?? [], other.tensors ?? [], i + 1)
    if (difference !== null) return difference
  }
  // A rank has settings that others lack if only it calls an operation through an optimiser.
  const remedies = new Map(
    [first, ...others].flatMap(({ settings = {} }) =>
      Object.entries(settings).map(([what, { remedy }]) => [what, remedy]),
    ),
  )
  for (const [what, remedy] of remedies) {
    const value = first.settings?.[what]?.value ?? 'none'
    for (const [i, { settings }] of others.entries()) {
      const given = settings?.[what]?.value ?? 'none'
      if (given !== value) return `rank ${i + 1} has ${what} ${given}, rank 0 ${value}; ${remedy}`
    }
  }
  return null
}

function differenceOfTensors(
  first: readonly TensorDescription[],
  other: readonly TensorDescription[],
  rank: number,
): string | null {
  const remedy = 'create the same model on all ranks, from the same layers and options'
  for (let i = 0; i < Math.max(first.length, other.length); i++) {
    const [a, b] = [first.at(i), other.at(i)]
    if (a?.name !== b?.name) return `rank ${rank} has ${nameOf(b, i)}, rank 0 ${nameOf(a, i)}; ${remedy}`
    const at = a?.properties.findIndex((property, j) => property !== b?.properties[j]) ?? -1
    if (at !== -1) {
      return `rank ${rank} has parameter '${a?.name}' ${b?.properties[at]}, rank 0 ${a?.properties[at]}; ${remedy}`
    }
  }
  return null
}

function nameOf(tensor: TensorDescription | undefined, i: number): string {
  return tensor === undefined ? `no parameter ${i}` : `'${tensor.name}' as parameter ${i}`
}

function refused(operation: string, difference: string): LilyError {
  return new LilyError('ERR_LILY_ARGUMENT', `${operation}: the ranks differ: ${difference}; nothing has been written`)
}
