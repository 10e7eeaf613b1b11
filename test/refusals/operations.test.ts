/**
 * What the operations refuse: operands, gradients, saved calls and options, on every backend.
 *
 * @project cpu wasm cuda
 */
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import * as lily from '../../lib/index.js'
import { type LilySaved, tensor } from '../../lib/index.js'
import * as ops from '../support/backend.js'
import { filled, type HostTensor, numbers, sizes, smallLoraB, smallOperands, typedOperands } from '../support/small.js'
import { expectRefused } from './refused.js'
import { type Kinds, MISSING, refuse, type Row, type Subject } from './table.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const isHost = ops.backend === 'cpu'

/** The operands of any call beside its options; the rows violate their types. */
interface Call extends Record<Name | 'dy' | 'dx' | 'da', HostTensor> {
  saved: LilySaved
  /** The operands of the forward that returned `saved`. */
  inputs: Record<string, HostTensor>
  options: Record<string, unknown>
  [name: string]: unknown
}
type Name = 'x' | 'a' | 'router' | 'b' | 'y'
type Bad = Row<Call>[]
type Value = Row<Call>[2]

/** Rows about host memory, and kinds, which the same code of lib/ checks for every backend. */
const onHost = <Rows extends object>(rows: Rows) => (isHost ? rows : ([] as never))

/** Runs a function of operands and options, or of operands, saved and options. `operands` replaces all of them. */
const run = (of: (...args: never[]) => unknown) => (call: Call) => {
  const { saved, options, inputs: _, ...operands } = call
  const args = 'saved' in call ? [saved, options] : [options]
  return of(...([operands.operands ?? operands, ...args] as never[]))
}
/* Bad operands. */

const count = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)
const room = (...shape: number[]) => filled(1, ...shape)
const halves = (shape: number[], dtype = 'bfloat16') => ({ data: new Uint16Array(count(shape)), shape, dtype })
const onDevice = (...shape: number[]) => ({ ptr: 0x1000, shape, dtype: 'float32', device: { type: 'cuda', id: 0 } })
const disposed = (...shape: number[]) => {
  const gone = tensor(room(...shape).data, shape)
  gone.dispose()
  return gone
}
/** The operand, whose memory is transferred. */
const detached = (of: HostTensor) => {
  structuredClone(null, { transfer: [of.data.buffer as ArrayBuffer] })
  return of
}
/** A view of the memory of another operand, from an element on. */
const inside = ({ data }: HostTensor, from: number, ...shape: number[]) => ({
  data: new Float32Array(data.buffer, data.byteOffset + 4 * from, count(shape)),
  shape,
})
/** An operand at the start of a larger buffer. */
const part = (...shape: number[]) => inside(room(64), 0, ...shape)
const provider = (method: unknown) => ({ [lily.deviceTensor]: method })
const throwing = (cause: unknown) =>
  provider(() => {
    throw cause
  })
const ofOtherRealm: unknown = runInNewContext("new Error('of a realm')")

/** Errors of any operand, with x for all. */
const ofOperands: Bad = [
  ['x.data', 'an ArrayBuffer', ({ x }) => x.data.buffer, 'ARGUMENT'],
  ['x.data', 'a Float64Array', ({ x }) => Float64Array.from(x.data), 'DTYPE'],
  ['x.data', 'an Int32Array', new Int32Array(tokens * dIn), 'DTYPE'],
  ['x.data', 'a Uint16Array without a dtype', new Uint16Array(tokens * dIn), 'DTYPE'],
  ['x.dtype', 'no type', 'float64', 'DTYPE'],
  // Bytes that are copied to a device have the type that the operand says, which is then that of no y.
  ['x.dtype', 'not that of data', 'bfloat16', 'DTYPE', isHost ? 'x' : 'y'],
  ['x.shape', 'without a dimension', [], 'SHAPE'],
  ['x.shape', 'a broken dimension', [tokens, 2.5], 'SHAPE'],
  ['x.shape', 'negative dimensions', [-tokens, -dIn], 'SHAPE'],
  ['x.shape', 'a dimension that is NaN', [tokens, NaN], 'SHAPE'],
  ['x.shape', 'more elements than data', [tokens + 1, dIn], 'SHAPE'],
  ['x.shape', 'a product of dimensions beyond 2^53', [2 ** 30, 2 ** 30, dIn], 'SHAPE'],
  ['x.strides', 'whose last is not 1', [1, tokens], 'SHAPE'],
  ['x.strides', 'for other dimensions', [dIn, 1, 1], 'SHAPE'],
  ['x.strides', 'one that is negative', [-dIn, 1], 'SHAPE'],
  ['x.strides', 'that reach beyond data', [dIn + 1, 1], 'SHAPE'],
  ['x.strides', 'one beyond 2^53', [2 ** 52, 1], 'SHAPE', 'with strides [4503599627370496, 1] of'],
  ['x', 'strides that do not flatten', { ...room(100), shape: [2, 3, dIn], strides: [20, dIn, 1] }, 'SHAPE'],
  ['x.byteOffset', 'beyond data', 4, 'SHAPE'],
  ['x.byteOffset', 'within an element', 2, 'ARGUMENT'],
  ['x.byteOffset', 'negative', -4, 'ARGUMENT'],
  ['x', 'disposed of', disposed(tokens, dIn), 'DISPOSED'],
  // The others are compared with x. On a CUDA device they are on the same one, and x is refused for its address.
  ['x', 'on another device than the rest', onDevice(tokens, dIn), 'DEVICE', ops.backend === 'cuda' ? 'x' : 'a'],
  ['x', 'an address without a device', { ...onDevice(tokens, dIn), device: undefined }, 'DEVICE'],
  ['x', 'an address that is a fraction', { ...onDevice(tokens, dIn), ptr: 0.5 }, 'ARGUMENT'],
  ['x', 'a provider that returns nothing', provider(() => undefined), 'ARGUMENT'],
  ['x', 'a provider that is no function', provider(7), 'ARGUMENT'],
  [
    'x',
    'a provider that throws',
    throwing(new Error('no memory')),
    'ARGUMENT',
    'x: reading it threw an error (no memory)',
  ],
  [
    'x',
    'a provider that throws an error of another realm',
    throwing(ofOtherRealm),
    'ARGUMENT',
    '(of a realm); see cause',
  ],
  ...onHost<Bad>([
    ['x.data', 'one element too many', new Float32Array(tokens * dIn + 1), 'SHAPE'],
    ['x', 'detached', ({ x }) => detached(x), 'ARGUMENT'],
    ['x.device', 'another one than that of data', { type: 'cuda', id: 0 }, 'DEVICE'],
    ['x.data', 'of a buffer that has shrunk', shrunk, 'SHAPE'],
  ]),
]

function shrunk() {
  // Node 20 has resizable buffers; its type definitions do not include them.
  const Resizable = ArrayBuffer as unknown as new (
    length: number,
    options: object,
  ) => ArrayBuffer & { resize: (length: number) => void }
  const buffer = new Resizable(4 * tokens * dIn, { maxByteLength: 4 * tokens * dIn })
  const data = new Float32Array(buffer)
  buffer.resize(4 * dIn)
  return data
}

