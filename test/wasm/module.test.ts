/** What is particular to WebAssembly: the memory of the module, its threads, its choice. The project `wasm` runs it. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { gzipSync } from 'node:zlib'
import { beforeEach, describe, expect, test } from 'vitest'
import { AdamW, backends, lilyForward, lilyForwardAsync, LilyModel, loraForward, tensor } from '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { packageRoot } from '../../lib/binding/root.js'
import { dtype } from '../../lib/binding/slots.js'
import * as tables from '../../lib/binding/tables.js'
import { loadModule } from '../../lib/binding/wasm/load.js'
import type { WasmNative } from '../../lib/binding/wasm/native.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'
import { unshareMemory } from '../../lib/binding/wasm/unshare.js'
import { argumentsOf, operandOf } from '../binding/encoding.js'
import { runCli } from '../support/cli.js'
import { gaussian, randomFrom } from '../support/random.js'
import { smallOperands } from '../support/small.js'

const missing = existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))
  ? undefined
  : 'WebAssembly is not built; npm run build:wasm says why'
beforeEach((context) => {
  if (missing !== undefined) context.skip(missing)
})

const { copied } = native as WasmNative
const random = randomFrom(7)
/** A tensor in the memory of the module. */
const resident = (...shape: number[]) =>
  tensor(
    [
      ...gaussian(
        random,
        shape.reduce((product, size) => product * size, 1),
      ),
    ],
    shape,
  )

describe('the choice', () => {
  test('bench --threads sets the threads, which are read when the package is imported', async () => {
    const args = ['bench', '--threads', '1', '--shape', '8,8,2,2', '--quick', '--seconds', '0.1', '--json']
    const { code, stdout } = await runCli(args, { LILY_CPU_ISA: 'wasm' })
    expect(code).toBe(0)
    const [{ machine }] = JSON.parse(stdout) as { machine: { detail: string; threads: number } }[]
    expect(machine).toMatchObject({ detail: 'wasm', threads: 1 })
  })

  test('LILY_CPU_ISA=wasm is SIMD128', () => {
    const [cpu, cuda] = backends()
    expect(cpu).toMatchObject({
      name: 'cpu',
      available: true,
      reason: 'LILY_CPU_ISA=wasm',
      devices: [{ simd: 'wasm' }],
    })
    expect(cuda).toMatchObject({ name: 'cuda', available: false })
    expect(cuda.reason).toMatch(/requires the native addon/)
    expect(() => tensor([1], [1]).to({ type: 'cuda' })).toThrow(/cuda:0 is not available: .*requires the native addon/)
  })

  test('the addon reads the same lists', (context) => {
    const addon = join(packageRoot, 'build/Release/lily.node')
    if (!existsSync(addon)) return context.skip('the addon is not built')
    const print = 'console.log(require(process.argv[1]).signature)'
    const { stdout } = spawnSync(process.execPath, ['-e', print, addon], { encoding: 'utf8' })
    expect(stdout.trim()).toBe(native.signature)
  })

  test('doctor gives the reason of the backend, and not as that of the addon', async () => {
    const { code, stdout } = await runCli(['doctor'], { LILY_NUM_THREADS: '0' })
    expect(code).toBe(1)
    expect(stdout).toMatch(/^addon +not in use$/m)
    expect(stdout).toMatch(/^cpu +not available: LILY_NUM_THREADS must be/m)
  })

  test('both builds together take at most 400 KB, compressed', () => {
    const bytes = ['wasm', 'wasm-relaxed'].map(
      (build) => gzipSync(readFileSync(join(packageRoot, `build/wasm/${build}.wasm`)), { level: 9 }).length,
    )
    expect(bytes[0] + bytes[1]).toBeLessThan(400_000)
  })
})

/** Collects garbage, and resolves once the callbacks of FinalizationRegistry have run. */
async function collect(): Promise<void> {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  let isFinal = false
  const registry = new FinalizationRegistry(() => (isFinal = true))
  registry.register({}, undefined)
  while (!isFinal) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  // Each registry has a turn of its own.
  await new Promise((resolve) => setTimeout(resolve, 20))
}

