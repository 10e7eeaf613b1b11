/** The plans of calls: dispatches, loads from storage, and the limits of devices, without a device. */
import { describe, expect, test } from 'vitest'
import type { BackwardCall, ForwardCall, Matrix, Output, Region, Sizes } from '../../lib/binding/gpu-call.js'
import type { Plan } from '../../lib/binding/gpu-pass.js'
import { planBackward } from '../../lib/webgpu/plan/backward.js'
import { planForward } from '../../lib/webgpu/plan/forward.js'
import { Problem } from '../../lib/webgpu/plan/problem.js'
import { planRest } from '../../lib/webgpu/plan/rows.js'
import { tileFor, TILES } from '../../lib/webgpu/plan/tiles.js'
import { excessOf } from '../../lib/webgpu/bindings.js'
import { join } from '../../lib/webgpu/join.js'
import { moduleOf, shaderOf } from '../../lib/webgpu/wgsl/module.js'
import { SEGMENT } from '../../lib/webgpu/wgsl/shrink.js'
import { tileBytes, tileThreads } from '../../lib/webgpu/wgsl/product.js'
import { loadsOf } from './loads.js'

/** The limits that every device has. */
const limits = {
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxBufferSize: 256 * 2 ** 20,
  minStorageBufferOffsetAlignment: 256,
  maxStorageBuffersPerShaderStage: 8,
  maxUniformBufferBindingSize: 65536,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
} as GPUSupportedLimits

/** Limits with more workgroup memory, in KiB, and more threads. */
const limitsOf = (storage: number, threads: number): GPUSupportedLimits => ({
  ...limits,
  maxComputeWorkgroupStorageSize: storage * 1024,
  maxComputeInvocationsPerWorkgroup: threads,
  maxComputeWorkgroupSizeX: threads,
})

/** What devices have: the least, that of most GPUs, more of one than of the other, and little more than the largest tiles. */
const LIMITS = [
  limits,
  limitsOf(32, 256),
  limitsOf(16, 512),
  limitsOf(22, 512),
  limitsOf(32, 512),
  limitsOf(32, 1024),
  limitsOf(64, 1024),
]

/** A buffer that is only compared. */
const buffer = (size: number) => ({ size }) as GPUBuffer
const region = (elements: number): Region => ({ buffer: buffer(elements * 4), byteOffset: 0 })
const matrix = (rows: number, cols: number): Matrix => ({ ...region(rows * cols), dtype: 'float32', pitch: cols })
const output = (rows: number, cols: number, accumulate = true): Output => ({ ...matrix(rows, cols), accumulate })

interface Shape extends Partial<Sizes> {
  mask?: boolean
  offsets?: boolean
  accumulate?: boolean
  deferB?: boolean
  dWeights?: boolean
}

function calls(shape: Shape): { forward: ForwardCall; backward: BackwardCall } {
  const sizes: Sizes = {
    routing: 'batch',
    pool: 'probabilities',
    activation: 'none',
    scaling: 1,
    tokens: 1024,
    dIn: 1024,
    dOut: 1024,
    rank: 16,
    experts: 4,
    groups: 1,
    dropout: 0,
    ...shape,
  }
  const { routing, tokens, dIn, dOut, rank, experts, groups, dropout } = sizes
  const isRouted = routing === 'batch' || routing === 'sequence' || routing === 'token'
  const routerCols = isRouted ? rank : routing === 'learned' ? 1 : null
  const isLora = routing === 'none'
  const rowsOfB = isLora ? ([dOut, rank] as const) : ([experts * rank, dOut] as const)
  const out = (rows: number, cols: number) => output(rows, cols, shape.accumulate ?? true)
  const inputs = {
    ...sizes,
    x: matrix(tokens, dIn),
    a: matrix(rank, dIn),
    b: matrix(...rowsOfB),
    router: routerCols === null ? null : matrix(experts, routerCols),
    mask: shape.mask ? region(tokens) : null,
    draw: dropout === 0 ? null : [1, 2, 3, 4],
    sequenceOffsets: shape.offsets ? region(groups + 1) : null,
    hidden: matrix(tokens, rank),
    probabilities:
      isRouted && (routing === 'token' || sizes.pool === 'probabilities') ? region(tokens * experts) : null,
    weights: isLora || routing === 'token' ? null : region(groups * experts),
  }
  return {
    forward: { ...inputs, uncheckedOffsets: shape.offsets ? region(groups + 1) : null, y: out(tokens, dOut) },
    backward: {
      ...inputs,
      dy: matrix(tokens, dOut),
      dx: out(tokens, dIn),
      da: out(rank, dIn),
      dRouter: routerCols === null ? null : out(experts, routerCols),
      dWeights: shape.dWeights ? out(groups, experts) : null,
      db: shape.deferB ? null : out(...rowsOfB),
      deferredDb: shape.deferB
        ? region((routing === 'token' ? experts : Math.min(groups, experts)) * rank * dOut)
        : null,
    },
  }
}