/** An output that begins within another operand: one of its forward, or of the call, which is put into a larger buffer. */
const over = (output: string, other: string, first: number, ...shape: number[]): Row<Call> => {
  const within = (call: Partial<Call>) =>
    inside(call.inputs?.[other] ?? (call[other] = part(...(call[other] as HostTensor).shape)), first, ...shape)
  const message = `${output}: its memory overlaps that of ${other}; pass memory that no other operand uses`
  return [output, `from element ${first} of ${other} on`, within, 'ARGUMENT', message]
}

/* Bad options of forward. */

/** Rows of one path. */
const rowsOf = (
  path: string,
  argument: string,
  rows: [what: string, value: Value, code: Row<Call>[3], message?: string][],
) => rows.map(([what, value, code, message = argument]): Row<Call> => [path, what, value, code, message])

const bytes = (length: number, ...shape: number[]) => ({ data: new Uint8Array(length), shape })
const leading = (mask: unknown) => (call: Call) => ((call.x.shape = [2, 3, dIn]), mask)
const maskTypes = isHost ? 'uint8 or int32 or float32' : 'uint8 in device memory'
const badMasks = rowsOf('options.mask', 'mask', [
  ['too short', new Uint8Array(tokens - 1), 'SHAPE'],
  ['too long', new Array(tokens + 1).fill(1), 'SHAPE', `mask: expected one flag per token, [${tokens}], got`],
  ['other leading dimensions', bytes(tokens, 3, 2), 'SHAPE'],
  ['the leading dimensions of x exchanged', leading(bytes(tokens, 3, 2)), 'SHAPE'],
  ['only the first of the leading dimensions of x', leading(new Uint8Array(2)), 'SHAPE'],
  ['two flags per token', bytes(2 * tokens, tokens, 2), 'SHAPE'],
  ['float16', halves([tokens], 'float16'), 'DTYPE', `mask: expected ${maskTypes}, got float16`],
  ['float32 between 0 and 1', new Float32Array(tokens).fill(0.5), 'ARGUMENT'],
  ['int32 that is neither 0 nor 1', Int32Array.of(1, 2, 1, 1, 1, 1), 'ARGUMENT'],
  ['strings', new Array(tokens).fill('1'), 'ARGUMENT'],
  ['NaN', [1, 1, 1, 1, 1, NaN], 'ARGUMENT'],
  // Of no numbers there can be any number of rows, and walking through them would take minutes.
  ['rows without columns', bytes(0, 2 ** 30, 0), 'SHAPE'],
])

const inSequences = (sequenceOffsets: unknown) => ({ routing: 'sequence', sequenceOffsets })
const badOffsets = rowsOf('options', 'sequenceOffsets', [
  ['offsets without sequences', { sequenceOffsets: [0, tokens] }, 'ARGUMENT'],
  ['sequences without offsets', { routing: 'sequence' }, 'ARGUMENT'],
  ['offsets that decrease', inSequences([0, 4, 2, tokens]), 'ARGUMENT', 'not decrease: element 2 is 2 after 4'],
  ['offsets not from 0', inSequences([1, tokens]), 'ARGUMENT'],
  ['negative offsets', inSequences([0, -1, tokens]), 'ARGUMENT', 'not decrease: element 1 is -1 after 0'],
  ['offsets that end before M', inSequences([0, tokens - 1]), 'ARGUMENT'],
  ['offsets that end beyond M', inSequences([0, tokens + 1]), 'ARGUMENT'],
  ['broken offsets', inSequences([0, 1.5, tokens]), 'ARGUMENT'],
  ['offsets beyond 32 bits', inSequences([0, 2 ** 32, 2 ** 32 + tokens]), 'ARGUMENT'],
  ['no offsets', inSequences([]), 'SHAPE', 'got none'],
  ['a matrix of offsets', inSequences({ data: Int32Array.of(0, tokens), shape: [1, 2] }), 'SHAPE', 'got shape [1, 2]'],
  ['the offsets of no sequence', inSequences([0]), 'SHAPE', 'got one offset'],
  ['offsets in float32', inSequences(Float32Array.of(0, tokens)), 'DTYPE'],
  ['offsets in 64 bits', inSequences(BigInt64Array.of(0n, BigInt(tokens))), 'DTYPE'],
  ['detached offsets', () => inSequences(detached(filled(0, 2)).data), 'ARGUMENT', 'sequenceOffsets: its ArrayBuffer'],
  ['offsets without columns', inSequences({ data: new Int32Array(0), shape: [2 ** 30, 0] }), 'SHAPE'],
])

/** Weights of fixed routing, with a b of this shape. */
const badWeights = (...shape: number[]) => {
  const fixed = (weights: unknown, sequenceOffsets?: number[]) => (call: Call) => {
    Reflect.deleteProperty(call, 'router')
    call.b.shape = shape
    return { routing: 'fixed', weights, sequenceOffsets }
  }
  const grouped = (...of: number[]) => fixed({ data: new Float32Array(count(of)), shape: of }, [0, 2, tokens])
  return rowsOf('options', 'weights', [
    ['no weights', fixed(undefined), 'ARGUMENT', "weights: is required by routing 'fixed', got undefined"],
    ['weights that are NaN', fixed([1, NaN]), 'ARGUMENT'],
    ['weights that are infinite in float32', fixed([1e39, 0]), 'ARGUMENT'],
    ['weights for other experts', fixed([1, 0, 0]), 'SHAPE'],
    ['weights for more experts than there can be', fixed(new Array(100).fill(0)), 'SHAPE'],
    ['weights in bytes', fixed(Uint8Array.of(1, 0)), 'DTYPE'],
    ['weights for other groups', grouped(3, experts), 'SHAPE'],
    ['weights of three dimensions', grouped(2, experts, 1), 'SHAPE'],
    ['weights without columns', grouped(2 ** 30, 0), 'SHAPE'],
  ])
}