describe('the memory', () => {
  test('a training loop over tensors copies nothing', () => {
    const [tokens, width] = [24, 16]
    const model = LilyModel.create({
      layers: [0, 1].map((l) => ({ name: `layers.${l}.proj`, inFeatures: width, outFeatures: width })),
      config: { r: 4, numB: 2, targetModules: ['proj'] },
      seed: 3,
    })
    const optimiser = new AdamW(model.parameters(), { lr: 0.01, maxNorm: 1 })
    const x = resident(tokens, width)
    const dy = resident(tokens, width)
    const dx = resident(tokens, width)
    const before = { ...copied }
    for (let step = 0; step < 5; step++) {
      model.zeroGrad()
      const first = model.layer('layers.0.proj').forward({ x })
      const second = model.layer('layers.1.proj').forward({ x: first.y })
      const gradient = model.layer('layers.1.proj').backward({ dy, saved: second.saved })
      model.layer('layers.0.proj').backward({ dy: gradient, saved: first.saved, dx })
      optimiser.step()
    }
    expect(copied).toEqual(before)
  })

  test('other operands are copied once in, and outputs back, without the gaps between their rows', () => {
    const [tokens, width, rank, experts, pitch] = [6, 8, 4, 2, 11]
    const a = resident(rank, width)
    const router = resident(experts, rank)
    const b = resident(experts, rank, width)
    const x = { data: gaussian(random, tokens * pitch), shape: [tokens, width], strides: [pitch, 1] }
    const y = { data: new Float32Array(tokens * pitch).fill(7), shape: [tokens, width], strides: [pitch, 1] }
    const before = { ...copied }
    lilyForward({ x, a, router, b, y }, { save: false })
    const bytes = 4 * tokens * width
    expect(copied).toEqual({ in: before.in + 2 * bytes, out: before.out + bytes })
    lilyForward({ x, a, router, b, y }, { save: false, accumulate: false })
    expect(copied).toEqual({ in: before.in + 3 * bytes, out: before.out + 2 * bytes })
    y.data.forEach((value, i) => {
      if (i % pitch >= width) expect(value).toBe(7)
      else expect(value).not.toBe(7)
    })
  })

  test.each([1, 2, 8])('%d adapters of one call copy each operand once', (count) => {
    const [tokens, dIn, dOut, rank] = [19, 12, 20, 3]
    const adapterOf = Array.from({ length: tokens }, (_, t) => ((t * 5) % (count + 1)) - 1)
    const rankOffsets = Array.from({ length: count + 1 }, (_, k) => k * rank)
    const x = gaussian(random, tokens * dIn)
    const a = gaussian(random, count * rank * dIn)
    const b = resident(dOut, count * rank)
    const y = { data: new Float32Array(tokens * dOut).fill(7), shape: [tokens, dOut] }
    const operands = { x: { data: x, shape: [tokens, dIn] }, a: { data: a, shape: [count * rank, dIn] }, b, y }
    const before = { ...copied }
    loraForward(operands, { rankOffsets, adapterOf, accumulate: false, save: false })
    expect(copied).toEqual({ in: before.in + 4 * (x.length + a.length), out: before.out + 4 * tokens * dOut })

    const rowOf = (of: { data: ArrayLike<number> }, t: number) => [
      ...Array.from(of.data).slice(t * dOut, (t + 1) * dOut),
    ]
    for (const [t, k] of adapterOf.entries()) {
      // The adapter of one row alone.
      const alone = {
        x: { data: x.subarray(t * dIn, (t + 1) * dIn), shape: [1, dIn] },
        a: { data: a.subarray(k * rank * dIn, (k + 1) * rank * dIn), shape: [rank, dIn] },
        b: { data: b.data.subarray(k * rank), shape: [dOut, rank], strides: [count * rank, 1] },
      }
      const expected = k < 0 ? new Array<number>(dOut).fill(0) : rowOf(loraForward(alone, { save: false }).y, 0)
      expect(rowOf(y, t)).toEqual(expected)
    }
  })

  test('a result outlives its tensor as long as any array over it', async () => {
    const { x, a, router, b } = smallOperands()
    const forward = () => lilyForward({ x, a, router, b }, { save: false }).y.data
    const expected = [...forward()]
    // Views of a result whose own array is gone: the next results must not take its memory.
    const views = () => {
      const { buffer, byteOffset } = forward()
      return [forward().subarray(0, 4), new Float32Array(buffer as SharedArrayBuffer, byteOffset, 4)]
    }
    const kept = Array.from({ length: 50 }, views).flat()
    for (let round = 0; round < 5; round++) {
      await collect()
      for (let i = 0; i < 200; i++) native.allocateHost?.(96)
      for (let i = 0; i < 200; i++) tensor(new Array<number>(24).fill(99), [24])
    }
    for (const view of kept) expect([...view]).toEqual(expected.slice(0, 4))
  })

  test('the memory of dropped results is used again', async () => {
    const megabyte = 2 ** 20
    const grown = async () => {
      for (let i = 0; i < 100; i++) native.allocateHost?.(megabyte)
      await collect()
      return (native.allocateHost?.(4) as { buffer: SharedArrayBuffer }).buffer.byteLength
    }
    const first = await grown()
    let last = first
    for (let round = 0; round < 8; round++) last = await grown()
    // 800 MiB were allocated meanwhile.
    expect(last - first).toBeLessThan(200 * 2 ** 20)
  })

  test('a call beyond the memory of WebAssembly is refused, and the next one works', () => {
    // The hidden states have 3.75 GiB, and the memory of the module less than that beside these.
    const held = [0, 1].map(() => native.allocateHost?.(200 * 2 ** 20))
    const [tokens, rank] = [2 ** 20, 960]
    const x = { data: new Float32Array(tokens), shape: [tokens, 1] }
    const operands = { x, a: resident(rank, 1), router: resident(1, rank), b: resident(1, rank, 1) }
    expect(() => lilyForward(operands, { save: false })).toThrow(
      expect.objectContaining({
        code: 'ERR_LILY_OUT_OF_MEMORY',
        message: expect.stringContaining('the memory of WebAssembly') as string,
      }) as Error,
    )
    expect(held).toHaveLength(2)
    const { dy: _, ...small } = smallOperands()
    expect(lilyForward(small).y.shape).toEqual([6, 4])
  })
})

