/** Random valid calls of the functions that the binding exports. */
import type { Native, NativeMpi } from '../../lib/binding/native.js'
import { access, dtype, pool, routing } from '../../lib/binding/slots.js'
import type { Slot } from '../../lib/binding/tables.js'
import * as tables from '../../lib/binding/tables.js'
import { integer } from '../support/random.js'
import {
  accessOf,
  argumentsOf,
  bytesOf,
  type Call as Encoded,
  type Item,
  type Numbers,
  type Operand,
  sizesOf,
  typeOf,
} from './encoding.js'
import { type Block, type Maker, type Random, type View } from './memory.js'

type NameOf<T> = { [K in keyof T]-?: T[K] extends (...args: never[]) => unknown ? K : never }[keyof T]
/** Those of MPI end the job in abort(). */
export type FunctionName = NameOf<Native> | `mpi.${Exclude<keyof NativeMpi, 'abort'>}`

export interface Call {
  readonly name: FunctionName
  args: unknown[]
  readonly blocks: Block[]
}

/** The functions that take the numbers and the operands of an operation. */
export const OF_OPERATIONS: readonly FunctionName[] = ['run', 'reserve', 'runAsync', 'packedBytes']

/** The functions that can be called in any process. */
export function functionNames(native: Native): FunctionName[] {
  const namesOf = (from: object) =>
    Object.entries(from).flatMap(([name, value]) => (typeof value === 'function' ? [name] : []))
  const ofMpi = native.mpi === undefined ? [] : namesOf(native.mpi).filter((name) => name !== 'abort')
  return [...namesOf(native), ...ofMpi.map((name) => `mpi.${name}`)] as FunctionName[]
}

export function functionOf(native: Native, name: FunctionName): (...args: unknown[]) => unknown {
  const [, ofMpi] = name.split('.')
  const functions = (ofMpi === undefined ? native : native.mpi) as unknown as Record<
    string,
    (...args: unknown[]) => unknown
  >
  return functions[ofMpi ?? name]
}

/** MPI is not initialised here, so that everything is refused, after the arguments have been checked. */
export const isRefused = (name: FunctionName) => name.startsWith('mpi.')

export function pick<T>(random: Random, list: readonly T[]): T {
  return list[integer(random, 0, list.length - 1)]
}

/** Makes the operands of one call. */
class Arrays {
  readonly blocks: Block[] = []

  constructor(
    readonly native: Native,
    readonly random: Random,
    private readonly allocate: Maker,
  ) {}

  #add(kind: Parameters<Maker>[1], length: number, isOutput: boolean): View {
    const block = this.allocate(this.random, kind, length, isOutput)
    this.blocks.push(block)
    return block.view
  }

  doubles(length: number, isOutput = false) {
    return this.#add(Float64Array, length, isOutput)
  }

  bytes(length: number, isOutput = false) {
    return this.#add(Uint8Array, length, isOutput)
  }

  typed(type: number, length: number, isOutput = false) {
    if (type === dtype.uint8) return this.bytes(length, isOutput)
    const kind = type === dtype.float32 ? Float32Array : type === dtype.int32 ? Int32Array : Uint16Array
    return this.#add(kind, length, isOutput)
  }

  /** An operand, with a pitch and an offset of its own where its slot may have them. */
  operand(slot: Slot, numbers: Numbers, sizes: readonly number[], type = typeOf(slot, numbers)): Operand {
    const { random } = this
    if (slot.type === 'gradient') type = pick(random, [type, dtype.float32])
    let how = accessOf(slot)
    if (slot.use === 'output') how = pick(random, [access.write, access.add])
    if (slot.use === 'update' && numbers.routing === routing.fixed) how = access.read
    const [rows, columns] = [sizes[slot.rows], sizes[slot.columns]]
    const isContiguous = rows > 1 && ['hidden', 'float32', 'uint8'].includes(slot.type)
    const pitch = columns + (!isContiguous && random() < 0.3 ? integer(random, 0, 5) : 0)
    const before = random() < 0.2 ? integer(random, 0, 9) : 0
    const length = before + (rows > 0 ? (rows - 1) * pitch + columns : 0)
    const memory = this.typed(type, length, how !== access.read)
    return { memory, byteOffset: before * bytesOf(type), rows, columns, pitch, dtype: type, access: how }
  }

  /**
   * The operands of a table's slots.
   *
   * @param chances the probability that an operand is given, by name; without one it always is
   * @param types the types of those that may have any
   */
  operands(
    slots: readonly Slot[],
    numbers: Numbers,
    chances: Numbers = {},
    types: Partial<Numbers> = {},
  ): Record<string, Operand> {
    const sizes = sizesOf(numbers)
    const given = slots.filter(({ name }) => this.random() < (chances[name] ?? 1))
    return Object.fromEntries(given.map((slot) => [slot.name, this.operand(slot, numbers, sizes, types[slot.name])]))
  }
}