const state = lily.dropoutState(1)
const words = (...numbers: number[]) => ({ rate: 0.5, state: Int32Array.from(numbers) })
/** A state at the end of a larger buffer of an operand. */
const stateIn = (name: Name) => (call: Call) => {
  const { length } = call[name].data
  call[name].data = new Float32Array(length + 3).subarray(0, length)
  return { rate: 0.5, state: { data: new Int32Array(call[name].data.buffer, 4 * (length - 1), 4), shape: [4] } }
}
/** A state at the end of an operand that the call gets, too. */
const stateInLayer = (name: 'weight' | 'bias') => (call: Call) => {
  call.weight = room(dOut, dIn)
  if (name === 'bias') call.bias = room(dOut)
  return stateIn(name as Name)(call)
}
const badDropout = rowsOf('options.dropout', 'dropout', [
  ['a rate alone', 0.1, 'ARGUMENT', 'dropout: expected a plain object { rate, state }, got 0.1'],
  ['no rate', { state }, 'ARGUMENT', 'dropout.rate: expected a number that is at least 0 and below 1, got undefined'],
  ['a rate below 0', { rate: -0.1, state }, 'ARGUMENT', 'dropout.rate: expected'],
  ['a rate of 1', { rate: 1, state }, 'ARGUMENT', 'dropout.rate: expected'],
  ['a rate that is NaN', { rate: NaN, state }, 'ARGUMENT', 'dropout.rate: expected'],
  ['a rate in a text', { rate: '0.1', state }, 'ARGUMENT', 'dropout.rate: expected'],
  ['no state', { rate: 0.1 }, 'ARGUMENT', 'dropout.state: is required, got undefined; pass one dropoutState(seed)'],
  ['no state beside a rate of 0', { rate: 0 }, 'ARGUMENT', 'dropout.state: is required'],
  ['a seed in the place of the state', { rate: 0.1, state: 42 }, 'ARGUMENT', 'dropout.state: expected a tensor'],
  ['a seed beside the state', { rate: 0.1, state, seed: 42 }, 'ARGUMENT', 'seed'],
  ['a list as the state', { rate: 0.1, state: [1, 0, 0, 0] }, 'ARGUMENT', 'dropout.state'],
  ['three words', words(1, 0, 0), 'SHAPE', 'dropout.state: expected [4], as dropoutState returns, got [3]'],
  ['five words', words(1, 0, 0, 0, 0), 'SHAPE', 'dropout.state: expected [4]'],
  ['a state in rows', { rate: 0.1, state: { data: state, shape: [2, 2] } }, 'SHAPE', 'dropout.state: expected [4]'],
  ['a state in float32', { rate: 0.1, state: new Float32Array(4) }, 'DTYPE', 'dropout.state: expected int32'],
  [
    'a state in uint32',
    { rate: 0.1, state: new Uint32Array(4) },
    'DTYPE',
    'dropout.state: expected data in Int32Array',
  ],
  ['a state whose memory is gone', () => gone(), 'ARGUMENT', 'dropout.state: its ArrayBuffer is detached'],
  ['a state in x', stateIn('x'), 'ARGUMENT', 'dropout.state: its memory overlaps that of x'],
  ['a state in a', stateIn('a'), 'ARGUMENT', 'dropout.state: its memory overlaps that of a'],
  ['a state in b', stateIn('b'), 'ARGUMENT', 'dropout.state: its memory overlaps that of b'],
  ['a state in y', stateIn('y'), 'ARGUMENT', 'dropout.state: its memory overlaps that of y'],
  ['a state in weight', stateInLayer('weight'), 'ARGUMENT', 'dropout.state: its memory overlaps that of weight'],
  ['a state in bias', stateInLayer('bias'), 'ARGUMENT', 'dropout.state: its memory overlaps that of bias'],
])
/** A state in a small operand, which the options get with `others`. */
const stateInSmall = (name: string, data: Float32Array | Int32Array, others = {}): Row<Call> => {
  const value = (call: Call) => {
    if (name === 'weights') call.router = undefined as never
    Object.assign(call.options, { [name]: name === 'weights' ? data.subarray(0, experts) : data }, others)
    return { rate: 0.5, state: new Int32Array(data.buffer, 0, 4) }
  }
  return [
    'options.dropout',
    `a state in ${name}`,
    value,
    'ARGUMENT',
    `dropout.state: its memory overlaps that of ${name}`,
  ]
}
const badRoutedDropout: Bad = [
  ...rowsOf('options.dropout', 'dropout', [
    ['a state in router', stateIn('router'), 'ARGUMENT', 'dropout.state: its memory overlaps that of router'],
  ]),
  ...onHost<Bad>([
    stateInSmall('mask', new Int32Array(tokens).fill(1)),
    stateInSmall('sequenceOffsets', Int32Array.of(0, 2, 4, tokens), { routing: 'sequence' }),
    stateInSmall('weights', new Float32Array(4), { routing: 'fixed' }),
  ]),
]
const gone = () => {
  const data = lily.dropoutState(1)
  structuredClone(null, { transfer: [data.buffer as ArrayBuffer] })
  return { rate: 0.1, state: data }
}
const NAMES = ['x', 'a', 'router', 'b', 'y'] as const

/** The operand in a type, and the others in bfloat16 or in those named. */
const sixteen =
  (name: Name, dtype: string, others: Partial<Record<Name, string>> = {}) =>
  (call: Call) => {
    const dtypes = { ...others, [name]: dtype }
    for (const each of NAMES) {
      const { shape } = call[each]
      const of = dtypes[each] ?? 'bfloat16'
      call[each] = (of === 'float32' ? room(...shape) : halves(shape, of)) as never
    }
    return call[name]
  }
/** Changes other operands, too. */
const beside = (others: Partial<Call>, value: unknown) => (call: Call) => (Object.assign(call, others), value)
/** A call with a learned mixture, and what makes it wrong. */
const learned = (change: Partial<Call>, value: unknown, options = {}) =>
  beside({ router: room(experts), ...change, options: { routing: 'learned', ...options } }, value)
const badLearned: Bad = [
  ['router', 'no logits', learned({}, MISSING), 'ARGUMENT', "router: is required by routing 'learned', got undefined"],
  ['router', 'logits for each rank', learned({}, room(experts, rank)), 'SHAPE', 'router: expected the logits [E], or'],
  ['router', 'a row of logits', learned({}, room(1, experts)), 'SHAPE', 'router: expected the logits [E], or'],
  ['router', 'logits of three dimensions', learned({}, room(experts, 1, 1)), 'SHAPE'],
  ['router', 'more than 64 logits', learned({ b: room(65, rank, dOut) }, room(65)), 'SHAPE'],
  ['router', 'logits for other experts than b', learned({}, room(experts + 1)), 'SHAPE', 'b'],
  ['router', 'logits of 16 bits', learned({}, halves([experts])), 'DTYPE'],
  ...['mask', 'weights', 'sequenceOffsets'].map((name): Row<Call> => {
    const value = name === 'mask' ? new Uint8Array(tokens) : name === 'weights' ? [1, 0] : [0, tokens]
    return ['x', `${name} of a learned mixture`, learned({}, room(tokens, dIn), { [name]: value }), 'ARGUMENT', name]
  }),
  ['x', 'a pool of a learned mixture', learned({}, room(tokens, dIn), { pool: 'logits' }), 'ARGUMENT', 'pool'],
]

/** A call with this b and without a router. */
const uniform =
  (...shape: number[]) =>
  (call: Call) => {
    Reflect.deleteProperty(call, 'router')
    call.options = { routing: 'uniform' }
    return room(...shape)
  }
const inThree = { routing: 'sequence' }
const noTokens = (sequences: number) => ({ data: new Float32Array(0), shape: [sequences, 0, dIn] })
const onDevices = (call: Call) => {
  for (const name of NAMES) call[name] = onDevice(...call[name].shape) as never
  return call.x
}