/** Bytes that one load of each operand is, in float32: outputs count if they accumulate. */
function fewestLoads(shape: Shape): { forward: number; backward: number } {
  const { tokens, dIn, dOut, rank, experts, accumulate } = shape as Required<Shape>
  const parameters = rank * dIn + experts * rank * (dOut + 1)
  return {
    forward: 4 * (tokens * (dIn + (accumulate ? dOut : 0)) + parameters),
    backward: 4 * (tokens * (dIn + dOut + (accumulate ? dIn : 0)) + (accumulate ? 2 : 1) * parameters),
  }
}

/**
 * At most 2.0 times the fewest, except two numbers of the default limits, whose 256 threads own 16384 sums at most. Then the
 * expand of 512 x 2048 outputs at r = 64, which forms C from the four experts, loads 8.4 MB whatever its tile (4.2 MB of B for
 * 256 tokens, and 4.2 MB of h for 64 columns): with x, A and the partial sums of h it exceeds twice the 6.8 MB of x, A and B.
 * Backward loads dy twice, because neither the partial sums of q nor those of D are smaller than it at this rank: 8.4 MB, with x
 * 4.2 and B 2.1; dx of 128 x 128 tiles adds 4.2 MB of dh and A, and h, dh, C and the partial sums of q, D and dA, of tiles of as
 * many sums, the rest.
 */
describe('loads from storage, of the fewest that the operands allow', () => {
  const small: Shape = { tokens: 1024, dIn: 1024, dOut: 1024, rank: 16, experts: 4 }
  const large: Shape = { tokens: 512, dIn: 2048, dOut: 2048, rank: 64, experts: 4 }
  const more = limitsOf(32, 512)
  test.each([
    ['default limits, accumulates', small, limits, true, 2, 2],
    ['default limits, overwrites', small, limits, false, 2, 2],
    ['default limits, accumulates', large, limits, true, 2, 2],
    ['default limits, overwrites', large, limits, false, 2.44, 2.24],
    ['32 KiB and 512 threads, accumulates', small, more, true, 2, 2],
    ['32 KiB and 512 threads, overwrites', small, more, false, 2, 2],
    ['32 KiB and 512 threads, accumulates', large, more, true, 2, 2],
    ['32 KiB and 512 threads, overwrites', large, more, false, 2, 2],
  ])('%s: %o', (name, sizes, of, accumulate, mostForward, mostBackward) => {
    const shape = { ...sizes, accumulate }
    const { forward, backward } = calls(shape)
    const fewest = fewestLoads(shape)
    const ofForward = loadsOf(planForward(forward, of)) / fewest.forward
    const ofBackward = loadsOf(planBackward(backward, of)) / fewest.backward
    console.log(`${name}: forward ${ofForward.toFixed(2)}, backward ${ofBackward.toFixed(2)} of the fewest loads`)
    expect(ofForward).toBeGreaterThan(1)
    expect(ofForward).toBeLessThanOrEqual(mostForward)
    expect(ofBackward).toBeGreaterThan(1)
    expect(ofBackward).toBeLessThanOrEqual(mostBackward)
  })

  test('no tile of 16384 sums loads less in the expand that combines B', () => {
    const { tokens, dOut, rank, experts } = large as Required<Shape>
    const loads = [32, 64, 128, 256, 512].map(
      (blockM) =>
        4 * rank * (experts * dOut * Math.ceil(tokens / blockM) + tokens * Math.ceil((dOut * blockM) / 16384)),
    )
    const { dIn } = large as Required<Shape>
    const shrink = 4 * ((tokens + rank) * dIn + tokens * rank * Math.ceil(dIn / SEGMENT))
    expect(Math.min(...loads) + shrink).toBeGreaterThan(2 * fewestLoads({ ...large, accumulate: false }).forward)
  })
})