const TYPES = [
  [dtype.float32, dtype.float32],
  [dtype.bfloat16, dtype.bfloat16],
  [dtype.float16, dtype.float16],
  [dtype.bfloat16, dtype.float32],
  [dtype.float16, dtype.float32],
]

/** A frozen weight may also have 16 bits under float32. */
const TYPES_OF_LAYERS = [...TYPES, [dtype.float32, dtype.bfloat16], [dtype.float32, dtype.float16]]

/** A call of forward or backward. */
function adapter(name: 'forward' | 'backward', arrays: Arrays): Encoded {
  const { random } = arrays
  const of = integer(random, 0, 6)
  const isLarge = random() < 0.01
  const tokens = isLarge ? integer(random, 0, 700) : integer(random, 0, 20)
  const most = isLarge ? 300 : 40
  const [activationDtype, parameterDtype] = pick(random, TYPES)
  const mayHaveGroups = of === routing.sequence || of === routing.fixed
  const hasOffsets = mayHaveGroups && !(of === routing.fixed && random() < 0.3)
  const groups = hasOffsets ? integer(random, tokens > 0 ? 1 : 0, 6) : 1
  const numbers = {
    routing: of,
    pool: of === routing.token ? pool.probabilities : integer(random, 0, 1),
    activation: integer(random, 0, 1),
    precision: integer(random, 0, 2),
    activationDtype,
    parameterDtype,
    tokens,
    dIn: integer(random, 1, most),
    dOut: integer(random, 1, most),
    rank: integer(random, 1, isLarge ? 140 : 12),
    experts: of === routing.none ? 1 : integer(random, 1, random() < 0.02 ? 64 : 6),
    groups,
    scaling: pick(random, [1, 0, -2.5]),
    dropout: random() < 0.3 ? integer(random, 1, 65535) : 0,
  }
  const hasRouter = of <= routing.token
  const hasLogits = of === routing.learned
  const keepsProbabilities = hasRouter && numbers.pool === pool.probabilities
  const hasWeights = of !== routing.token && of !== routing.none
  const isForward = name === 'forward'
  const defers = of !== routing.none && random() < 0.4
  const slots = arrays.operands(tables[name].slots, numbers, {
    router: hasRouter || hasLogits ? 1 : 0,
    hidden: isForward ? 0.5 : 1,
    probabilities: !keepsProbabilities ? 0 : isForward ? 0.5 : 1,
    weights: !hasWeights ? 0 : isForward && of !== routing.fixed ? 0.5 : 1,
    mask: of <= routing.sequence ? 0.5 : 0,
    sequenceOffsets: hasOffsets ? 1 : 0,
    uncheckedOffsets: hasOffsets ? 0.1 : 0,
    dx: 0.7,
    da: 0.7,
    dRouter: hasRouter || hasLogits ? 0.7 : 0,
    db: defers ? 0 : 0.7,
    deferredDb: defers ? 1 : 0,
    dWeights: of === routing.fixed ? 0.5 : 0,
    draw: numbers.dropout > 0 ? 1 : 0,
  })
  const cuts = Array.from({ length: Math.max(groups - 1, 0) }, () => integer(random, 0, tokens))
  const offsets = groups === 0 ? [0] : [0, ...cuts.sort((p, q) => p - q), tokens]
  for (const operand of [slots.sequenceOffsets, slots.uncheckedOffsets] as (Operand | undefined)[]) {
    if (operand !== undefined) (operand.memory as Int32Array).set(offsets, operand.byteOffset / 4)
  }
  return { operation: name, numbers, slots, items: [] }
}

/** What the fields of a call over some rows and its kept values have in common with those of an ordinary one. */
function rowsItem(random: Random, count: number) {
  const of = integer(random, 0, 6)
  const experts = of === routing.none ? 1 : integer(random, 1, 4)
  const isDivided = of === routing.sequence || (of === routing.fixed && random() < 0.3)
  return {
    routing: of,
    pool: of === routing.token ? pool.probabilities : integer(random, 0, 1),
    activation: integer(random, 0, 1),
    rank: integer(random, 1, 9),
    experts,
    groups: isDivided ? integer(random, count > 0 ? 1 : 0, 3) : 1,
    scaling: pick(random, [1, 0, -2.5]),
    count,
    first: -1,
    tokens: count,
  }
}

