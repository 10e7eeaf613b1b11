/** The plans of calls: dispatches, loads from storage, and the limits of devices, without a device. */
import { describe, expect, test } from 'vitest'
import { LilyError } from '../../lib/base/errors.js'
import type { BackwardCall, ForwardCall, Matrix, Output, Region, Sizes } from '../../lib/webgpu/call.js'
import type { Plan } from '../../lib/webgpu/pass.js'
import { planBackward } from '../../lib/webgpu/plan/backward.js'
import { planForward } from '../../lib/webgpu/plan/forward.js'
import { Problem } from '../../lib/webgpu/plan/problem.js'
import { moduleOf } from '../../lib/webgpu/wgsl/module.js'

/** The limits that every device has. */
const limits = {
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxBufferSize: 256 * 2 ** 20,
  minStorageBufferOffsetAlignment: 256,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
} as GPUSupportedLimits

/** A buffer that is only compared. */
const buffer = (size: number) => ({ size }) as GPUBuffer
const region = (elements: number): Region => ({ buffer: buffer(elements * 4), byteOffset: 0 })
const matrix = (rows: number, cols: number): Matrix => ({ ...region(rows * cols), dtype: 'float32', pitch: cols })
const output = (rows: number, cols: number, accumulate = true): Output => ({ ...matrix(rows, cols), accumulate })

type Shape = Partial<Sizes> & { mask?: boolean; offsets?: boolean; accumulate?: boolean; deferB?: boolean }

function calls(shape: Shape): { forward: ForwardCall; backward: BackwardCall } {
  const sizes: Sizes = {
    ...{ routing: 'batch', pool: 'probabilities', activation: 'none', scaling: 1 },
    ...{ tokens: 1024, dIn: 1024, dOut: 1024, rank: 16, experts: 4, groups: 1 },
    ...shape,
  }
  const { routing, tokens, dIn, dOut, rank, experts, groups } = sizes
  const isRouted = routing === 'batch' || routing === 'sequence' || routing === 'token'
  const isLora = routing === 'none'
  const rowsOfB = isLora ? ([dOut, rank] as const) : ([experts * rank, dOut] as const)
  const out = (rows: number, cols: number) => output(rows, cols, shape.accumulate ?? true)
  const inputs = {
    ...{ ...sizes, x: matrix(tokens, dIn), a: matrix(rank, dIn), b: matrix(...rowsOfB) },
    router: isRouted ? matrix(experts, rank) : null,
    mask: shape.mask ? region(tokens) : null,
    sequenceOffsets: shape.offsets ? region(groups + 1) : null,
    hidden: matrix(tokens, rank),
    probabilities:
      isRouted && (routing === 'token' || sizes.pool === 'probabilities') ? region(tokens * experts) : null,
    weights: isLora || routing === 'token' ? null : region(groups * experts),
  }
  return {
    forward: { ...inputs, y: out(tokens, dOut) },
    backward: {
      ...{ ...inputs, dy: matrix(tokens, dOut), dx: out(tokens, dIn), da: out(rank, dIn) },
      dRouter: isRouted ? out(experts, rank) : null,
      db: shape.deferB ? null : out(...rowsOfB),
      deferredDb: shape.deferB
        ? region((routing === 'token' ? experts : Math.min(groups, experts)) * rank * dOut)
        : null,
    },
  }
}

const loadsOf = ({ passes }: Plan) =>
  passes.reduce((sum, { parts }) => sum + parts.reduce((of, { loads }) => of + loads, 0), 0)