/** Every mode, with few tokens and many. */
const MODES: readonly Shape[] = (
  [
    { routing: 'batch' },
    { routing: 'batch', pool: 'logits', mask: true },
    { routing: 'batch', deferB: true },
    { routing: 'batch', experts: 64, rank: 300 },
    { routing: 'sequence', groups: 5, offsets: true, mask: true },
    { routing: 'sequence', groups: 3, offsets: true, deferB: true },
    { routing: 'sequence', groups: 9, offsets: true, deferB: true },
    { routing: 'token' },
    { routing: 'token', deferB: true },
    { routing: 'uniform' },
    { routing: 'fixed' },
    { routing: 'fixed', groups: 5, offsets: true },
    { routing: 'fixed', dWeights: true, rank: 40 },
    { routing: 'fixed', groups: 5, offsets: true, dWeights: true },
    { routing: 'learned', rank: 40 },
    { routing: 'none', experts: 1 },
  ] satisfies Shape[]
)
  .flatMap((mode) => [0, 1, 70, 1000, 9000].map((tokens): Shape => ({ ...mode, tokens, dIn: 600, dOut: 700 })))
  // The pass of dx, dA and dw with the largest tiles.
  .concat({ routing: 'fixed', groups: 5, offsets: true, dWeights: true, rank: 40, tokens: 1000, dIn: 2048, dOut: 700 })

const DROPOUT = 6554

const NAMES = MODES.map((shape) => [JSON.stringify(shape), shape] as const)

/** Limits that the large problems of the list exceed by default. */
const unbound = { maxStorageBufferBindingSize: 2 ** 40, maxBufferSize: 2 ** 40 }
const roomy = { ...limits, ...unbound }

describe('passes', () => {
  test.each(NAMES)('%s: at most 3 forward and 6 backward', (_, shape) => {
    const { forward, backward } = calls(shape)
    expect(planForward(forward, limits).passes.length).toBeLessThanOrEqual(3)
    expect(planBackward(backward, roomy).passes.length).toBeLessThanOrEqual(6)
  })

  test.each(NAMES)('%s: within the limits of devices', (_, shape) => {
    for (const of of LIMITS) {
      const room = { ...of, ...unbound }
      const both = [shape, { ...shape, dropout: DROPOUT }].map((each) => calls(each))
      for (const [plan, call] of both.flatMap(({ forward, backward }) => [
        [planForward(forward, room), forward] as const,
        [planBackward(backward, room), backward] as const,
      ]))
        for (const pass of plan.passes) {
          const { bindings, code, grid } = moduleOf([shaderOf(pass, new Problem(call).common, room)])
          expect(bindings.length).toBeLessThanOrEqual(8)
          expect(Math.max(...grid)).toBeLessThanOrEqual(65535)
          expect(workgroupBytes(code)).toBeLessThanOrEqual(of.maxComputeWorkgroupStorageSize)
          expect(threadsOf(code)).toBeLessThanOrEqual(of.maxComputeInvocationsPerWorkgroup)
          for (const { offset, size } of bindings) expect([offset % 256, size % 4]).toEqual([0, 0])
        }
    }
  })

  test.each(NAMES)(
    '%s: dropout adds no pass, and changes the shaders that read x or write dh or dx alone',
    (_, shape) => {
      const [without, dropped] = [shape, { ...shape, dropout: DROPOUT }].map((each) => {
        const { forward, backward } = calls(each)
        return [planForward(forward, limits), planBackward(backward, roomy)].map(({ passes }, i) =>
          passes.map((pass) => ({
            names: pass.map(({ name }) => name),
            code: moduleOf([shaderOf(pass, new Problem([forward, backward][i]).common, roomy)]).code,
          })),
        )
      })
      const using = ['shrink', 'route', 'd_hidden', 'dx', 'da']
      for (const [i, plan] of without.entries()) {
        expect(dropped[i].map(({ names }) => names)).toEqual(plan.map(({ names }) => names))
        for (const [j, { names, code }] of plan.entries()) {
          expect(code).not.toContain('kept_bits')
          if (!names.some((name) => using.includes(name))) expect(dropped[i][j].code).toEqual(code)
          else expect(dropped[i][j].code).not.toEqual(code)
        }
      }
    },
  )

  test('gradients of weights add no pass to those of x and its parameters', () => {
    for (const groups of [{}, { groups: 5, offsets: true }]) {
      const counts = [false, true].map(
        (dWeights) => planBackward(calls({ routing: 'fixed', ...groups, dWeights }).backward, limits).passes.length,
      )
      expect(counts[1]).toBe(counts[0])
    }
    const { backward } = calls({ routing: 'learned' })
    expect(planBackward(backward, limits).passes).toHaveLength(
      planBackward({ ...backward, dRouter: null }, limits).passes.length,
    )
  })

  test('many workgroups fill a second dimension of the grid', () => {
    const { forward } = calls({ tokens: 200000, dIn: 16, dOut: 64000, rank: 4 })
    const pass = planForward(forward, limits).passes.at(-1)
    if (pass === undefined) throw new Error('no passes')
    const { grid } = moduleOf([shaderOf(pass, new Problem(forward).common, roomy)])
    expect(grid[0]).toBeLessThanOrEqual(65535)
    expect(grid[1]).toBeGreaterThan(1)
    expect(grid[0] * grid[1]).toBeGreaterThanOrEqual(pass[0].workgroups)
  })
})