const badForward: Bad = [
  ['x', 'no columns', room(tokens, 0), 'SHAPE'],
  ['x', '16 bits with a float32 y', halves([tokens, dIn]), 'DTYPE', 'y'],
  ['x', '2^31 sequences', noTokens(2 ** 31), 'SHAPE'],
  ['x', 'more sequences than a call can have', beside({ options: inThree }, noTokens(2 ** 53 - 1)), 'SHAPE'],
  ['scaling', 'no operand', 2, 'ARGUMENT', 'router, b, y; options are the second argument'],
  ['a', 'three dimensions', room(1, rank, dIn), 'SHAPE'],
  ['a', 'another d_in', room(rank, dIn + 1), 'SHAPE'],
  ['a', 'no rank', beside({ router: room(experts, 0), b: room(0, dOut) }, room(0, dIn)), 'SHAPE'],
  ['a', 'a rank above 4096', beside({ router: room(2, 4097), b: room(2 * 4097, dOut) }, room(4097, dIn)), 'SHAPE'],
  ['a', '16 bits with float32', halves([rank, dIn]), 'DTYPE'],
  ['a', 'bfloat16 with float16', sixteen('a', 'bfloat16', { x: 'float16' }), 'DTYPE'],
  ['router', 'float32 with a 16-bit a', sixteen('router', 'float32'), 'DTYPE'],
  ['router', '16 bits with a float32 a', sixteen('router', 'bfloat16', { a: 'float32', b: 'float32' }), 'DTYPE'],
  ['router', 'another rank', room(experts, rank + 1), 'SHAPE'],
  ['router', 'one dimension', room(experts * rank), 'SHAPE'],
  ['router', 'three dimensions', room(1, experts, rank), 'SHAPE'],
  ['router', 'no experts', beside({ b: room(0, dOut) }, room(0, rank)), 'SHAPE'],
  ['router', 'more than 64 experts', beside({ b: room(65, rank, dOut) }, room(65, rank)), 'SHAPE'],
  ['b', 'float32 with a 16-bit a', sixteen('b', 'float32'), 'DTYPE'],
  ['b', 'another 16-bit type', sixteen('b', 'float16'), 'DTYPE'],
  ['b', 'another rank', room(experts, rank + 1, dOut), 'SHAPE'],
  ['b', 'other experts', room(experts + 1, rank, dOut), 'SHAPE'],
  ['b', 'E and r exchanged', room(rank, experts, dOut), 'SHAPE'],
  ['b', 'no columns', beside({ y: room(tokens, 0) }, room(experts, rank, 0)), 'SHAPE'],
  ['b', 'four dimensions', room(experts, 1, rank, dOut), 'SHAPE'],
  ['b', 'no multiple of r rows, without a router', uniform(experts * rank + 1, dOut), 'SHAPE', 'b: expected [E*r'],
  ['b', 'more than 64 experts, without a router', uniform(65 * rank, dOut), 'SHAPE', 'b: expected E from 1 to 64'],
  ['y', 'other rows', room(tokens - 1, dOut), 'SHAPE'],
  ['y', 'other columns', room(tokens, dOut + 1), 'SHAPE'],
  ['y.strides', 'rows that overlap', [dOut - 1, 1], 'SHAPE'],
  ['y.strides', 'all rows in one place', [0, 1], 'SHAPE'],
  ['y', '16 bits', halves([tokens, dOut]), 'DTYPE'],
  ['y', 'float32 with 16 bits', sixteen('y', 'float32'), 'DTYPE'],
  ['y', 'another 16-bit type', sixteen('y', 'float16'), 'DTYPE'],
  ['y', 'disposed of', disposed(tokens, dOut), 'DISPOSED'],
  ['y', 'on a device', onDevice(tokens, dOut), 'DEVICE'],
  over('y', 'x', 0, tokens, dOut),
  over('y', 'x', tokens * dIn - 1, tokens, dOut),
  over('y', 'a', 14, tokens, dOut),
  over('y', 'router', 5, tokens, dOut),
  over('y', 'b', 0, tokens, dOut),
  ['routerWeight', 'no operand', room(experts, rank), 'ARGUMENT'],
  ['options.scale', 'no option', 2, 'ARGUMENT'],
  ['options.toString', 'a property of every object', () => () => 'options', 'ARGUMENT'],
  ['options.scaling', 'infinite', -Infinity, 'ARGUMENT'],
  ['options.scaling', 'infinite in float32', 1e39, 'ARGUMENT'],
  ['options.routing', 'unknown', 'expert', 'ARGUMENT'],
  ['options.routing', 'a property of every object', 'constructor', 'ARGUMENT'],
  ['options.routing', 'the internal one of LoRA', 'none', 'ARGUMENT'],
  ['options.weights', 'with a router', [1, 0], 'ARGUMENT'],
  ...badMasks,
  ...badOffsets,
  ...badWeights(experts, rank, dOut),
  ...badWeights(experts * rank, dOut),
  ...badDropout,
  ...badRoutedDropout,
  ...badLearned,
  ...onHost<Bad>([
    ['y', 'detached', ({ y }) => detached(y), 'ARGUMENT'],
    ['options.stream', 'on the cpu', 1, 'ARGUMENT'],
    ['options.mask', 'more elements than data', bytes(tokens - 1, tokens), 'SHAPE'],
    ['x', 'all operands on a device', onDevices, 'BACKEND_UNAVAILABLE'],
    ['options', 'a Tensor', tensor([2], [1]), 'ARGUMENT', '}, got an object of type Tensor'],
    ['options', 'a Map', new Map([['scaling', 2]]), 'ARGUMENT', '}, got an object of type Map'],
    ['options', 'a Promise', Promise.resolve({}), 'ARGUMENT', '}, got an object of type Promise; await it'],
  ]),
]

/* Backward. */