describe('loads from storage, of the fewest that the operands allow', () => {
  const shapes: Shape[] = [
    { tokens: 1024, dIn: 1024, dOut: 1024, rank: 16, experts: 4 },
    { tokens: 512, dIn: 2048, dOut: 2048, rank: 64, experts: 4 },
  ]
  test.each(shapes)('%o', (shape) => {
    const { tokens, dIn, dOut, rank, experts } = shape as Required<Shape>
    const { forward, backward } = calls(shape)
    const [ofA, ofB, ofRouter] = [rank * dIn, experts * rank * dOut, experts * rank]
    const ofForward = loadsOf(planForward(forward, limits)) / (4 * (tokens * (dIn + dOut) + ofA + ofRouter + ofB))
    const ofBackward =
      loadsOf(planBackward(backward, limits)) / (4 * (tokens * (2 * dIn + dOut) + 2 * (ofA + ofRouter + ofB)))
    console.log(`loads: forward ${ofForward.toFixed(2)}, backward ${ofBackward.toFixed(2)} of the fewest`)
    expect(ofForward).toBeGreaterThan(1)
    expect(ofForward).toBeLessThanOrEqual(2)
    expect(ofBackward).toBeGreaterThan(1)
    expect(ofBackward).toBeLessThanOrEqual(2)
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
    { routing: 'none', experts: 1 },
  ] satisfies Shape[]
).flatMap((mode) => [0, 1, 70, 1000, 9000].map((tokens) => ({ ...mode, tokens, dIn: 600, dOut: 700 })))

const NAMES = MODES.map((shape) => [JSON.stringify(shape), shape] as const)

/** Limits that the large problems of the list exceed by default. */
const roomy = { ...limits, maxStorageBufferBindingSize: 2 ** 40, maxBufferSize: 2 ** 40 }

describe('passes', () => {
  test.each(NAMES)('%s: at most 3 forward and 6 backward', (_, shape) => {
    const { forward, backward } = calls(shape)
    expect(planForward(forward, limits).passes.length).toBeLessThanOrEqual(3)
    expect(planBackward(backward, roomy).passes.length).toBeLessThanOrEqual(6)
  })

  test.each(NAMES)('%s: within the limits that every device has', (_, shape) => {
    const { forward, backward } = calls(shape)
    for (const [plan, call] of [
      [planForward(forward, limits), forward],
      [planBackward(backward, roomy), backward],
    ] as const)
      for (const pass of plan.passes) {
        const { bindings, code, grid } = moduleOf(pass, new Problem(call).common, roomy)
        expect(bindings.length).toBeLessThanOrEqual(8)
        expect(Math.max(...grid)).toBeLessThanOrEqual(65535)
        expect(workgroupBytes(code)).toBeLessThanOrEqual(16384)
        for (const { offset, size } of bindings) expect([offset % 256, size % 4]).toEqual([0, 0])
      }
  })

  test('many workgroups fill a second dimension of the grid', () => {
    const { forward } = calls({ tokens: 200000, dIn: 16, dOut: 64000, rank: 4 })
    const pass = planForward(forward, limits).passes.at(-1)
    if (pass === undefined) throw new Error('no passes')
    const { grid } = moduleOf(pass, new Problem(forward).common, roomy)
    expect(grid[0]).toBeLessThanOrEqual(65535)
    expect(grid[1]).toBeGreaterThan(1)
    expect(grid[0] * grid[1]).toBeGreaterThanOrEqual(pass.parts[0].workgroups)
  })
})

/** Bytes of workgroup memory that a shader declares. */
function workgroupBytes(code: string): number {
  const sizes: Readonly<Record<string, number>> = { f32: 4, u32: 4, vec4f: 16, vec2u: 8 }
  let bytes = 0
  for (const [, type] of code.matchAll(/var<workgroup> \w+: ([^;]+);/g)) {
    const array = /^array<(\w+), (\d+)>$/.exec(type)
    bytes += array ? sizes[array[1]] * Number(array[2]) : sizes[type]
  }
  expect(bytes).not.toBeNaN()
  return bytes
}

describe('operands that a device cannot bind', () => {
  test('the error names the operand, the limit and what to do', () => {
    const { forward } = calls({ tokens: 70000, dIn: 1024 })
    const [pass] = planForward(forward, limits).passes
    const build = () => moduleOf(pass, new Problem(forward).common, limits)
    expect(build).toThrow(LilyError)
    expect(build).toThrow(/^x: .*286720000 bytes.*134217728 \(maxStorageBufferBindingSize\); request a device/)
  })

  test('a buffer that ends with half a word is refused', () => {
    const { forward } = calls({ tokens: 3, dIn: 5 })
    const x: Matrix = { buffer: buffer(30), byteOffset: 0, dtype: 'bfloat16', pitch: 5 }
    const [pass] = planForward({ ...forward, x }, limits).passes
    expect(() => moduleOf(pass, new Problem(forward).common, limits)).toThrow(
      /^x: .* 32 bytes, got 30; .*multiple of 4/,
    )
  })
})
