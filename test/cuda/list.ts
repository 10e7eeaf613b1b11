/**
 * Runs several cases as one list of calls on the CUDA device, by the tables of the binding: without the checks of lib/, and
 * with an index that nobody has checked.
 */
import { DeviceBuffer, Stream } from '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { access, activation, backend, dtype as dtypes, pool, precision, routing } from '../../lib/binding/slots.js'
import * as tables from '../../lib/binding/tables.js'
import { argumentsOf, type Call, type Item, operandOf } from '../binding/encoding.js'
import type { Case } from '../support/cases.js'
import { type Float, pack, unpack } from '../support/dtypes.js'
import { answer } from '../support/fork.js'
import { oldValues, operandTypes, type Result, run, sizesOfB, type Values } from '../support/run.js'

export interface List {
  readonly cases: readonly Case[]
  /** The rows of each case, and all that there are. */
  readonly rows: readonly (readonly number[])[]
  readonly all: number
  readonly outputs: 'add' | 'overwrite'
  /** The factor of each row of a case. */
  readonly scale?: readonly (readonly number[])[] | undefined
  /** What the index says in the place of `rows`. */
  readonly index?: readonly (readonly number[])[] | undefined
  /** Default: forward, then backward. */
  readonly passes?: readonly ('forwardRows' | 'backwardRows')[]
}

/** A list, and the contents of y and dx of each case before the call, for outputs 'add'; or a list to compare. */
export interface ListJob {
  readonly list: List
  readonly old?: readonly Result['old'][]
}

export interface ListResult {
  readonly values: readonly Values[]
  /** The rows of no case. */
  readonly base: { readonly y: Float32Array; readonly dx: Float32Array }
}

/** An array on the device. */
class Placed {
  readonly #buffer: DeviceBuffer

  constructor(
    private readonly type: Float | 'int32' | 'uint8',
    values: ArrayLike<number>,
  ) {
    const data =
      type === 'int32' ? Int32Array.from(values) : type === 'uint8' ? Uint8Array.from(values) : pack(type, values)
    this.#buffer = DeviceBuffer.allocate([Math.max(data.length, 1)], type)
    if (data.length > 0) this.#buffer.upload(data)
    this.length = data.length
  }

  readonly length: number

  get memory(): bigint {
    return this.#buffer.ptr
  }

  async values(): Promise<Float32Array> {
    if (this.length === 0) return new Float32Array() // its one element has never been written
    const data = await this.#buffer.download<Float32Array>()
    return unpack(this.type, data.subarray(0, this.length))
  }
}

