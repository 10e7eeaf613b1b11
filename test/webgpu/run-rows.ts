/**
 * Runs several cases as one list on GpuKernels: their x, dy, y and dx are rows of shared matrices, and everything else is stacked,
 * the numbers of one case behind those of another.
 */
import type { BackwardCall, ForwardCall, GpuWork, Matrix, Output, Region } from '../../lib/binding/gpu-call.js'
import type { GpuKernels } from '../../lib/webgpu/kernels.js'
import type { Case } from '../support/cases.js'
import { type Float, pack, unpack } from '../support/dtypes.js'
import { Operand } from '../support/operands.js'
import { columnsOfRouter, oldValues, operandTypes, type Result, sizesOfB, type Values } from '../support/run.js'
import { Memory, submit } from './run.js'

export interface List {
  readonly cases: readonly Case[]
  /** The rows of each case, and all that there are. */
  readonly rows: readonly (readonly number[])[]
  readonly all: number
  readonly outputs: 'add' | 'overwrite'
  /** The factor of each row of a case. */
  readonly scale?: readonly (readonly number[])[]
  /** Elements between the rows of x, dy, y and dx. */
  readonly gap?: number
  /** What the index says in the place of `rows`. */
  readonly index?: readonly (readonly number[])[]
}

/** What a list has written. */
export interface ListResult {
  readonly values: readonly Values[]
  /** Of the rows of no case. */
  readonly base: { readonly y: Float32Array; readonly dx: Float32Array }
  readonly damaged: readonly string[]
}

const WIDTHS = { float32: 4, bfloat16: 2, float16: 2 } as const

const factorsOf = (scale: List['scale'], k: number) => scale && Float32Array.from(scale[k])