/** A list of calls over disjoint rows. */
function rows(name: 'forwardRows' | 'backwardRows', arrays: Arrays): Encoded {
  const { random } = arrays
  const isForward = name === 'forwardRows'
  const tokens = integer(random, 0, random() < 0.02 ? 300 : 24)
  const [activationDtype, parameterDtype] = pick(random, TYPES)
  const count = integer(random, 0, 5)
  // The call of each row; -1 and `count`: none. Now and then every call has one run.
  const of = Array.from({ length: tokens }, () => integer(random, -1, count))
  if (random() < 0.4) of.sort((p, q) => p - q)
  const listedOf = (k: number) => [...of.keys()].filter((row) => of[row] === k)
  const lists = Array.from({ length: count }, (_, k) => listedOf(k))
  const items = lists.map((list) => {
    const isRun = list.length === 0 || list[list.length - 1] - list[0] === list.length - 1
    return { ...rowsItem(random, list.length), first: isRun && random() < 0.7 ? (list[0] ?? -1) : -1 }
  })
  const offsets = items.flatMap(({ routing: of, groups, count }) => {
    if (of !== routing.sequence && groups === 1) return []
    const cuts = Array.from({ length: Math.max(groups - 1, 0) }, () => integer(random, 0, count))
    return groups === 0 ? [0] : [0, ...cuts.sort((p, q) => p - q), count]
  })
  const index = [...lists.flat(), ...offsets, ...listedOf(-1), ...listedOf(count)]
  const most = random() < 0.05 ? 140 : 20
  const numbers = {
    precision: integer(random, 0, 2),
    activationDtype,
    parameterDtype,
    tokens,
    dIn: integer(random, 1, most),
    dOut: integer(random, 1, most),
    listed: lists.flat().length,
    indices: index.length,
  }
  const slots = arrays.operands(tables[name].slots, numbers, { mask: 0.4, scale: 0.4, dx: 0.7 })
  ;(slots.index.memory as Int32Array).set(index, slots.index.byteOffset / 4)
  return {
    operation: name,
    numbers,
    slots,
    items: items.map((item): Item => {
      const hasRouter = item.routing <= routing.token
      const keepsProbabilities = hasRouter && item.pool === pool.probabilities
      const hasWeights = item.routing !== routing.token && item.routing !== routing.none
      const chances = {
        router: hasRouter || item.routing === routing.learned ? 1 : 0,
        hidden: isForward ? 0.5 : 1,
        probabilities: !keepsProbabilities ? 0 : isForward ? 0.5 : 1,
        weights: !hasWeights ? 0 : isForward && item.routing !== routing.fixed ? 0.5 : 1,
        da: 0.7,
        dRouter: hasRouter || item.routing === routing.learned ? 0.7 : 0,
        db: 0.7,
      }
      return { numbers: item, slots: arrays.operands(tables[name].itemSlots, { ...numbers, ...item }, chances) }
    }),
  }
}

/** A call of linear or of pack. */
function linear(name: 'linear' | 'pack', arrays: Arrays): Encoded {
  const { random } = arrays
  const [activationDtype, parameterDtype] = pick(random, TYPES_OF_LAYERS)
  const most = random() < 0.02 ? 600 : 40
  const numbers: Record<string, number> = {
    transposed: integer(random, 0, 1),
    precision: integer(random, 0, 2),
    activationDtype,
    parameterDtype,
    tokens: integer(random, 0, most / 2),
    dIn: integer(random, 1, most),
    dOut: integer(random, 1, most),
  }
  const { weight } = arrays.operands(tables.pack.slots, numbers, { packed: 0 })
  const bytes = arrays.native.packedBytes(...argumentsOf({ operation: 'pack', numbers, slots: { weight }, items: [] }))
  numbers.packed = bytes / 4
  const slots = arrays.operands(tables[name].slots, numbers, {
    weight: 0,
    packed: name === 'pack' ? 1 : 0.3,
    bias: 0.5,
  })
  return { operation: name, numbers, slots: { ...slots, weight }, items: [] }
}