async function runList({ list, old }: Required<ListJob>): Promise<ListResult> {
  const { cases, rows, all, outputs, scale, index = rows, passes = ['forwardRows', 'backwardRows'] } = list
  const [first] = cases
  const { dIn, dOut } = first
  const types = operandTypes(first)
  const listed = rows.flat()
  const rest = Array.from({ length: all }, (_, row) => row).filter((row) => !listed.includes(row))

  /** A matrix of all rows, of which each case gives its own; the others are 7. */
  const shared = (name: 'x' | 'dy' | 'y' | 'dx', cols: number, of: (k: number) => Float32Array | undefined) => {
    const numbers = new Float32Array(all * cols).fill(7)
    rows.forEach((own, k) => {
      own.forEach((row, t) => numbers.set(of(k)?.subarray(t * cols, (t + 1) * cols) ?? [], row * cols))
    })
    return new Placed(types[name], numbers)
  }
  const offsets = cases.flatMap((c) => Array.from(c.offsets ?? []))
  const common: Record<string, Placed | undefined> = {
    x: shared('x', dIn, (k) => cases[k].x),
    dy: shared('dy', dOut, (k) => cases[k].dy),
    y: shared('y', dOut, (k) => old[k].y),
    dx: shared('dx', dIn, (k) => old[k].dx),
    index: new Placed('int32', [...index.flat(), ...offsets, ...rest]),
    mask: cases.some(({ mask }) => mask)
      ? new Placed(
          'uint8',
          cases.flatMap((c) => Array.from(c.mask ?? new Uint8Array(c.tokens).fill(1))),
        )
      : undefined,
    scale: scale && new Placed('float32', scale.flat()),
  }
  const stream = Number(Stream.default({ type: 'cuda' }).handle)
  const numbers = {
    ...{ backend: backend.cuda, stream, memoryStream: stream },
    precision: precision[first.precision ?? 'default'],
    activationDtype: dtypes[types.x],
    parameterDtype: dtypes[types.a],
    tokens: all,
    ...{ dIn, dOut, listed: listed.length, indices: listed.length + offsets.length + rest.length },
    ...{ rank: 1, experts: 1, groups: 1, routing: routing.none },
  }
  const items = cases.map((c, k) => {
    const [bRows, bCols] = sizesOfB(c)
    const groups = c.offsets ? c.offsets.length - 1 : 1
    const gradient = (name: 'da' | 'dRouter' | 'db', height: number, width: number) =>
      new Placed(types[name], oldValues(outputs, types[name], height, width))
    const isLearned = c.routing === 'learned'
    const isOneRun = rows[k].every((row, t) => row === rows[k][0] + t) && list.index === undefined
    const zeros = (type: Float, length: number) => new Placed(type, new Float32Array(length))
    const placed: Record<string, Placed | undefined> = {
      a: new Placed(types.a, c.a),
      router: c.router && new Placed(types.router, c.router),
      b: new Placed(types.b, c.b),
      hidden: zeros(types.x, c.tokens * c.rank),
      probabilities:
        c.routing === 'token' || (c.router && !isLearned && c.pool !== 'logits')
          ? zeros('float32', c.tokens * c.experts)
          : undefined,
      weights:
        c.routing === 'token' || c.routing === 'lora'
          ? undefined
          : new Placed('float32', c.weights ?? new Float32Array(groups * c.experts)),
      da: gradient('da', c.rank, dIn),
      dRouter: c.router && gradient('dRouter', c.experts, isLearned ? 1 : c.rank),
      db: gradient('db', bRows, bCols),
    }
    const own = {
      ...numbers,
      routing: routing[c.routing === 'lora' ? 'none' : c.routing],
      pool: pool[c.pool ?? 'probabilities'],
      activation: activation[c.activation ?? 'none'],
      ...{ rank: c.rank, experts: c.experts, groups, scaling: c.scaling ?? 1, tokens: c.tokens, count: c.tokens },
      first: isOneRun ? (rows[k][0] ?? 0) : -1,
    }
    return { numbers: own, placed }
  })
  for (const name of passes) {
    const given = (slots: (typeof tables)[typeof name]['slots'], of: typeof common, sizes: Item['numbers']) =>
      Object.fromEntries(
        slots.flatMap((slot) => {
          const placed = of[slot.name]
          if (placed === undefined) return []
          const operand = operandOf(slot, sizes)
          const adds = outputs === 'add' && slot.use === 'output' && /^(y|d.*)$/.test(slot.name)
          return [[slot.name, { ...operand, memory: placed.memory, ...(adds && { access: access.add }) }]]
        }),
      )
    const call: Call = {
      operation: name,
      numbers,
      slots: given(tables[name].slots, common, numbers),
      items: items.map((item) => ({
        numbers: item.numbers,
        slots: given(tables[name].itemSlots, item.placed, item.numbers),
      })),
    }
    native.run(...argumentsOf(call))
  }

  const rowsOf = (values: Float32Array, cols: number, of: readonly number[]) =>
    Float32Array.from(of.flatMap((row) => [...values.subarray(row * cols, (row + 1) * cols)]))
  const [y, dx] = await Promise.all([common.y!.values(), common.dx!.values()])
  const values = await Promise.all(
    items.map(async ({ placed: { a: _a, router: _router, b: _b, ...kept } }, k) => {
      const own: Values = { y: rowsOf(y, dOut, rows[k]), dx: rowsOf(dx, dIn, rows[k]) }
      for (const [name, of] of Object.entries(kept)) if (of) own[name as keyof Values] = await of.values()
      return own
    }),
  )
  return { values, base: { y: rowsOf(y, dOut, rest), dx: rowsOf(dx, dIn, rest) } }
}

/** A list, and its cases as calls of their own, with dy times the factors. */
export async function runBoth(list: List): Promise<{ found: ListResult; alone: Result[] }> {
  const alone = []
  for (const [k, c] of list.cases.entries())
    alone.push(await run({ ...c, dy: timesFactors(c.dy, list, k) }, { outputs: list.outputs }))
  return { found: await runList({ list, old: alone.map(({ old }) => old) }), alone }
}

/** The rows of a case times their factors. */
export function timesFactors(values: Float32Array, { cases, scale }: List, k: number): Float32Array {
  const cols = values.length / cases[k].tokens
  return scale ? values.map((value, i) => value * scale[k][Math.floor(i / cols)]) : values
}

/** Of the child process. */
export interface ListAnswer {
  readonly results: readonly { found: ListResult; alone?: Result[] }[]
}

async function runLists(jobs: readonly ListJob[]): Promise<ListAnswer> {
  const results = []
  for (const { list, old } of jobs) results.push(old ? { found: await runList({ list, old }) } : await runBoth(list))
  return { results }
}

answer(runLists)