/** Where the operands of stacked adapters are: those of all in one buffer, and what is kept or uploaded in one each. */
const kept = { buffer: buffer(2 ** 20) }
const uploaded = { buffer: buffer(2 ** 20) }
const PLACES: Readonly<Record<string, { buffer: GPUBuffer }>> = {
  ...Object.fromEntries(
    ['x', 'a', 'router', 'b', 'y', 'dy', 'dx', 'da', 'dRouter', 'db'].map((name) => [name, region(0)]),
  ),
  ...{ hidden: kept, probabilities: kept, weights: kept },
  ...{ mask: uploaded, sequenceOffsets: uploaded, index: uploaded, scale: uploaded },
}

/** A call of the adapter k of a list. */
function inList<Call extends ForwardCall | BackwardCall>(call: Call, k: number): Call {
  const place = (name: string): Region => {
    const isShared = ['x', 'y', 'dy', 'dx'].includes(name)
    const byteOffset = isShared ? 0 : k * 2 ** 20 + Object.keys(PLACES).indexOf(name) * 2 ** 15
    return { ...PLACES[name], byteOffset }
  }
  const placed = Object.entries(call).map(([name, value]: [string, unknown]) =>
    name in PLACES && value !== null ? [name, { ...(value as object), ...place(name) }] : [name, value],
  )
  const listed = { index: place('index'), rows: 4096, scale: place('scale') }
  return { ...(Object.fromEntries(placed) as Call), listed, ...('y' in call && { uncheckedOffsets: null }) }
}

/** The dispatches of lists of adapters of these shapes, and of more plans without sizes in common. */
function dispatches(shapes: readonly Shape[], of = limits, place = inList, more: readonly Plan[] = []) {
  const all = shapes.map((shape) => calls(shape))
  const forward = all.map((each, k) => place(each.forward, k))
  const backward = all.map((each, k) => place(each.backward, k))
  const planned = {
    forward: forward.map((call) => ({ plan: planForward(call, of), common: new Problem(call).common })),
    backward: backward.map((call) => ({ plan: planBackward(call, of), common: new Problem(call).common })),
  }
  const others = more.map((plan) => ({ plan, common: { params: {}, floats: {} } }))
  const modulesOf = (plans: (typeof planned)['forward']) =>
    join([...plans, ...others], of).flatMap(({ modules }) => modules)
  return { forward: modulesOf(planned.forward), backward: modulesOf(planned.backward) }
}