function matmul(arrays: Arrays): Encoded {
  const { random } = arrays
  const [activationDtype] = pick(random, TYPES)
  const most = random() < 0.02 ? 300 : 20
  const bit = () => integer(random, 0, 1)
  const numbers = {
    outer: integer(random, 0, 3),
    inner: integer(random, 0, 3),
    ...{ aOuter: bit(), aInner: bit(), bOuter: bit(), bInner: bit() },
    m: integer(random, 0, most),
    k: integer(random, 0, most),
    n: integer(random, 0, most),
    transposeA: bit(),
    transposeB: bit(),
    precision: integer(random, 0, 2),
    activationDtype,
  }
  const slots = arrays.operands(tables.matmul.slots, numbers, { bias: 0.5 })
  return { operation: 'matmul', numbers, slots, items: [] }
}

function elementwise(arrays: Arrays): Encoded {
  const { random } = arrays
  const most = random() < 0.02 ? 300 : 20
  const bit = () => integer(random, 0, 1)
  const of = integer(random, 0, 5)
  const numbers = {
    function: of,
    m: integer(random, 0, most),
    n: integer(random, 0, most),
    ...(of === 5 ? { aRows: 1, aColumns: 1 } : { aRows: bit(), aColumns: bit() }),
    ...{ bRows: bit(), bColumns: bit() },
    scale: 0.5,
  }
  const slots = arrays.operands(tables.elementwise.slots, numbers, { b: of < 4 ? 1 : 0 })
  // It does not add to y.
  slots.y.access = access.write
  return { operation: 'elementwise', numbers, slots, items: [] }
}

function attention(name: 'attention' | 'attentionBackward', arrays: Arrays): Encoded {
  const { random } = arrays
  const most = random() < 0.02 ? 300 : 20
  const numbers = {
    batch: integer(random, 0, 3),
    tokens: integer(random, 0, most),
    keys: integer(random, 0, most),
    heads: integer(random, 1, 4),
    dHead: integer(random, 1, random() < 0.05 ? 80 : 9),
    scale: pick(random, [1, 0.1, -2]),
    causal: integer(random, 0, 1),
    activationDtype: dtype.float32,
  }
  const chances = { mask: 0.5, dq: 0.7, dk: 0.7, dv: 0.7, statistics: name === 'attention' ? 0.5 : 1 }
  return { operation: name, numbers, slots: arrays.operands(tables[name].slots, numbers, chances), items: [] }
}

function fold(arrays: Arrays): Encoded {
  const { random } = arrays
  const [dOut, rank, experts] = [integer(random, 1, 40), integer(random, 1, 8), integer(random, 1, 5)]
  const numbers = { dOut, rank, experts }
  const items = Array.from({ length: integer(random, 0, 3) }, (): Item => {
    const isWeighted = random() < 0.3
    const partials = isWeighted ? experts : integer(random, 0, experts)
    const slots = arrays.operands(tables.fold.itemSlots, { ...numbers, partials }, { weights: isWeighted ? 0 : 1 })
    return { numbers: {}, slots }
  })
  const slots = arrays.operands(tables.fold.slots, numbers, {}, { db: integer(random, 0, 2) })
  return { operation: 'fold', numbers, slots, items }
}

function adamw(arrays: Arrays): Encoded {
  const { random } = arrays
  const numbers = { step: integer(random, 1, 5), beta1: 0.9, beta2: 0.999, eps: 1e-8, maxNorm: 1 }
  const items = Array.from({ length: integer(random, 0, 4) }, (): Item => {
    // A task of the kernel has 16384 elements.
    const elements = random() < 0.005 ? integer(random, 16380, 33000) : integer(random, 0, 60)
    const value = integer(random, 0, 2)
    const types = { value, grad: pick(random, [value, dtype.float32]) }
    const slots = arrays.operands(tables.adamw.itemSlots, { elements }, {}, types)
    return { numbers: { lr: 0.01, weightDecay: 0.1 }, slots }
  })
  const slots = arrays.operands(tables.adamw.slots, numbers, { norm: 0.5, skipped: 0.5 })
  return { operation: 'adamw', numbers, slots, items }
}

function ofOperation(arrays: Arrays): unknown[] {
  const { random } = arrays
  const name = pick(random, ['forward', 'backward'] as const)
  const other = [
    fold,
    adamw,
    matmul,
    elementwise,
    () => linear('linear', arrays),
    () => linear('pack', arrays),
    () => attention('attention', arrays),
    () => attention('attentionBackward', arrays),
    () => rows('forwardRows', arrays),
    () => rows('backwardRows', arrays),
    () => rows(pick(random, ['forwardRows', 'backwardRows']), arrays),
  ]
  return argumentsOf(random() < 0.5 ? adapter(name, arrays) : pick(random, other)(arrays))
}

