/** What the programs have in common: their input, and their answers to the test. See test/support/mpi.ts. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { LilyError, type Tensor, type TensorLike } from '../../../lib/index.js'

const folder = process.env.LILY_TEST_FOLDER!
const file = (name: string) => join(folder, name)

/** The rank as the launcher announces it, before init(). */
export const announcedRank = Number(process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK ?? 0)

export const input = (): unknown => deserialize(readFileSync(file('input')))

export function answer(rank: number, value: unknown): void {
  writeFileSync(file(`answer.${rank}`), serialize(value))
}

/** Tells the other ranks something, without the library under test. */
export function mark(name: string): void {
  writeFileSync(file(`mark.${name}`), '')
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits until another rank has marked this. */
export async function marked(name: string): Promise<void> {
  while (!existsSync(file(`mark.${name}`))) await sleep(10)
}

export interface Refusal {
  readonly code: string
  readonly message: string
}

/** What a call was refused with; null if it was not. */
export async function refusalOf(call: () => unknown): Promise<Refusal | null> {
  try {
    await call()
    return null
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    return { code: error.code, message: error.message }
  }
}

/** A copy of the bytes of a tensor on any device. */
export async function bytesOf(value: TensorLike): Promise<Uint8Array> {
  const { data } = await (value as Tensor).toHost()
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
}

/** A copy of the bytes of some values by name. */
export async function bytesOfAll<V>(
  map: ReadonlyMap<string, V>,
  get: (entry: V) => TensorLike,
): Promise<Map<string, Uint8Array>> {
  const copies = new Map<string, Uint8Array>()
  for (const [name, entry] of map) copies.set(name, await bytesOf(get(entry)))
  return copies
}