describe('lists', () => {
  const stacked = NAMES.filter(
    ([, { deferB, dWeights, rank, tokens }]) => !deferB && !dWeights && rank !== 300 && tokens === 70,
  )
  test.each(stacked)('%s: the dispatches do not grow with adapters', (_, shape) => {
    const lists = [1, 2, 8, 64].map((count) => dispatches(new Array<Shape>(count).fill(shape)))
    for (const name of ['forward', 'backward'] as const) {
      const counts = lists.map(({ [name]: modules }) => modules.length)
      expect(counts).toEqual(counts.map(() => counts[0]))
      expect(counts[0]).toBeLessThanOrEqual(name === 'forward' ? 3 : 6)
      for (const { uniforms, bindings } of lists.flatMap(({ [name]: modules }) => modules)) {
        expect(uniforms.byteLength).toBeLessThanOrEqual(limits.maxUniformBufferBindingSize)
        expect(bindings.length).toBeLessThanOrEqual(8)
      }
    }
  })

  const lora = (rank: number, tokens: number): Shape => ({ routing: 'none', experts: 1, rank, tokens })
  test('other tokens and ranks share them, as far as they take the same tiles', () => {
    expect(dispatches([lora(16, 70), lora(4, 1), lora(8, 9)]).forward).toHaveLength(3)
    expect(dispatches([lora(16, 70), lora(32, 1), lora(8, 9)]).forward).toHaveLength(4)
    // Of another kind, with other bindings.
    expect(dispatches([{ rank: 16, tokens: 70 }, lora(16, 70)]).forward).toHaveLength(5)
  })

  test('each workgroup is that of one call', () => {
    const [one, two] = [dispatches([lora(16, 70)]).forward, dispatches([lora(16, 70), lora(16, 70)]).forward]
    expect(two.map(({ grid }) => grid[0])).toEqual(one.map(({ grid }) => 2 * grid[0]))
  })

  test('parameters in buffers of their own share what does not bind them', () => {
    const own = <Call extends ForwardCall | BackwardCall>(call: Call, k: number): Call => {
      return { ...inList(call, k), a: call.a, b: call.b }
    }
    expect(dispatches(new Array<Shape>(8).fill(lora(16, 70)), limits, own).forward).toHaveLength(2 * 8 + 1)
  })

  test('rows of the base take a dispatch more, and the shaders of the adapters stay', () => {
    const out = inList(calls(lora(16, 70)).forward, 0).y
    const rest = planRest({ out: { ...out, accumulate: false }, rows: 4096, cols: 1024, index: region(9), count: 9 })
    for (const count of [1, 16, 64]) {
      const shapes = new Array<Shape>(count).fill(lora(16, 70))
      const codes = dispatches(shapes, limits, inList, [rest]).forward.map(({ code }) => code)
      expect(codes).toHaveLength(4)
      expect(codes.filter((code) => !code.includes('fn rest('))).toEqual(
        dispatches(shapes).forward.map(({ code }) => code),
      )
    }
  })

  test('more than 64 take their dispatches again', () => {
    expect(dispatches(new Array<Shape>(65).fill(lora(16, 70))).forward).toHaveLength(6)
  })

  test('what exceeds a limit together runs as two lists', () => {
    const narrow = { ...limits, maxStorageBufferBindingSize: 40 * 2 ** 20 }
    expect(dispatches(new Array<Shape>(64).fill(lora(16, 70)), narrow).forward).toHaveLength(6)
    // Their workspaces together: 64 x 4 x 70 x 16 partial sums of h, and h.
    const small = { ...limits, maxBufferSize: 2 ** 20 }
    expect(dispatches(new Array<Shape>(64).fill(lora(16, 70)), small).forward).toHaveLength(6)
  })

  test('a range of tokens takes its part of the index and of the factors', () => {
    const call = inList(calls({ routing: 'token', tokens: 2000, rank: 32 }).backward, 0)
    const { passes } = planBackward(call, { ...limits, maxStorageBufferBindingSize: 2 ** 20 })
    const ranges = passes.flat().flatMap(({ name, operands }) => (name === 'v' ? [operands.dy] : []))
    expect(ranges.length).toBeGreaterThan(1)
    let first = 0
    for (const dy of ranges) {
      const { index, scale } = dy!.listed!
      expect([dy!.byteOffset, index.byteOffset, scale?.byteOffset]).toEqual([
        call.dy.byteOffset,
        call.listed!.index.byteOffset + 4 * first,
        call.listed!.scale!.byteOffset + 4 * first,
      ])
      expect([index.cols, scale?.cols]).toEqual([dy!.rows, dy!.rows])
      first += dy!.rows
    }
    expect(first).toBe(2000)
  })
})

describe('stores', () => {
  test('of two outputs that share words of 16-bit numbers are atomic in both', () => {
    const { backward } = calls({ tokens: 64, dIn: 3, dOut: 8, rank: 64, experts: 2 })
    const shared = buffer(2048)
    // Columns 0 to 2 and 3 to 5: the rows of dx begin at whole words, those of da in the middle of the last words of dx.
    const place = (column: number): Output => {
      return { buffer: shared, byteOffset: 2 * column, dtype: 'bfloat16', pitch: 8, accumulate: false }
    }
    const call: BackwardCall = { ...backward, dx: place(0), da: place(3) }
    const codes = planBackward(call, limits).passes.map(
      (pass) => moduleOf([shaderOf(pass, new Problem(call).common, limits)]).code,
    )
    const both = codes.filter((code) => /fn dx_out_put4/.test(code) && /fn da_partials_put4/.test(code))
    expect(both).toHaveLength(1)
    for (const name of ['dx_out', 'da_partials']) {
      const [store] = new RegExp(`fn ${name}_put[12][^]*?\\n}`).exec(both[0])!
      expect(store).toMatch(/atomicAnd[^]*atomicOr/)
    }
  })
})