/** @param old the contents of y and dx of each case before the call, for outputs 'add' */
export async function runRows(
  kernels: GpuKernels,
  device: GPUDevice,
  list: List,
  old: readonly Result['old'][],
): Promise<ListResult> {
  const { cases, rows, all, outputs, scale, gap = 0 } = list
  const [{ dIn, dOut }] = cases
  const types = operandTypes(cases[0])
  const memory = new Memory(device, false)
  const base = Array.from({ length: all }, (_, row) => row).filter((row) => !rows.flat().includes(row))

  /** A matrix of all rows, of which each case gives its own. Other rows are 7 before. */
  const shared = (name: 'x' | 'dy' | 'y' | 'dx', cols: number, of: (k: number) => Float32Array | undefined) => {
    const numbers = new Float32Array(all * cols).fill(7)
    for (const [k, listed] of rows.entries())
      for (const [t, row] of listed.entries()) {
        numbers.set(of(k)?.subarray(t * cols, (t + 1) * cols) ?? [], row * cols)
      }
    const operand = new Operand(types[name], all, cols, numbers, { gap, margin: 2 })
    const place = memory.place(new Uint8Array(operand.data.buffer))
    const width = WIDTHS[types[name]]
    return {
      operand,
      matrix: (): Matrix => ({
        buffer: memory.bufferOf(place.index),
        byteOffset: place.byteOffset + 2 * width,
        dtype: types[name],
        pitch: cols + gap,
      }),
      rowsOf: (of: readonly number[]) => {
        const values = operand.values()
        return Float32Array.from(of.flatMap((row) => [...values.subarray(row * cols, (row + 1) * cols)]))
      },
    }
  }
  /** Numbers of all cases, one after the other. */
  const stack = (dtype: Float, arrays: readonly (ArrayLike<number> | undefined)[]) => {
    const starts = arrays.map((_, k) => arrays.slice(0, k).reduce((sum, array) => sum + (array?.length ?? 0), 0))
    const content = pack(
      dtype,
      arrays.flatMap((array) => Array.from(array ?? [])),
    )
    const { index, byteOffset } = memory.place(new Uint8Array(content.buffer))
    return {
      region: (k: number): Region => ({
        buffer: memory.bufferOf(index),
        byteOffset: byteOffset + starts[k] * WIDTHS[dtype],
      }),
      values: (k: number) => unpack(dtype, content.subarray(starts[k], starts[k] + (arrays[k]?.length ?? 0))),
    }
  }
  const stackOf = (dtype: Float, of: (c: Case) => ArrayLike<number> | undefined) => stack(dtype, cases.map(of))

  const x = shared('x', dIn, (k) => cases[k].x)
  const dy = shared('dy', dOut, (k) => cases[k].dy)
  const [y, dx] = (['y', 'dx'] as const).map((name) => shared(name, name === 'y' ? dOut : dIn, (k) => old[k][name]))
  const sizes = cases.map((c) => {
    const [bRows, bCols] = sizesOfB(c)
    return { a: [c.rank, dIn], router: [c.experts, columnsOfRouter(c)], b: [bRows, bCols] } as const
  })
  const a = stackOf(types.a, (c) => c.a)
  const router = stackOf(types.router, (c) => c.router)
  const b = stackOf(types.b, (c) => c.b)
  const oldOf = (dtype: Float, name: 'a' | 'router' | 'b') =>
    stack(
      dtype,
      sizes.map((of, k) =>
        name === 'router' && !cases[k].router ? undefined : oldValues(outputs, dtype, ...of[name]),
      ),
    )
  const [da, dRouter, db] = [oldOf(types.da, 'a'), oldOf(types.dRouter, 'router'), oldOf(types.db, 'b')]
  const { precision } = cases[0]
  const hiddenType = precision === 'high' && types.a === 'float32' ? 'float32' : types.x
  const groupsOf = ({ offsets }: Case) => (offsets ? offsets.length - 1 : 1)
  const hidden = stackOf(hiddenType, (c) => new Float32Array(c.tokens * c.rank))
  const probabilities = stackOf('float32', (c) => new Float32Array(c.tokens * c.experts))
  const weights = stackOf('float32', (c) => c.weights ?? new Float32Array(groupsOf(c) * c.experts))
  // As the package uploads them: in one buffer, because a pass binds no more than eight.
  const small = [
    ...cases.flatMap((c, k) => [c.mask, c.offsets, Int32Array.from((list.index ?? rows)[k]), factorsOf(scale, k)]),
    Int32Array.from(base),
  ].map((array) => new Uint8Array(array?.slice().buffer ?? []))
  const staged = memory.place(
    new Uint8Array(small.flatMap((bytes) => [...bytes, ...new Uint8Array(-bytes.length & 3)])),
  )
  const stagedRegion = (i: number): Region => ({
    buffer: memory.bufferOf(staged.index),
    byteOffset: staged.byteOffset + small.slice(0, i).reduce((sum, { length }) => sum + Math.ceil(length / 4) * 4, 0),
  })
  memory.upload()

  const accumulate = outputs === 'add'
  const calls = cases.map((c, k): { forward: ForwardCall; backward: BackwardCall } => {
    const matrix = (of: typeof a, name: 'a' | 'router' | 'b', dtype = types.a): Output => ({
      ...of.region(k),
      dtype,
      pitch: sizes[k][name][1],
      accumulate,
    })
    const isRouted = c.router !== undefined
    const keepsProbabilities = c.routing === 'token' || (isRouted && c.routing !== 'learned' && c.pool !== 'logits')
    const inputs = {
      routing: c.routing === 'lora' ? ('none' as const) : c.routing,
      pool: c.pool ?? 'probabilities',
      activation: c.activation ?? 'none',
      scaling: c.scaling ?? 1,
      tokens: c.tokens,
      dIn,
      dOut,
      rank: c.rank,
      experts: c.experts,
      groups: groupsOf(c),
      dropout: 0,
      draw: null,
      listed: { index: stagedRegion(4 * k + 2), rows: all, scale: scale ? stagedRegion(4 * k + 3) : null },
      x: x.matrix(),
      a: matrix(a, 'a'),
      router: isRouted ? matrix(router, 'router') : null,
      b: matrix(b, 'b'),
      mask: c.mask ? stagedRegion(4 * k) : null,
      sequenceOffsets: c.offsets ? stagedRegion(4 * k + 1) : null,
      hidden: { ...hidden.region(k), dtype: hiddenType, pitch: c.rank },
      probabilities: keepsProbabilities ? probabilities.region(k) : null,
      weights: c.routing === 'token' || c.routing === 'lora' ? null : weights.region(k),
    }
    return {
      forward: { ...inputs, uncheckedOffsets: null, y: { ...y.matrix(), accumulate } },
      backward: {
        ...inputs,
        dy: dy.matrix(),
        dx: { ...dx.matrix(), accumulate },
        da: matrix(da, 'a', types.da),
        dRouter: isRouted ? matrix(dRouter, 'router', types.dRouter) : null,
        db: matrix(db, 'b', types.db),
        dWeights: null,
        deferredDb: null,
      },
    }
  })
  const restOf = (of: typeof y, cols: number) =>
    accumulate || base.length === 0
      ? null
      : {
          out: { ...of.matrix(), accumulate },
          rows: all,
          cols,
          index: stagedRegion(4 * cases.length),
          count: base.length,
        }
  const work: GpuWork[] = [
    {
      name: 'forwardRows',
      call: { calls: calls.map(({ forward }) => forward as Listed<ForwardCall>), rest: restOf(y, dOut) },
    },
    {
      name: 'backwardRows',
      call: { calls: calls.map(({ backward }) => backward as Listed<BackwardCall>), rest: restOf(dx, dIn) },
    },
  ]
  for (const each of work) await submit(device, (encoder, allocate) => kernels.encode([each], encoder, allocate))

  const damaged = (await memory.download()) ? ['bytes outside of all operands'] : []
  for (const [name, { operand }] of Object.entries({ x, dy })) if (!operand.isUnchanged()) damaged.push(name)
  for (const [name, { operand }] of Object.entries({ y, dx })) if (!operand.isPaddingUnchanged()) damaged.push(name)
  const values = cases.map((c, k): Values => ({
    y: y.rowsOf(rows[k]),
    dx: dx.rowsOf(rows[k]),
    hidden: hidden.values(k),
    ...(calls[k].forward.probabilities && { probabilities: probabilities.values(k) }),
    ...(calls[k].forward.weights && { weights: weights.values(k) }),
    da: da.values(k),
    ...(c.router && { dRouter: dRouter.values(k) }),
    db: db.values(k),
  }))
  return { values, base: { y: y.rowsOf(base), dx: dx.rowsOf(base) }, damaged }
}

type Listed<Call extends ForwardCall | BackwardCall> = Call & { readonly listed: NonNullable<Call['listed']> }