const badBackward: Bad = [
  ['dy', 'other rows', room(tokens + 1, dOut), 'SHAPE'],
  ['dy', 'other columns', room(tokens, dOut + 1), 'SHAPE'],
  ['dy', 'transposed', room(dOut, tokens), 'SHAPE'],
  ['dy', '16 bits', halves([tokens, dOut]), 'DTYPE'],
  ['dy', 'on a device', onDevice(tokens, dOut), 'DEVICE'],
  ['x', 'another shape than in forward', room(tokens + 1, dIn), 'SHAPE'],
  ['x', 'the first dimension of that of forward', room(tokens), 'SHAPE', 'x: expected [6, 5]'],
  ['x', 'the rows of forward in another shape', room(1, tokens, dIn), 'SHAPE'],
  ['x', '16 bits', halves([tokens, dIn]), 'DTYPE'],
  ['x', 'on a device', onDevice(tokens, dIn), 'DEVICE'],
  ['dx', 'another shape', room(tokens, dIn + 1), 'SHAPE'],
  ['dx', '16 bits', halves([tokens, dIn]), 'DTYPE'],
  ['dx.strides', 'rows that overlap', [dIn - 1, 1], 'SHAPE'],
  ['da', '16 bits with a float32 a', halves([rank, dIn]), 'DTYPE'],
  ['da', 'another shape', room(dIn, rank), 'SHAPE'],
  ['da', 'three dimensions', room(1, rank, dIn), 'SHAPE'],
  ['dRouter', 'another shape', room(rank, experts), 'SHAPE'],
  ['dRouter', 'disposed of', disposed(experts, rank), 'DISPOSED'],
  ['db', 'another shape', room(experts, dOut, rank), 'SHAPE'],
  ['db', 'on a device', onDevice(experts, rank, dOut), 'DEVICE'],
  ['dx', 'in the x given again', (call) => inside((call.x = room(tokens, dIn)), 0, tokens, dIn), 'ARGUMENT'],
  over('dx', 'dy', 0, tokens, dIn),
  over('dx', 'x', 0, tokens, dIn),
  over('da', 'a', 0, rank, dIn),
  over('dRouter', 'router', 0, experts, rank),
  over('db', 'b', 0, experts, rank, dOut),
  over('da', 'dx', 15, rank, dIn),
  over('dRouter', 'da', 9, experts, rank),
  over('db', 'dx', 6, experts, rank, dOut),
  ['dw', 'no operand', room(rank, dIn), 'ARGUMENT'],
  ['options.defer', 'no option', true, 'ARGUMENT'],
  ['options.needs', 'of a name that does not exist', { dX: true }, 'ARGUMENT', 'dX'],
  ['options.needs', 'a Map', new Map(), 'ARGUMENT', 'dWeights }, got an object of type Map'],
  ['options.needs', 'weights that are computed', { dWeights: true }, 'ARGUMENT', 'needs.dWeights: expected false'],
  ['dWeights', 'not needed', room(1, experts), 'ARGUMENT', 'dWeights: is given without needs: { dWeights: true }'],
  ['options.needs', 'without dx, which is given', { dx: false }, 'ARGUMENT', 'dx'],
  ['options.deferB', 'with db', true, 'ARGUMENT', 'db'],
  ['saved', 'of LoRA', loraSaved, 'ARGUMENT'],
  ['saved', 'of a call that saves nothing', () => undefined, 'ARGUMENT', 'got undefined'],
  ['saved', 'disposed of', ({ saved }) => (saved.dispose(), saved), 'DISPOSED'],
  ...onHost<Bad>([
    ['dy', 'detached', ({ dy }) => detached(dy), 'ARGUMENT'],
    ['x', 'detached', () => detached(room(tokens, dIn)), 'ARGUMENT'],
    ['da', 'detached', ({ da }) => detached(da), 'ARGUMENT'],
    ['dRouter', 'in saved.hidden', ({ saved }) => inside(saved.hidden as never, 0, experts, rank), 'ARGUMENT'],
    ...['x', 'a', 'router', 'b'].map((name): Row<Call> => {
      const since = ({ inputs, dy }: Call) => (detached(inputs[name]), dy)
      return ['dy', `with ${name} of forward detached`, since, 'ARGUMENT', name]
    }),
  ]),
]

async function loraSaved() {
  const { x, a } = smallOperands()
  return (await ops.loraForward({ x, a, b: smallLoraB() })).saved
}

/* The functions. */

const lilyCall = () => {
  const { x, a, router, b } = smallOperands()
  return { x, a, router, b, y: room(tokens, dOut), options: {} } as never as Call
}
const loraCall = () => {
  const { router: _, ...call } = lilyCall()
  return { ...call, b: smallLoraB() } as never as Call
}
const lilyGradients = async () => {
  const { dy, ...inputs } = smallOperands()
  const { saved } = await ops.lilyForward(inputs)
  const [dx, da] = [room(tokens, dIn), room(rank, dIn)]
  const gradients = { dx, da, dRouter: room(experts, rank), db: room(experts, rank, dOut) }
  return { dy, ...gradients, saved, inputs, options: {} } as never as Call
}
const loraGradients = async () => {
  const { dRouter: _, ...call } = await lilyGradients()
  return { ...call, saved: await loraSaved(), db: room(dOut, rank) } as never as Call
}

/** The subject of a function. If all operands are something else, its error may name the first that is required. */
const operation = (call: Subject<Call>['call'], of: (...args: never[]) => unknown, kinds: Kinds, rows: Bad = []) => {
  const required = `operands ${kinds.required}`
  const names = {
    operands: new RegExp(`operands|\\b${required.split(' ')[1]}\\b`),
    options: /options|heads/,
    'options.deferB': /deferB|db/,
  }
  // Valid by their type, but not beside the other arguments of the call.
  const without = { 'options.transposeA': ['true'], 'options.transposeB': ['true'], 'options.heads': ['5'] } as const
  return { call, run: run(of), kinds: onHost({ ...kinds, required }), names, without, rows }
}

const always = 'options.precision options.stream'
const lilyKinds: Kinds = {
  required: 'x a router b x.data x.shape',
  options: 'options',
  optional:
    `y x.dtype x.strides x.byteOffset x.device ${always} options.routing options.pool options.activation ` +
    'options.mask options.sequenceOffsets options.weights options.dropout',
  flag: 'options.save options.accumulate',
  numberOrNot: 'options.scaling',
}
const loraKinds: Kinds = { ...lilyKinds, required: 'x a b', optional: `y ${always} options.dropout` }
const backwardKinds: Kinds = {
  required: 'dy saved',
  optional: 'dx da db options.stream',
  options: 'options options.needs',
  flag: 'options.retain options.accumulate options.needs.dx options.needs.da options.needs.db',
}
const lilyBackwardKinds: Kinds = {
  ...backwardKinds,
  optional: `${backwardKinds.optional} dRouter options.deferB`,
  flag: `${backwardKinds.flag} options.needs.dRouter`,
}
const badLora: Bad = [
  ...badDropout,
  ['b', "Lily's shape", room(rank, dOut), 'SHAPE'],
  ['b', "Lily's shape of one expert", room(1, rank, dOut), 'SHAPE'],
  ['b', 'three dimensions', room(1, dOut, rank), 'SHAPE'],
  ['b', 'no rows', room(0, rank), 'SHAPE'],
  ['b', '16 bits', halves([dOut, rank]), 'DTYPE'],
  ['a', 'another d_in', room(rank, dIn + 1), 'SHAPE'],
  ['a', '16 bits', halves([rank, dIn]), 'DTYPE'],
  ['y', 'another d_out', room(tokens, dOut + 1), 'SHAPE'],
  ['router', 'no operand of LoRA', room(1, rank), 'ARGUMENT'],
  ...['routing', 'pool', 'mask', 'sequenceOffsets', 'weights'].map((name): Row<Call> => [
    `options.${name}`,
    'no option of LoRA',
    'batch',
    'ARGUMENT',
  ]),
]
const badLoraBackward: Bad = [
  ['options.needs', 'no gradient of LoRA', { dWeights: true }, 'ARGUMENT', 'dWeights'],
  ['saved', "of Lily's forward", async () => (await lilyGradients()).saved, 'ARGUMENT'],
  ['dRouter', 'no gradient of LoRA', room(1, rank), 'ARGUMENT'],
  ['options.deferB', 'no option of LoRA', true, 'ARGUMENT'],
  ['db', "Lily's shape", room(rank, dOut), 'SHAPE'],
]
const transposed = { transposeB: true }
refuse('lilyForward', operation(lilyCall, ops.lilyForward, lilyKinds, [...ofOperands, ...badForward]))
refuse('lilyForwardAsync', operation(lilyCall, ops.lilyForwardAsync, lilyKinds))
refuse('lilyBackward', operation(lilyGradients, ops.lilyBackward, lilyBackwardKinds, badBackward))
refuse('lilyBackwardAsync', operation(lilyGradients, ops.lilyBackwardAsync, lilyBackwardKinds))
refuse('loraForward', operation(loraCall, ops.loraForward, loraKinds, badLora))
refuse('loraForwardAsync', operation(loraCall, ops.loraForwardAsync, loraKinds))
refuse('loraBackward', operation(loraGradients, ops.loraBackward, backwardKinds, badLoraBackward))
refuse('loraBackwardAsync', operation(loraGradients, ops.loraBackwardAsync, backwardKinds))