describe('tiles', () => {
  const all = Object.values(TILES).flat()

  test('every row fits into the limits of some device, and the last row of a table into those of all', () => {
    for (const rows of Object.values(TILES)) {
      const last = rows[rows.length - 1]
      expect(tileBytes(last.tile)).toBeLessThan(16384)
      expect(tileThreads(last.tile)).toBeLessThanOrEqual(256)
      expect([last.rows, last.columns, last.tiles]).toEqual([0, 0, 0])
    }
    for (const { tile } of all) {
      expect(tileBytes(tile)).toBeLessThan(32768)
      expect(tileThreads(tile)).toBeLessThanOrEqual(512)
      expect(tile.threadM * tile.threadN).toBeLessThanOrEqual(64)
    }
  })

  /** Every tile that some large problem takes with these limits. */
  const chosen = (of: GPUSupportedLimits) =>
    new Set(
      Object.values(TILES).flatMap((table) =>
        [1, 100, 300, 600, 3000, 9000].flatMap((rows) =>
          [8, 100, 4096].map((columns) => tileFor(table, rows, columns, of)),
        ),
      ),
    )

  test('every row is chosen with the largest limits or with the default ones', () => {
    const found = new Set([...chosen(limits), ...chosen(limitsOf(32, 512))])
    expect(all.filter(({ tile }) => !found.has(tile))).toEqual([])
  })

  test('more threads give larger tiles, and more memory with them; neither alone exceeds a limit', () => {
    const most = (of: GPUSupportedLimits) => Math.max(...[...chosen(of)].map(({ blockM, blockN }) => blockM * blockN))
    expect(LIMITS.map(most)).toEqual([16384, 16384, 32768, 32768, 32768, 32768, 32768])
    for (const of of LIMITS)
      for (const tile of chosen(of)) {
        expect(tileThreads(tile)).toBeLessThanOrEqual(of.maxComputeInvocationsPerWorkgroup)
        expect(tileBytes(tile)).toBeLessThan(of.maxComputeWorkgroupStorageSize)
      }
    // 512 x 64 with its BLOCK_K requires 18 KiB.
    const shrink = (of: GPUSupportedLimits) => tileFor(TILES.BACKWARD_SHRINK, 600, 64, of).blockM
    expect([limitsOf(16, 512), limitsOf(32, 256), limitsOf(32, 512)].map(shrink)).toEqual([256, 256, 512])
  })
})

/** Threads of a workgroup of a shader. */
const threadsOf = (code: string) => Number(/^const THREADS = (\d+)u;$/m.exec(code)?.[1])

/** Bytes of workgroup memory that a shader declares. */
function workgroupBytes(code: string): number {
  const sizes: Readonly<Record<string, number>> = { f32: 4, i32: 4, u32: 4, vec4f: 16, vec2f: 8, vec2u: 8 }
  let bytes = 0
  for (const [, type] of code.matchAll(/var<workgroup> \w+: ([^;]+);/g)) {
    const array = /^array<(\w+), (\w+)>$/.exec(type)
    const length = array?.[2] === 'THREADS' ? threadsOf(code) : Number(array?.[2])
    bytes += array ? sizes[array[1]] * length : sizes[type]
  }
  expect(bytes).not.toBeNaN()
  return bytes
}

describe('operands that a device cannot bind', () => {
  test('what exceeds a limit is named, with the limit', () => {
    const of = (tokens: number) =>
      excessOf(planForward(calls({ tokens, dIn: 1024, dOut: 256 }).forward, limits), limits)
    expect(of(32768)).toBeNull()
    expect(of(32769)).toEqual({
      argument: 'x',
      text: 'one pass binds 134221824 bytes of a buffer for x, and the device allows 134217728 (maxStorageBufferBindingSize)',
    })
    const { backward } = calls({ tokens: 200_000, dIn: 16, dOut: 16, rank: 500 })
    expect(excessOf(planBackward(backward, limits), limits)).toMatchObject({
      argument: 'workspace',
      text: expect.stringContaining('268435456 (maxBufferSize)') as string,
    })
  })
})