test('sizes beyond 32 bits are no sizes of an allocation', () => {
  const module = loadModule(nodeHost, 'wasm')
  const call = module.allocate('a call', module.callBytes)
  /** Writes a call, of whose operands there are none but the sizes. */
  const written = (operation: 'forward' | 'pack', numbers: Record<string, number>, given: readonly string[]) => {
    const slots = tables[operation].slots.filter(({ name }) => given.includes(name))
    const operands = Object.fromEntries(slots.map((slot) => [slot.name, operandOf(slot, numbers)]))
    const [all, ...rest] = argumentsOf({ operation, numbers, slots: operands, items: [] })
    const at = module.allocate('numbers', all.byteLength)
    new Float64Array(module.memory.buffer, at, all.length).set(all)
    const memory = module.allocate('operands', 16 * rest.length)
    module.bytes(memory, 16 * rest.length).fill(0)
    for (const [slot, { name }] of tables[operation].slots.entries()) {
      if (!given.includes(name)) continue
      module.view.setUint32(memory + 16 * slot, 64, true)
      module.view.setBigInt64(memory + 16 * slot + 8, 2n ** 47n, true)
    }
    return [at, all.length, memory, rest.length]
  }
  const types = { activationDtype: dtype.float32, parameterDtype: dtype.float32 }
  // hidden alone has 2^43 bytes, and a workspace of its size modulo 2^32 would be small.
  const forward = { ...types, tokens: 2 ** 30, dIn: 1, dOut: 1, rank: 2048, experts: 1, groups: 1 }
  module.read('lily_wasm_read', ...written('forward', forward, ['x', 'a', 'router', 'b', 'y']), call)
  module.check(module.exports.lily_wasm_workspace_bytes(call, module.scratch))
  expect(module.view.getUint32(module.scratch, true)).toBe(2 ** 32 - 1)
  expect(module.tryAllocate(2 ** 32 - 1)).toBeNull()
  // A packed weight of 2^34 bytes.
  const pack = { ...types, tokens: 512, dIn: 2 ** 16, dOut: 2 ** 16 }
  module.read('lily_wasm_packed_bytes', ...written('pack', pack, ['weight']), module.scratch)
  expect(module.view.getUint32(module.scratch, true)).toBe(2 ** 32 - 1)
})

describe('the async forms', () => {
  test('run beside the main thread, many at once, with the bits of the others', async () => {
    const { x, a, router, b } = smallOperands()
    const { y } = lilyForward({ x, a, router, b }, { save: false })
    const results = await Promise.all(Array.from({ length: 20 }, () => lilyForwardAsync({ x, a, router, b })))
    for (const result of results) expect([...result.y.data]).toEqual([...y.data])
  })

  test('an output that is transferred meanwhile is reported', async () => {
    const [tokens, width] = [64, 1024]
    const operands = {
      x: resident(tokens, width),
      a: resident(1, width),
      router: resident(1, 1),
      b: resident(1, 1, width),
    }
    const y = { data: new Float32Array(tokens * width), shape: [tokens, width] }
    const result = lilyForwardAsync({ ...operands, y })
    structuredClone(y.data.buffer, { transfer: [y.data.buffer] })
    await expect(result).rejects.toMatchObject({ code: 'ERR_LILY_ARGUMENT', argument: 'y' })
  })

  test('the event loop turns while one runs', async () => {
    const [tokens, width, rank] = [512, 1024, 64]
    const operands = {
      x: { data: new Float32Array(tokens * width).fill(0.5), shape: [tokens, width] },
      a: resident(rank, width),
      router: resident(2, rank),
      b: resident(2, rank, width),
    }
    await lilyForwardAsync(operands) // its thread has started
    let turns = 0
    const turning = setInterval(() => turns++, 1)
    // Several: on a machine with other work this thread may get no time during one.
    for (let calls = 0; turns === 0 && calls < 50; calls++) await lilyForwardAsync(operands)
    clearInterval(turning)
    expect(turns).toBeGreaterThan(0)
  })
})

describe('memory that is not shared, as in a page that is not isolated', () => {
  const host = { ...nodeHost, sharesMemory: false }

  test('the module loads, on one thread', () => {
    const module = loadModule(host, 'wasm')
    expect(module.threads).toBe(1)
    expect(module.memory.buffer).toBeInstanceOf(ArrayBuffer)
  })

  test('other code is refused', () => {
    const empty = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0)
    expect(() => unshareMemory(empty)).toThrow('imports no shared memory')
  })
})