refuse('dropoutState', {
  call: () => ({ seed: 2 ** 53 - 1, position: 7 }),
  run: ({ seed, position }) => lily.dropoutState(seed, position),
  kinds: { number: 'seed', numberOrNot: 'position' },
  rows: [
    ['seed', 'negative', -1, 'ARGUMENT'],
    ['seed', 'a fraction', 0.5, 'ARGUMENT'],
    ['seed', 'beyond 2^53', 2 ** 53, 'ARGUMENT'],
    ['position', 'negative', -1, 'ARGUMENT'],
  ],
})

const afterBfloat16 = async () => {
  const { dy, ...operands } = typedOperands({ activations: 'bfloat16' })
  return { dy, saved: (await ops.lilyForward(operands)).saved, options: {} } as never as Call
}
refuse('lilyBackward after a forward in bfloat16', {
  call: afterBfloat16,
  run: run(ops.lilyBackward),
  rows: [
    ['dy', 'float32', room(tokens, dOut), 'DTYPE'],
    ['dy', 'float16', halves([tokens, dOut], 'float16'), 'DTYPE'],
    ['dx', 'float32', room(tokens, dIn), 'DTYPE'],
    ['da', 'float16', halves([rank, dIn], 'float16'), 'DTYPE'],
    ['dRouter', 'float16', halves([experts, rank], 'float16'), 'DTYPE'],
    ['db', 'float16', halves([experts, rank, dOut], 'float16'), 'DTYPE'],
  ],
})

refuse('lilyBackward after a forward in bfloat16 with given weights', {
  call: async () => {
    const { dy, router: _, ...operands } = typedOperands({ activations: 'bfloat16' })
    const { saved } = await ops.lilyForward(operands, { routing: 'fixed', weights: [1, 0] })
    return { dy, saved, options: { needs: { dWeights: true } } } as never
  },
  run: run(ops.lilyBackward),
  rows: [
    ['dWeights', 'bfloat16', halves([1, experts]), 'DTYPE'],
    ['dWeights', 'another shape', room(experts), 'SHAPE'],
    ['dRouter', 'without a router', room(experts, rank), 'ARGUMENT'],
  ],
})

/* The frozen layer below an adapter, and linear layers. */

const layer = () => ({ weight: room(dOut, dIn), bias: room(dOut) })
const badLayer: Bad = [
  ['weight', 'another d_in', room(dOut, dIn + 1), 'SHAPE'],
  ['weight', 'three dimensions', room(1, dOut, dIn), 'SHAPE'],
  ['bias', 'another size', room(dOut - 1), 'SHAPE', `bias: expected [${dOut}]`],
  ['bias', 'two dimensions', room(1, dOut), 'SHAPE', `bias: expected [${dOut}]`],
  ['bias', '16 bits', halves([dOut]), 'DTYPE'],
  [
    'weight',
    'another 16-bit type than x',
    beside({ x: halves([tokens, dIn]) as never, bias: undefined, y: undefined }, halves([dOut, dIn], 'float16')),
    'DTYPE',
  ],
  over('y', 'weight', 3, tokens, dOut),
  over('y', 'bias', 3, tokens, dOut),
]
const badFrozen: Bad = [
  ...badLayer,
  ['weight', 'missing beside a bias', MISSING, 'ARGUMENT', 'bias: is given without a weight; pass the weight'],
  ['a', 'another d_in than the layer', room(rank, dIn + 1), 'SHAPE'],
  ['b', 'another rank than a', room(experts, rank + 1, dOut), 'SHAPE'],
  ['weight', 'another d_out than b', beside({ bias: undefined }, room(dOut - 1, dIn)), 'SHAPE'],
]
// With a bias, a weight that is left out is refused.
const layerKinds: Kinds = { required: 'weight', optional: 'bias' }
const refuseWithLayer = (name: string, call: () => Call, of: (...args: never[]) => unknown) => {
  const names = { weight: /weight|bias/ }
  refuse(name, {
    call: () => ({ ...call(), ...layer() }),
    run: run(of),
    kinds: onHost(layerKinds),
    names,
    rows: badFrozen,
  })
}
refuseWithLayer('lilyForward with its layer', lilyCall, ops.lilyForward)
refuseWithLayer('lilyForwardAsync with its layer', lilyCall, ops.lilyForwardAsync)
refuseWithLayer('loraForward with its layer', loraCall, ops.loraForward)
refuseWithLayer('loraForwardAsync with its layer', loraCall, ops.loraForwardAsync)
refuse('lilyBackward with its layer', {
  call: async () => {
    const { dy, ...adapter } = smallOperands()
    const inputs = { ...adapter, weight: part(dOut, dIn) }
    return { dy, saved: (await ops.lilyForward(inputs)).saved, inputs, options: {} } as never
  },
  run: run(ops.lilyBackward),
  rows: [over('da', 'weight', 0, rank, dIn), over('dx', 'weight', 0, tokens, dIn)],
})

const linearCall = () => ({ x: smallOperands().x, ...layer(), y: room(tokens, dOut), options: {} }) as never as Call
const linearKinds: Kinds = {
  options: 'options',
  required: 'x weight',
  optional: `bias y ${always}`,
  flag: 'options.accumulate',
}
const badLinear: Bad = [
  ...badLayer,
  ['x', 'no columns', room(tokens, 0), 'SHAPE'],
  ['x', '16 bits with a y in float32', halves([tokens, dIn]), 'DTYPE', 'y'],
  ['weight', 'no rows', room(0, dIn), 'SHAPE'],
  ['y', 'another shape', room(tokens, dIn), 'SHAPE'],
  ['b', 'no operand', room(dOut), 'ARGUMENT'],
]
const linearGradient = () =>
  ({ dy: room(tokens, dOut), weight: room(dOut, dIn), dx: room(tokens, dIn), options: {} }) as never as Call
