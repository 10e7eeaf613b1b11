/**
 * Workspaces of the CPU backend: their memory is used again, a limited amount of it is kept, and a call may find none.
 * Where the memory begins that the package allocates.
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeEach, expect, test } from 'vitest'
import { native, type Native } from '../../lib/binding/native.js'
import {
  emptyCache,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  LilyModel,
  memoryStats,
  tensor,
} from '../../lib/index.js'
import { smallOperands } from '../support/small.js'

const stats = () => memoryStats({ type: 'cpu' })

beforeEach(() => {
  emptyCache()
  expect(stats()).toMatchObject({ bytesInUse: 0, bytesCached: 0, blocksInUse: 0, blocksCached: 0 })
})

function smallCall(): void {
  const { dy, ...operands } = smallOperands()
  lilyBackward({ dy }, lilyForward(operands).saved)
}

test('calls of the same sizes allocate once', () => {
  smallCall()
  const { allocations, blocksCached, bytesCached, bytesInUse } = stats()
  expect(blocksCached).toBeGreaterThan(0)
  expect(bytesCached).toBeGreaterThan(0)
  expect(bytesInUse).toBe(0)
  smallCall()
  expect(stats()).toMatchObject({ allocations, blocksCached, bytesCached })
})

test('each pending call has a workspace of its own', async () => {
  const { dy, ...operands } = smallOperands()
  const { saved } = lilyForward(operands)
  const pending = [
    ...Array.from({ length: 3 }, () => lilyForwardAsync(operands)),
    ...Array.from({ length: 2 }, () => lilyBackwardAsync({ dy }, saved, { retain: true })),
  ]
  expect(stats().blocksInUse).toBe(pending.length)
  await Promise.all(pending)
  expect(stats().blocksInUse).toBe(0)
})

test('what is more than 1 GiB is not kept', () => {
  smallCall()
  const { allocations } = stats()
  // The workspace of backward has room for db in float32, twice the bytes of b. There is no token, so nobody reads b or
  // writes to the workspace, and neither takes memory.
  const [experts, rank, dOut] = [64, 64, 65600]
  const half = (...shape: number[]) => ({
    data: new Uint16Array(shape.reduce((product, size) => product * size)),
    shape,
    dtype: 'bfloat16' as const,
  })
  const weights = { data: new Float32Array(2 * experts), shape: [2, experts] }
  const operands = { x: half(0, 8), a: half(rank, 8), b: half(experts, rank, dOut) }
  const { saved } = lilyForward(operands, { routing: 'fixed', weights, sequenceOffsets: [0, 0, 0] })
  lilyBackward({ dy: half(0, dOut) }, saved, { needs: { da: false, db: false } })
  expect(stats().peakBytesInUse).toBeGreaterThan(2 ** 30)
  expect(stats().allocations).toBeGreaterThan(allocations)
  expect(stats().bytesInUse).toBe(0)
  expect(stats().bytesCached).toBeLessThan(2 ** 30)
})

test('a call without memory for its workspace has the code of that, and later calls run', async () => {
  const cwd = fileURLToPath(new URL('../programs', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['no-memory.js'], { cwd })
  expect(stdout.trim().split('\n')).toEqual([
    'forward ran',
    'backward: ERR_LILY_OUT_OF_MEMORY',
    'backwardAsync: ERR_LILY_OUT_OF_MEMORY',
    'forward with dropout: ERR_LILY_OUT_OF_MEMORY, it has changed nothing',
    'forward with dropout: ERR_LILY_OUT_OF_MEMORY, it has changed nothing',
    'forwardAsync with dropout: ERR_LILY_OUT_OF_MEMORY, it has changed nothing',
    'measureRoof: ERR_LILY_OUT_OF_MEMORY',
    'a smaller call ran',
  ])
})

const addressOf = (data: ArrayBufferView) => native.hostAddress(data)

test('what the package allocates begins with a cache line', () => {
  const [tokens, dIn, dOut, rank] = [40, 72, 56, 30]
  const layers = [{ name: 'layer', inFeatures: dIn, outFeatures: dOut }]
  const model = LilyModel.create({ layers, config: { r: rank, numB: 2 } })
  const layer = model.layer('layer')
  const { y, saved } = layer.forward({ x: tensor(new Float32Array(tokens * dIn), [tokens, dIn]) })
  const dx = layer.backward({ dy: y, saved })
  const parameters = [...model.parameters().values()]
  const allocated = [y, dx, ...parameters.flatMap(({ value, grad }) => [value, grad])]
  const large = allocated.map(({ data }) => data as Float32Array).filter(({ byteLength }) => byteLength >= 4096)
  expect(large).toHaveLength(6)
  for (const data of large) {
    expect(addressOf(data) % 64).toBe(0)
    expect(data.buffer.byteLength).toBe(data.byteLength + 64)
  }
})

test.each([0, 5000, 2 ** 23])('of a block of %i bytes: the memory around it is zeroed', (bytes) => {
  for (const begin of [0, 1, 64, 4095]) {
    const memory = new Uint8Array(bytes + 8192).fill(7).subarray(begin)
    const offset = (native as Native).placeHostBlock(memory, bytes)
    expect(offset).toBeLessThan(64)
    expect(addressOf(memory.subarray(offset)) % 64).toBe(0)
    const expected = new Uint8Array(memory.length).fill(7, offset, offset + bytes)
    expect(Buffer.compare(memory, expected)).toBe(0)
    expect([...new Uint8Array(memory.buffer, 0, begin)].every((byte) => byte === 7)).toBe(true)
  }
})

test.each([5000 - 63, -1, 0.5, 2 ** 50])('there is no block of %d bytes in 5000 bytes', (bytes) => {
  const memory = new Uint8Array(5000).fill(7)
  expect(() => (native as Native).placeHostBlock(memory, bytes)).toThrow(
    expect.objectContaining({ code: 'ERR_LILY_ARGUMENT' }),
  )
  expect(memory.every((byte) => byte === 7)).toBe(true)
})

const glibc = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header.glibcVersionRuntime

test('results of calls are memory that the process has had before', async ({ skip }) => {
  skip(glibc === undefined, 'the malloc of this process is not that of glibc')
  const cwd = fileURLToPath(new URL('../programs', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['page-faults.js'], { cwd })
  // y has 384 pages of 4 KiB.
  expect(Number(stdout)).toBeLessThan(38)
})

test('emptyCache returns to the system what many results at once have taken', { timeout: 60_000 }, async ({ skip }) => {
  skip(glibc === undefined, 'the malloc of this process is not that of glibc')
  const cwd = fileURLToPath(new URL('../programs', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', 'burst.js'], { cwd })
  const { before, during, emptied } = JSON.parse(stdout) as Record<'before' | 'during' | 'emptied', number>
  expect(during - before).toBeGreaterThan(300 * 2 ** 20) // y of each of the 300 calls has 1 MiB
  expect(emptied - before).toBeLessThan(64 * 2 ** 20)
})
