/** The plans of calls: dispatches, loads from storage, and the limits of devices, without a device. */
import { describe, expect, test } from 'vitest'
import { LilyError } from '../../lib/base/errors.js'
import type { BackwardCall, ForwardCall, Matrix, Output, Region, Sizes } from '../../lib/webgpu/call.js'
import type { Plan } from '../../lib/webgpu/pass.js'
import { planBackward } from '../../lib/webgpu/plan/backward.js'
import { planForward } from '../../lib/webgpu/plan/forward.js'
import { Problem } from '../../lib/webgpu/plan/problem.js'
import { moduleOf } from '../../lib/webgpu/wgsl/module.js'
import { tileBytes } from '../../lib/webgpu/wgsl/product.js'

/** The limits that every device has. */
const limits = {
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxBufferSize: 256 * 2 ** 20,
  minStorageBufferOffsetAlignment: 256,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
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
      deferredDb: shape.deferB ? region(Math.min(groups, experts) * rank * dOut) : null,
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
    const ofForward = loadsOf(planForward(forward)) / (4 * (tokens * (dIn + dOut) + ofA + ofRouter + ofB))
    const ofBackward =
      loadsOf(planBackward(backward, limits)) / (4 * (tokens * (2 * dIn + dOut) + 2 * (ofA + ofRouter + ofB)))
    console.log(`loads: forward ${ofForward.toFixed(2)}, backward ${ofBackward.toFixed(2)} of the fewest`)
    console.log(
      planForward(forward)
        .passes.map(
          (p) =>
            p.label +
            ': ' +
            p.parts.map((q) => `${q.name} ${q.workgroups} wg ${(q.loads / 4 / 2 ** 20).toFixed(3)}M`).join(', '),
        )
        .join('\n'),
    )
    console.log(
      planBackward(backward, limits)
        .passes.map(
          (p) =>
            p.label +
            ': ' +
            p.parts.map((q) => `${q.name} ${q.workgroups} wg ${(q.loads / 4 / 2 ** 20).toFixed(3)}M`).join(', '),
        )
        .join('\n'),
    )
    expect(ofForward).toBeGreaterThan(1)
    expect(ofForward).toBeLessThanOrEqual(2)
    expect(ofBackward).toBeGreaterThan(1)
    expect(ofBackward).toBeLessThanOrEqual(2)
  })
})
void LilyError
void Problem
void moduleOf
void tileBytes