const linearBackwardKinds: Kinds = {
  options: 'options',
  required: 'dy weight',
  optional: `dx ${always}`,
  flag: 'options.accumulate',
}
const badLinearBackward: Bad = [
  ['weight', 'another d_out', room(dOut + 1, dIn), 'SHAPE', `weight: expected [${dOut}, d_in]`],
  ['weight', 'no columns', room(dOut, 0), 'SHAPE'],
  ['dx', 'another shape', room(tokens, dIn + 1), 'SHAPE'],
  ['dx', 'another token', room(tokens + 1, dIn), 'SHAPE'],
  ['dx', '16 bits', halves([tokens, dIn]), 'DTYPE'],
  over('dx', 'dy', 3, tokens, dIn),
  over('dx', 'weight', 3, tokens, dIn),
  ['bias', 'no operand', room(dIn), 'ARGUMENT'],
]
refuse('linearForward', operation(linearCall, ops.linearForward, linearKinds, badLinear))
refuse('linearForwardAsync', operation(linearCall, ops.linearForwardAsync, linearKinds))
refuse('linearBackward', operation(linearGradient, ops.linearBackward, linearBackwardKinds, badLinearBackward))
refuse('linearBackwardAsync', operation(linearGradient, ops.linearBackwardAsync, linearBackwardKinds))

/* Folding. */

interface Fold {
  saved: unknown
  db: HostTensor | undefined
  options: object
}
const deferred = async (columns = dOut, rows = rank, stacked = experts) => {
  const { x } = smallOperands()
  const operands = { x, a: room(rows, dIn), router: room(stacked, rows), b: room(stacked, rows, columns) }
  const { saved } = await ops.lilyForward(operands)
  await ops.lilyBackward({ dy: room(tokens, columns) }, saved, { deferB: true })
  return saved
}
const twice = () => deferred().then((saved) => [saved, saved])
const layers = (...of: Parameters<typeof deferred>) => Promise.all([deferred(), deferred(...of)])
/** A saved call after something was done with it. */
const after = (change: (saved: LilySaved) => unknown) => async () => {
  const saved = await deferred()
  await change(saved)
  return saved
}
/** A layer whose weights were transferred, after one that is sound. */
const transferred = (options: lily.LilyForwardOptions): Row<Fold> => {
  const make = () => {
    const { x, a, router, b, dy } = smallOperands()
    const operands = options.routing === 'fixed' ? { x, a, b } : { x, a, b, router }
    const saved = [0, 1].map(() => lily.lilyForward(operands, options).saved as LilySaved)
    for (const each of saved) lily.lilyBackward({ dy }, each, { deferB: true })
    detached(saved[1].weights as never)
    return saved
  }
  return ['saved', `transferred: ${options.routing}`, make, 'ARGUMENT', 'saved[1]: its ArrayBuffer is detached']
}
refuse<Fold>('foldB', {
  call: async () => ({ saved: await deferred(), db: room(experts, rank, dOut), options: {} }),
  run: ({ saved, db, options }) => ops.foldB(saved as LilySaved, db, options),
  kinds: onHost({
    required: 'saved',
    optional: 'db options.stream',
    options: 'options',
    flag: 'options.accumulate',
  }),
  rows: [
    ['saved', 'no layers and no db', (call) => ((call.db = undefined), []), 'ARGUMENT'],
    ['saved', 'a list of other values', [{}], 'ARGUMENT', 'saved[0]: expected'],
    ['saved', "LoRA's", loraSaved, 'ARGUMENT'],
    ['saved', 'a layer that deferred nothing', async () => (await lilyGradients()).saved, 'ARGUMENT'],
    ['saved', 'one layer twice', twice, 'ARGUMENT', 'call is listed twice'],
    ['saved', 'a layer that was folded already', after(ops.foldB), 'ARGUMENT'],
    [
      'saved',
      'a layer that was disposed of',
      after((saved) => {
        saved.dispose()
      }),
      'DISPOSED',
    ],
    ['saved', 'layers of different d_out', () => layers(dOut + 1), 'SHAPE', 'saved[1]: expected the b that'],
    ['saved', 'layers of different ranks', () => layers(dOut, rank + 1), 'SHAPE', 'saved[1]: expected the b that'],
    ['saved', 'layers of different E', () => layers(dOut, rank, 3), 'SHAPE', 'saved[1]: expected the b that'],
    ['db', 'another shape', room(experts, rank, dOut + 1), 'SHAPE'],
    ['db', 'E and r exchanged', room(rank, experts, dOut), 'SHAPE'],
    ['db', '16 bits', halves([experts, rank, dOut]), 'DTYPE'],
    ['db', 'on a device', onDevice(experts, rank, dOut), 'DEVICE'],
    ['db', 'disposed of', disposed(experts, rank, dOut), 'DISPOSED'],
    ...onHost([
      // Results in the memory of WebAssembly cannot be transferred.
      ...(ops.isWebAssembly
        ? []
        : [transferred({ routing: 'batch' }), transferred({ routing: 'sequence', sequenceOffsets: [0, 2, tokens] })]),
      transferred({ routing: 'fixed', weights: [0.5, 0.5] }),
    ]),
  ],
})

/* What has no other backend in this table. */

const product = () =>
  ({ a: room(2, 3, 4), b: room(2, 4, 5), bias: room(5), y: room(2, 3, 5), options: {} }) as never as Call