/** The tensor of a capsule: windows of a matrix of any type. */
function exported(arrays: Arrays): [Float64Array, View, () => void] {
  const { random } = arrays
  const [type, code] = pick(random, [
    [dtype.float32, 2],
    [dtype.float16, 2],
    [dtype.bfloat16, 4],
  ])
  const [rows, columns] = [integer(random, 0, 5), integer(random, 0, 5)]
  const [pitch, before] = [columns + integer(random, 0, 3), integer(random, 0, 3)]
  const bytes = bytesOf(type)
  const numbers = [0, 0, before * bytes, code, 8 * bytes, integer(random, 0, 1), rows, columns, pitch, 1]
  return [Float64Array.from(numbers), arrays.typed(type, before + rows * pitch), () => undefined]
}

/** Arrays of any types, which have no limits in common. */
function reduced(arrays: Arrays): unknown[] {
  const { random } = arrays
  const types = Array.from({ length: integer(random, 0, 5) }, () => integer(random, 0, 2))
  const memory = types.map((type) => arrays.typed(type, integer(random, 0, 20), true))
  return ['reduce()', 'key', memory, types, pick(random, [NaN, 0, 1, 2.5]), integer(random, 1, 2 ** 25)]
}

const matrixSize = (random: Random) => integer(random, 1, random() < 0.01 ? 150 : 12)

const MAKERS: readonly [weight: number, name: FunctionName, make: (arrays: Arrays) => unknown[]][] = [
  [100, 'run', ofOperation],
  [2, 'reserve', ofOperation],
  [8, 'runAsync', ofOperation],
  [2, 'packedBytes', (arrays) => argumentsOf(linear('pack', arrays))],
  [
    2,
    'gramFactor',
    (arrays) => {
      const [r, columns] = [matrixSize(arrays.random), matrixSize(arrays.random)]
      return [arrays.doubles(r * columns), r, columns, arrays.doubles(r * r, true)]
    },
  ],
  [
    2,
    'congruenceEigenvalues',
    (arrays) => {
      const [r, columns] = [matrixSize(arrays.random), matrixSize(arrays.random)]
      return [arrays.doubles(r * r), arrays.doubles(r * columns), r, columns, arrays.doubles(r, true)]
    },
  ],
  [2, 'dlpackExport', exported],
  [1, 'dlpackRead', (arrays) => [arrays.native.dlpackExport(...exported(arrays))]],
  [1, 'dlpackTake', (arrays) => [arrays.native.dlpackExport(...exported(arrays))]],
  [2, 'poolStatistics', ({ random }) => [0, 0, random() < 0.5]],
  [0.5, 'hostAddress', (arrays) => [arrays.bytes(integer(arrays.random, 0, 9))]],
  [
    0.5,
    'placeHostBlock',
    (arrays) => {
      const bytes = integer(arrays.random, 0, 99)
      return [arrays.bytes(bytes + 64 + integer(arrays.random, 0, 9), true), bytes]
    },
  ],
  [0.5, 'emptyCache', () => []],
  [0.1, 'backends', () => []],
  [0.1, 'processor', () => []],
  [0.5, 'mpi.open', () => [['nothing.so', '/nothing/libmpi.so']]],
  [0.2, 'mpi.init', () => [1000]],
  [0.5, 'mpi.barrier', () => ['barrier()', 'key']],
  [0.5, 'mpi.gather', (arrays) => ['allGather()', 'key', arrays.bytes(integer(arrays.random, 0, 9))]],
  [1, 'mpi.broadcast', (arrays) => ['broadcast()', 'key', reduced(arrays)[2]]],
  [2, 'mpi.reduce', reduced],
  [0.2, 'mpi.finalize', () => ['finalize()', 'key']],
]

/** What WebAssembly does not have, or refuses. */
const OF_ADDON: readonly FunctionName[] = ['dlpackExport', 'dlpackRead', 'dlpackTake', 'placeHostBlock']
const isOfAddon = (name: FunctionName) => OF_ADDON.includes(name) || name.startsWith('mpi.')

/** Makes calls of a binding. */
export function validCalls(native: Native, allocate: Maker, isWasm: boolean): (random: Random) => Call {
  const makers = MAKERS.filter(([, name]) => !isWasm || !isOfAddon(name))
  const total = makers.reduce((sum, [weight]) => sum + weight, 0)
  return (random) => {
    let at = random() * total
    const [, name, make] = makers.find(([weight]) => (at -= weight) < 0) ?? makers[0]
    const arrays = new Arrays(native, random, allocate)
    return { name, args: make(arrays), blocks: arrays.blocks }
  }
}