const productKinds: Kinds = {
  required: 'a b',
  options: 'options',
  optional: 'bias y options.precision options.transposeA options.transposeB',
  flag: 'options.accumulate',
}
const badProduct: Bad = [
  ['a', 'a vector', room(4), 'SHAPE', 'a: expected [..., m, k], got [4]'],
  ['b', 'a transposed vector', beside({ options: transposed }, room(4)), 'SHAPE', 'b: expected [..., n, k], got [4]'],
  ['b', 'another k', room(2, 5, 4), 'SHAPE', 'b: expected [..., 4, n] (a has k 4)'],
  ['options', 'a b with another k, transposed', transposed, 'SHAPE', 'b: expected [..., n, 4]'],
  ['b', 'other batches', room(3, 4, 5), 'SHAPE', 'b: expected leading dimensions that broadcast'],
  ['b', '16 bits', halves([2, 4, 5]), 'DTYPE'],
  ['bias', 'another size', room(4), 'SHAPE', 'bias: expected [5]'],
  ['bias', 'two dimensions', room(1, 5), 'SHAPE', 'bias: expected [5]'],
  ['bias', '16 bits', halves([5]), 'DTYPE'],
  ['y', 'another shape', room(2, 3, 4), 'SHAPE', 'y: expected 6 rows of 5'],
  ['y', '16 bits', halves([2, 3, 5]), 'DTYPE'],
  over('y', 'a', 4, 2, 3, 5),
  over('y', 'b', 8, 2, 3, 5),
  over('y', 'bias', 4, 2, 3, 5),
  ['x', 'no operand', room(4), 'ARGUMENT'],
  ['options.transpose', 'no option', true, 'ARGUMENT'],
]
const [ofQ, ofK] = [
  [2, 3, 4],
  [2, 5, 4],
]
const queries = () => ({ q: room(...ofQ), k: room(...ofK), v: room(...ofK) })
const attention = () => {
  const mask = { data: new Uint8Array(10).fill(1), shape: [2, 5] }
  return { ...queries(), mask, y: room(...ofQ), options: { heads: 2 } } as never as Call
}
const attentionKinds: Kinds = {
  required: 'q k v options options.heads',
  optional: 'mask y',
  flag: 'options.causal options.save',
  numberOrNot: 'options.scale',
}
const badAttention: Bad = [
  ['q', 'one dimension', room(4), 'SHAPE', 'q: expected [batch, tokens, d]'],
  ['q', 'four dimensions', room(2, 2, 3, 4), 'SHAPE', 'q: expected [batch, tokens, d]'],
  ['q', 'no columns', room(2, 3, 0), 'SHAPE'],
  ['q', '16 bits', halves(ofQ), 'DTYPE'],
  ['k', 'another batch', room(3, 5, 4), 'SHAPE', 'k: expected [2, keys, 4]'],
  ['k', 'other columns', room(2, 5, 6), 'SHAPE', 'k: expected [2, keys, 4]'],
  ['k', '16 bits', halves(ofK), 'DTYPE'],
  ['v', 'other keys', room(2, 6, 4), 'SHAPE', 'v: expected [2, 5, 4]'],
  ['v', '16 bits', halves(ofK), 'DTYPE'],
  ['mask', 'one dimension for two batches', new Uint8Array(10), 'SHAPE', 'mask: expected one flag per key, [2, 5]'],
  ['mask', 'no flags', filled(2, 2, 5), 'ARGUMENT', 'mask: element 0'],
  ['y', 'another shape', room(6, 4), 'SHAPE', 'y: expected [2, 3, 4]'],
  ['y', '16 bits', halves(ofQ), 'DTYPE'],
  over('y', 'q', 0, ...ofQ),
  ['x', 'no operand', room(...ofQ), 'ARGUMENT'],
  ['options.heads', 'that do not divide d', 3, 'ARGUMENT', 'heads: expected a number that divides d'],
  ['options.scale', 'infinite', Infinity, 'ARGUMENT'],
  ['options', 'no option', { head: 2 }, 'ARGUMENT', 'head: is not a property of options (did you mean heads?)'],
]
const attentionGradients = () => {
  const inputs = queries()
  const { saved } = lily.attentionForward(inputs, { heads: 2 })
  const gradients = { dq: room(...ofQ), dk: room(...ofK), dv: room(...ofK) }
  return { dy: room(...ofQ), ...gradients, saved, inputs, options: {} } as never as Call
}
const attentionBackwardKinds: Kinds = {
  required: 'dy saved',
  optional: 'q k v y dq dk dv',
  options: 'options options.needs',
  flag: 'options.accumulate options.needs.dq options.needs.dk options.needs.dv',
}
const badAttentionBackward: Bad = [
  ['dy', 'another shape', room(2, 4, 3), 'SHAPE', 'dy: expected [2, 3, 4], the shape of y'],
  ['dq', 'another shape', room(6, 4), 'SHAPE', 'dq: expected [2, 3, 4]'],
  ['dk', '16 bits', halves(ofK), 'DTYPE'],
  over('dv', 'v', 0, ...ofK),
  ['q', 'another shape', room(2, 2, 4), 'SHAPE', 'q: expected [2, 3, 4], the shape of the q'],
  ['options.needs', 'without a gradient that is given', { dk: false }, 'ARGUMENT', 'dk: is given, but needs.dk is'],
  ['options.needs', 'of a name that does not exist', { dx: true }, 'ARGUMENT', 'dx: is not a property of needs'],
  ['saved', 'disposed of', ({ saved }) => (saved.dispose(), saved), 'DISPOSED'],
]
if (isHost) {
  const { attentionBackward, attentionForward, matMul, matMulAsync, packLinear } = lily
  refuse('matMul', operation(product, matMul, productKinds, badProduct))
  refuse('matMulAsync', operation(product, matMulAsync, productKinds))
  refuse('attentionForward', operation(attention, attentionForward, attentionKinds, badAttention))
  refuse(
    'attentionBackward',
    operation(attentionGradients, attentionBackward, attentionBackwardKinds, badAttentionBackward),
  )
  refuse('packLinear', {
    call: () => ({ weight: room(dOut, dIn), options: {} }),
    run: ({ weight, options }) => packLinear(weight, options),
    kinds: { required: 'weight', options: 'options', flag: 'options.transposed' },
  })
}

/* What is no row: calls that a refused one leaves as they were, and errors themselves. */

it('a refused foldB loses nothing', async () => {
  const saved = await deferred()
  await expectRefused('ERR_LILY_SHAPE', 'db', () => ops.foldB(saved, room(1, 1, 1)))
  expect(numbers(await ops.foldB(saved)).some((value) => value !== 0)).toBe(true)
})

// The small operands are copied when they are read. A y that overlaps them may be refused, but does not change their values.
describe('y that overlaps a small operand is refused, or the operand is read first', () => {
  const overSmall = async (given: lily.LilyForwardOptions, copied: lily.LilyForwardOptions, y: Float32Array) => {
    const { x, a, router, b } = smallOperands()
    const operands = given.routing === 'fixed' ? { x, a, b } : { x, a, router, b }
    const apart = (await ops.lilyForward({ ...operands, y: room(tokens, dOut) }, copied)).y
    try {
      await ops.lilyForward({ ...operands, y: { data: y, shape: [tokens, dOut] } }, given)
      expect(Array.from(y)).toEqual(Array.from(apart.data))
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_LILY_ARGUMENT', argument: 'y' })
    }
  }
  it('the mask', async () => {
    const { data } = room(tokens, dOut)
    const mask = new Uint8Array(data.buffer, 0, tokens)
    await overSmall({ mask }, { mask: mask.slice() }, data)
  })
  it('the weights', async () => {
    const { data } = room(tokens, dOut)
    const weights = data.subarray(1, 1 + experts)
    await overSmall({ routing: 'fixed', weights }, { routing: 'fixed', weights: weights.slice() }, data)
  })
})

it('options of a class, inherited and without a prototype are read', () => {
  class Options {
    readonly scaling = 2
  }
  const { dy: _, ...operands } = smallOperands()
  const expected = lily.lilyForward(operands, { scaling: 2 }).y.data
  const inherited = Object.create({ scaling: 2 }) as Options
  const bare = Object.assign(Object.create(null), { scaling: 2 }) as Options
  for (const options of [new Options(), inherited, bare]) {
    expect(lily.lilyForward(operands, options).y.data).toEqual(expected)
  }
})

it('a LilyError is an Error with a name and a cause', async () => {
  const cause = new RangeError('no memory')
  const error = await expectRefused('ERR_LILY_ARGUMENT', 'x', () => ops.lilyForward({ x: throwing(cause) } as never))
  expect(error).toBeInstanceOf(Error)
  expect(error).toMatchObject({ name: 'LilyError', cause, stack: expect.stringContaining('LilyError') as string })
})

it('a message has a text that came, up to 160 characters of it', async () => {
  const { dy: _, ...operands } = smallOperands()
  const forward = (routing: string) => ops.lilyForward(operands, { routing: routing as 'batch' })
  const name = 'text_model.encoder.layers.10.self_attn.out_proj'
  await expectRefused('ERR_LILY_ARGUMENT', `got '${name}'`, () => forward(name))
  const long = 'a'.repeat(100_000)
  await expectRefused('ERR_LILY_ARGUMENT', `got '${long.slice(0, 160)}... (100000 characters)'`, () => forward(long))
})
