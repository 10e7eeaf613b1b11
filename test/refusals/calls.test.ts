/**
 * Invalid calls: each fails with its error code and the name of the argument in the message, and writes nothing.
 *
 * @project cpu cuda
 */
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import {
  DeviceBuffer,
  Event,
  foldB as foldBOf,
  lilyBackward as lilyBackwardOf,
  LilyError,
  lilyForward as lilyForwardOf,
  type LilyForwardOptions,
  LilyModel,
  type LilySaved,
  LoraModel,
  memoryStats,
  PackedLinear,
  SafetensorsFile,
  Stream,
  Tensor,
  tensor,
} from '../../lib/index.js'
import {
  backend as suiteBackend,
  foldB,
  lilyBackward,
  lilyForward,
  loraBackward,
  loraForward,
} from '../support/backend.js'
import { bits } from '../support/compare.js'
import { expectRefused } from './refused.js'
import { filled, numbers, sizes, smallLoraB, smallOperands, typedOperands } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const deviceTensor = Symbol.for('lily.deviceTensor')

// The rows below also violate the types.
interface Operand {
  data: Float32Array
  shape: number[]
  dtype?: string
  strides?: number[]
  byteOffset?: number
  device?: object
}
interface Forward {
  x: Operand
  a: Operand
  router: Operand
  b: Operand
  y: Operand
  options: Record<string, unknown>
  [name: string]: unknown
}
interface Backward {
  dy: Operand
  dx: Operand
  da: Operand
  dRouter: Operand
  db: Operand
  saved: LilySaved
  /** Operands of the forward that returned `saved`. */
  inputs: { x: Operand; a: Operand; router: Operand; b: Operand }
  options: Record<string, unknown>
  [name: string]: unknown
}
type Rows<Call> = [name: string, code: string, argument: string, change: (call: Call) => void][]

const SHAPE = 'ERR_LILY_SHAPE'
const DTYPE = 'ERR_LILY_DTYPE'
const DEVICE = 'ERR_LILY_DEVICE'
const ARGUMENT = 'ERR_LILY_ARGUMENT'
const DISPOSED = 'ERR_LILY_DISPOSED'
const UNAVAILABLE = 'ERR_LILY_BACKEND_UNAVAILABLE'

const onDevice = (shape: number[]) => ({ ptr: 0x1000, shape, dtype: 'float32', device: { type: 'cuda', id: 0 } })
const halves = (shape: number[], dtype = 'bfloat16') => ({ data: new Uint16Array(count(shape)), shape, dtype })
/** Once: newer versions of Node.js refuse to transfer a buffer again. */
const detach = ({ data }: Operand): unknown =>
  data.byteLength > 0 && structuredClone(data.buffer, { transfer: [data.buffer as ArrayBuffer] })
const throwing = (operand: object, name: string) =>
  Object.defineProperty(operand, name, {
    get() {
      throw new RangeError('thrown by a getter')
    },
  })
/** A view of the memory of another operand, from an element on. */
const inside = ({ data }: Operand, from: number, shape: number[]) => ({
  data: new Float32Array(data.buffer, data.byteOffset + 4 * from, count(shape)),
  shape,
})
const room = (...shape: number[]) => filled(1, ...shape)
const disposed = (...shape: number[]) => {
  const gone = tensor(room(...shape).data, shape)
  gone.dispose()
  return gone
}

/** Errors of any operand; `x` stands for all. */
const forms: Rows<{ x: Operand; [name: string]: unknown }> = [
  ['missing', ARGUMENT, 'x', (call) => delete (call as Partial<typeof call>).x],
  ['null', ARGUMENT, 'x', (call) => (call.x = null as never)],
  ['a number', ARGUMENT, 'x', (call) => (call.x = 7 as never)],
  ['an array', ARGUMENT, 'x', (call) => (call.x = [1, 2] as never)],
  ['a bare typed array', ARGUMENT, 'x', (call) => (call.x = call.x.data as never)],
  ['data is an array', ARGUMENT, 'x', ({ x }) => (x.data = Array.from(x.data) as never)],
  ['data is an ArrayBuffer', ARGUMENT, 'x', ({ x }) => (x.data = x.data.buffer as never)],
  ['data is a Float64Array', DTYPE, 'x', ({ x }) => (x.data = Float64Array.from(x.data) as never)],
  ['data is a DataView', DTYPE, 'x', ({ x }) => (x.data = new DataView(x.data.buffer) as never)],
  ['data is an Int32Array', DTYPE, 'x', ({ x }) => (x.data = new Int32Array(x.data.length) as never)],
  ['a Uint16Array without a dtype', DTYPE, 'x', ({ x }) => (x.data = new Uint16Array(x.data.length) as never)],
  ['dtype does not exist', DTYPE, 'x', ({ x }) => (x.dtype = 'float64')],
  // Bytes that are copied to a device have the type that the operand says, which is then that of no y.
  ['dtype is not that of data', DTYPE, suiteBackend === 'cpu' ? 'x' : 'y', ({ x }) => (x.dtype = 'bfloat16')],
  ['no shape', SHAPE, 'x', ({ x }) => delete (x as Partial<Operand>).shape],
  ['shape is a number', SHAPE, 'x', ({ x }) => (x.shape = 30 as never)],
  ['no dimension', SHAPE, 'x', ({ x }) => (x.shape = [])],
  ['a broken dimension', SHAPE, 'x', ({ x }) => (x.shape = [tokens, 2.5])],
  ['a negative dimension', SHAPE, 'x', ({ x }) => (x.shape = [-tokens, -dIn])],
  ['a dimension that is NaN', SHAPE, 'x', ({ x }) => (x.shape = [tokens, NaN])],
  ['a dimension that is a string', SHAPE, 'x', ({ x }) => (x.shape = [tokens, '5' as never])],
  ['more elements than data', SHAPE, 'x', ({ x }) => (x.shape = [tokens + 1, dIn])],
  ['fewer elements than data', SHAPE, 'x', ({ x }) => (x.data = new Float32Array(tokens * dIn + 1))],
  ['a product of dimensions beyond 2^53', SHAPE, 'x', ({ x }) => (x.shape = [2 ** 30, 2 ** 30, dIn])],
  ['a product of dimensions beyond 2^64', SHAPE, 'x', ({ x }) => (x.shape = [2 ** 40, 2 ** 40, dIn])],
  ['the last stride is not 1', SHAPE, 'x', ({ x }) => ((x.shape = [tokens, dIn]), (x.strides = [1, tokens]))],
  ['strides for other dimensions', SHAPE, 'x', ({ x }) => (x.strides = [dIn, 1, 1])],
  ['a stride that is negative', SHAPE, 'x', ({ x }) => (x.strides = [-dIn, 1])],
  ['strides that reach beyond data', SHAPE, 'x', ({ x }) => (x.strides = [dIn + 1, 1])],
  ['a stride beyond 2^53', SHAPE, 'with strides [4503599627370496, 1] of', ({ x }) => (x.strides = [2 ** 52, 1])],
  ['strides that do not flatten', SHAPE, 'x', notFlat],
  ['byteOffset beyond data', SHAPE, 'x', ({ x }) => (x.byteOffset = 4)],
  ['byteOffset within an element', ARGUMENT, 'x', ({ x }) => (x.byteOffset = 2)],
  ['byteOffset negative', ARGUMENT, 'x', ({ x }) => (x.byteOffset = -4)],
  ['a detached ArrayBuffer', ARGUMENT, 'x', ({ x }) => void detach(x)],
  ['a disposed tensor', DISPOSED, 'x', (call) => (call.x = disposed(tokens, dIn) as never)],
  ['a getter of data throws', ARGUMENT, 'x', ({ x }) => throwing(x, 'data')],
  ['a getter of shape throws', ARGUMENT, 'x', ({ x }) => throwing(x, 'shape')],
  ['a getter of dtype throws', ARGUMENT, 'x', ({ x }) => throwing(x, 'dtype')],
  ['a getter of strides throws', ARGUMENT, 'x', ({ x }) => throwing(x, 'strides')],
  ['a getter of byteOffset throws', ARGUMENT, 'x', ({ x }) => throwing(x, 'byteOffset')],
  [
    'another device than the rest',
    DEVICE,
    // The others are compared with x. On a CUDA device they are on the same one, and x is refused for its address.
    suiteBackend === 'cuda' ? 'x' : 'a',
    (call) => (call.x = onDevice([tokens, dIn]) as never),
  ],
  ['host data that claims a device', DEVICE, 'x', ({ x }) => (x.device = { type: 'cuda', id: 0 })],
  [
    'an address without a device',
    DEVICE,
    'x',
    (call) => (call.x = { ...onDevice([tokens, dIn]), device: undefined } as never),
  ],
  [
    'an address that is a fraction',
    ARGUMENT,
    'x',
    (call) => (call.x = { ...onDevice([tokens, dIn]), ptr: 0.5 } as never),
  ],
  ['a provider that throws', ARGUMENT, 'x', (call) => (call.x = provider(() => fail()) as never)],
  ['a provider that returns nothing', ARGUMENT, 'x', (call) => (call.x = provider(() => undefined) as never)],
  ['a provider that is no function', ARGUMENT, 'x', (call) => (call.x = provider(7) as never)],
]

const forward: Rows<Forward> = [
  ...forms,
  ['x: no columns', SHAPE, 'x', (call) => (call.x = room(tokens, 0))],
  ['a: three dimensions', SHAPE, 'a', ({ a }) => (a.shape = [1, rank, dIn])],
  ['a: another d_in', SHAPE, 'a', (call) => (call.a = room(rank, dIn + 1))],
  [
    'a: no rank',
    SHAPE,
    'a',
    (call) => ((call.a = room(0, dIn)), (call.router = room(experts, 0)), (call.b = room(0, dOut))),
  ],
  ['a: rank above 4096', SHAPE, 'a', (call) => manyRanks(call, 4097)],
  ['x: 16 bits with a float32 y', DTYPE, 'y', (call) => (call.x = halves([tokens, dIn]) as never)],
  ['a: 16 bits with float32', DTYPE, 'a', (call) => (call.a = halves([rank, dIn]) as never)],
  ['a: bfloat16 with float16', DTYPE, 'a', (call) => sixteen(call, { x: 'float16', a: 'bfloat16' })],
  ['router: float32 with a 16-bit a', DTYPE, 'router', (call) => sixteen(call, { router: 'float32' })],
  ['router: 16 bits with a float32 a', DTYPE, 'router', (call) => sixteen(call, { a: 'float32', b: 'float32' })],
  ['b: float32 with a 16-bit a', DTYPE, 'b', (call) => sixteen(call, { b: 'float32' })],
  ['b: another 16-bit type', DTYPE, 'b', (call) => sixteen(call, { b: 'float16' })],
  ['y: float32 with 16 bits', DTYPE, 'y', (call) => sixteen(call, { y: 'float32' })],
  ['y: another 16-bit type', DTYPE, 'y', (call) => sixteen(call, { y: 'float16' })],
  ['router: missing', ARGUMENT, 'router', (call) => delete (call as Partial<Forward>).router],
  ['router: another rank', SHAPE, 'router', (call) => (call.router = room(experts, rank + 1))],
  ['router: one dimension', SHAPE, 'router', (call) => (call.router = room(experts * rank))],
  ['router: three dimensions', SHAPE, 'router', ({ router }) => (router.shape = [1, experts, rank])],
  ['router: no experts', SHAPE, 'router', (call) => ((call.router = room(0, rank)), (call.b = room(0, dOut)))],
  [
    'router: more than 64 experts',
    SHAPE,
    'router',
    (call) => ((call.router = room(65, rank)), (call.b = room(65, rank, dOut))),
  ],
  ['b: another rank', SHAPE, 'b', (call) => (call.b = room(experts, rank + 1, dOut))],
  ['b: other experts', SHAPE, 'b', (call) => (call.b = room(experts + 1, rank, dOut))],
  ['b: E and r exchanged', SHAPE, 'b', (call) => (call.b = room(rank, experts, dOut))],
  ['b: no columns', SHAPE, 'b', (call) => ((call.b = room(experts, rank, 0)), (call.y = room(tokens, 0)))],
  ['b: four dimensions', SHAPE, 'b', ({ b }) => (b.shape = [experts, 1, rank, dOut])],
  ['b: rows that are no multiple of r, without a router', SHAPE, 'b: expected [E*r', uniform(experts * rank + 1, dOut)],
  ['b: more than 64 experts, without a router', SHAPE, 'b: expected E from 1 to 64', uniform(65 * rank, dOut)],
  ['y: other rows', SHAPE, 'y', (call) => (call.y = room(tokens - 1, dOut))],
  ['y: other columns', SHAPE, 'y', (call) => (call.y = room(tokens, dOut + 1))],
  ['y: rows that overlap', SHAPE, 'y', ({ y }) => (y.strides = [dOut - 1, 1])],
  ['y: all rows in one place', SHAPE, 'y', ({ y }) => (y.strides = [0, 1])],
  ['y: 16 bits', DTYPE, 'y', (call) => (call.y = halves([tokens, dOut]) as never)],
  ['y: detached', ARGUMENT, 'y', ({ y }) => void detach(y)],
  ['y: disposed of', DISPOSED, 'y', (call) => (call.y = disposed(tokens, dOut) as never)],
  ['y: on a device', DEVICE, 'y', (call) => (call.y = onDevice([tokens, dOut]) as never)],
  ['y: is x', ARGUMENT, 'y', (call) => (call.y = inside(call.x, 0, [tokens, dOut]))],
  ['y: its first element is the last of x', ARGUMENT, 'y', lastOfX],
  [
    'y: in a',
    ARGUMENT,
    'y',
    (call) => ((call.a = part(room(64), [rank, dIn])), (call.y = inside(call.a, 14, [tokens, dOut]))),
  ],
  ['y: in b', ARGUMENT, 'y', (call) => (call.y = inside(call.b, 0, [tokens, dOut]))],
  [
    'y: in the router',
    ARGUMENT,
    'y',
    (call) => ((call.router = part(room(64), [experts, rank])), (call.y = inside(call.router, 5, [tokens, dOut]))),
  ],
  ['all operands on a device', UNAVAILABLE, 'x', allOnDevice],
  ['an operand that does not exist', ARGUMENT, 'routerWeight', (call) => (call.routerWeight = call.router)],
  ['options: null', ARGUMENT, 'options', (call) => (call.options = null as never)],
  ['options: a string', ARGUMENT, 'options', (call) => (call.options = 'batch' as never)],
  ['options: unknown', ARGUMENT, 'scale', ({ options }) => (options.scale = 2)],
  ['options: a property of every object', ARGUMENT, 'toString', ({ options }) => (options.toString = () => 'options')],
  ['options: a getter throws', ARGUMENT, 'scaling', ({ options }) => throwing(options, 'scaling')],
  ['scaling: NaN', ARGUMENT, 'scaling', ({ options }) => (options.scaling = NaN)],
  ['scaling: infinite', ARGUMENT, 'scaling', ({ options }) => (options.scaling = -Infinity)],
  ['scaling: infinite in float32', ARGUMENT, 'scaling', ({ options }) => (options.scaling = 1e39)],
  ['scaling: a string', ARGUMENT, 'scaling', ({ options }) => (options.scaling = '2')],
  ['scaling: null', ARGUMENT, 'scaling', ({ options }) => (options.scaling = null)],
  ['routing: unknown', ARGUMENT, 'routing', ({ options }) => (options.routing = 'expert')],
  ['routing: a property of every object', ARGUMENT, 'routing', ({ options }) => (options.routing = 'constructor')],
  ['routing: the internal one of LoRA', ARGUMENT, 'routing', ({ options }) => (options.routing = 'none')],
  ['pool: unknown', ARGUMENT, 'pool', ({ options }) => (options.pool = 'mean')],
  ['activation: unknown', ARGUMENT, 'activation', ({ options }) => (options.activation = 'gelu')],
  ['precision: unknown', ARGUMENT, 'precision', ({ options }) => (options.precision = 'low')],
  ['save: a number', ARGUMENT, 'save', ({ options }) => (options.save = 1)],
  ['accumulate: a string', ARGUMENT, 'accumulate', ({ options }) => (options.accumulate = 'no')],
  ['stream: on the cpu', ARGUMENT, 'stream', ({ options }) => (options.stream = 1)],
  ['mask: too short', SHAPE, 'mask', ({ options }) => (options.mask = new Uint8Array(tokens - 1))],
  [
    'mask: too long',
    SHAPE,
    `mask: expected one flag per token, [${tokens}], got`,
    ({ options }) => (options.mask = new Array<number>(tokens + 1).fill(1)),
  ],
  [
    'mask: other leading dimensions',
    SHAPE,
    'mask',
    ({ options }) => (options.mask = { data: new Uint8Array(tokens), shape: [3, 2] }),
  ],
  [
    'mask: the leading dimensions of x exchanged',
    SHAPE,
    'mask',
    (call) => {
      call.x.shape = [2, 3, dIn]
      call.options.mask = { data: new Uint8Array(tokens), shape: [3, 2] }
    },
  ],
  [
    'mask: only the first of the leading dimensions of x',
    SHAPE,
    'mask',
    (call) => ((call.x.shape = [2, 3, dIn]), (call.options.mask = new Uint8Array(2))),
  ],
  [
    'mask: two flags per token',
    SHAPE,
    'mask',
    ({ options }) => (options.mask = { data: new Uint8Array(2 * tokens), shape: [tokens, 2] }),
  ],
  [
    'mask: more elements than data',
    SHAPE,
    'mask',
    ({ options }) => (options.mask = { data: new Uint8Array(tokens - 1), shape: [tokens] }),
  ],
  [
    'mask: float16',
    DTYPE,
    `mask: expected ${suiteBackend === 'cpu' ? 'uint8 or int32 or float32' : 'uint8 in device memory'}, got float16`,
    ({ options }) => (options.mask = { data: new Uint16Array(tokens), shape: [tokens], dtype: 'float16' }),
  ],
  [
    'mask: float32 between 0 and 1',
    ARGUMENT,
    'mask',
    ({ options }) => (options.mask = new Float32Array(tokens).fill(0.5)),
  ],
  [
    'mask: float32 to add to scores',
    ARGUMENT,
    'mask',
    ({ options }) => (options.mask = Float32Array.of(0, 0, -Infinity, 0, 0, 0)),
  ],
  [
    'mask: int32 that is neither 0 nor 1',
    ARGUMENT,
    'mask',
    ({ options }) => (options.mask = Int32Array.of(1, 2, 1, 1, 1, 1)),
  ],
  ['mask: of strings', ARGUMENT, 'mask', ({ options }) => (options.mask = new Array<string>(tokens).fill('1'))],
  ['mask: a string', ARGUMENT, 'mask', ({ options }) => (options.mask = '111111')],
  ['mask: NaN', ARGUMENT, 'mask', ({ options }) => (options.mask = [1, 1, 1, 1, 1, NaN])],
  [
    'sequenceOffsets: without sequences',
    ARGUMENT,
    'sequenceOffsets',
    ({ options }) => (options.sequenceOffsets = [0, tokens]),
  ],
  ['sequenceOffsets: missing', ARGUMENT, 'sequenceOffsets', ({ options }) => (options.routing = 'sequence')],
  ...badOffsets(),
  ...rowsWithoutColumns(),
  [
    'x: more sequences than a call can have, without tokens',
    SHAPE,
    'x',
    (call) => {
      call.x = { data: new Float32Array(0), shape: [2 ** 53 - 1, 0, dIn] }
      call.options.routing = 'sequence'
    },
  ],
  ['x: 2^31 sequences', SHAPE, 'x', (call) => (call.x = { data: new Float32Array(0), shape: [2 ** 31, 0, dIn] })],
  ['weights: with a router', ARGUMENT, 'weights', ({ options }) => (options.weights = [1, 0])],
  ...badWeights(),
]

const backward: Rows<Backward> = [
  ['dy: missing', ARGUMENT, 'dy', (call) => delete (call as Partial<Backward>).dy],
  ['dy: other rows', SHAPE, 'dy', (call) => (call.dy = room(tokens + 1, dOut))],
  ['dy: other columns', SHAPE, 'dy', (call) => (call.dy = room(tokens, dOut + 1))],
  ['dy: transposed', SHAPE, 'dy', ({ dy }) => (dy.shape = [dOut, tokens])],
  ['dy: 16 bits', DTYPE, 'dy', (call) => (call.dy = halves([tokens, dOut]) as never)],
  ['dy: detached', ARGUMENT, 'dy', ({ dy }) => void detach(dy)],
  ['dy: on a device', DEVICE, 'dy', (call) => (call.dy = onDevice([tokens, dOut]) as never)],
  ['dy: a getter throws', ARGUMENT, 'dy', ({ dy }) => throwing(dy, 'data')],
  ['x again: another shape', SHAPE, 'x', (call) => (call.x = room(tokens + 1, dIn))],
  ['x again: its first dimension', SHAPE, 'x: expected [6, 5]', (call) => (call.x = room(tokens))],
  ['x again: the same rows in another shape', SHAPE, 'x', (call) => (call.x = room(1, tokens, dIn))],
  ['x again: 16 bits', DTYPE, 'x', (call) => (call.x = halves([tokens, dIn]))],
  ['x again: on a device', DEVICE, 'x', (call) => (call.x = onDevice([tokens, dIn]))],
  ['x again: detached', ARGUMENT, 'x', (call) => ((call.x = room(tokens, dIn)), void detach(call.x as Operand))],
  [
    'dx: is the x given again',
    ARGUMENT,
    'dx',
    (call) => ((call.x = room(tokens, dIn)), (call.dx = inside(call.x as Operand, 0, [tokens, dIn]))),
  ],
  ['dx: another shape', SHAPE, 'dx', (call) => (call.dx = room(tokens, dIn + 1))],
  ['dx: 16 bits', DTYPE, 'dx', (call) => (call.dx = halves([tokens, dIn]) as never)],
  ['dx: rows that overlap', SHAPE, 'dx', ({ dx }) => (dx.strides = [dIn - 1, 1])],
  ['dx: a getter throws', ARGUMENT, 'dx', ({ dx }) => throwing(dx, 'shape')],
  ['da: 16 bits with a float32 a', DTYPE, 'da', (call) => (call.da = halves([rank, dIn]) as never)],
  ['da: another shape', SHAPE, 'da', (call) => (call.da = room(dIn, rank))],
  ['da: three dimensions', SHAPE, 'da', ({ da }) => (da.shape = [1, rank, dIn])],
  ['da: detached', ARGUMENT, 'da', ({ da }) => void detach(da)],
  ['dRouter: another shape', SHAPE, 'dRouter', (call) => (call.dRouter = room(rank, experts))],
  ['dRouter: disposed of', DISPOSED, 'dRouter', (call) => (call.dRouter = disposed(experts, rank) as never)],
  ['db: another shape', SHAPE, 'db', (call) => (call.db = room(experts, dOut, rank))],
  ['db: on a device', DEVICE, 'db', (call) => (call.db = onDevice([experts, rank, dOut]) as never)],
  [
    'dx: is dy',
    ARGUMENT,
    'dx',
    (call) => ((call.dy = part(room(64), [tokens, dOut])), (call.dx = inside(call.dy, 0, [tokens, dIn]))),
  ],
  ['dx: is x', ARGUMENT, 'dx', (call) => (call.dx = inside(call.inputs.x, 0, [tokens, dIn]))],
  ['da: is a', ARGUMENT, 'da', (call) => (call.da = inside(call.inputs.a, 0, [rank, dIn]))],
  [
    'dRouter: is the router',
    ARGUMENT,
    'dRouter',
    (call) => (call.dRouter = inside(call.inputs.router, 0, [experts, rank])),
  ],
  ['db: is b', ARGUMENT, 'db', (call) => (call.db = inside(call.inputs.b, 0, [experts, rank, dOut]))],
  ['da: in dx', ARGUMENT, 'da', (call) => (call.da = inside(call.dx, 15, [rank, dIn]))],
  ['dRouter: in da', ARGUMENT, 'dRouter', (call) => (call.dRouter = inside(call.da, 9, [experts, rank]))],
  ['db: in dx', ARGUMENT, 'db', (call) => (call.db = inside(call.dx, 6, [experts, rank, dOut]))],
  [
    'dRouter: in saved.hidden',
    ARGUMENT,
    'dRouter',
    (call) => (call.dRouter = inside(call.saved.hidden as never, 0, [experts, rank])),
  ],
  ['an operand that does not exist', ARGUMENT, 'dw', (call) => (call.dw = call.da)],
  ['options: unknown', ARGUMENT, 'defer', ({ options }) => (options.defer = true)],
  ['options: null', ARGUMENT, 'options', (call) => (call.options = null as never)],
  ['needs: unknown', ARGUMENT, 'dX', ({ options }) => (options.needs = { dX: true })],
  ['needs: not true or false', ARGUMENT, 'dx', ({ options }) => (options.needs = { dx: 0 })],
  ['needs: a getter throws', ARGUMENT, 'needs.dx: reading it', ({ options }) => (options.needs = throwing({}, 'dx'))],
  ['needs: an array', ARGUMENT, 'needs', ({ options }) => (options.needs = 'dx')],
  ['dx: given, but not needed', ARGUMENT, 'dx', ({ options }) => (options.needs = { dx: false })],
  ['db: given, but deferred', ARGUMENT, 'db', ({ options }) => (options.deferB = true)],
  ['deferB: not true or false', ARGUMENT, 'deferB', ({ options }) => (options.deferB = 1)],
  ['accumulate: not true or false', ARGUMENT, 'accumulate', ({ options }) => (options.accumulate = 0)],
  ['saved: missing', ARGUMENT, 'saved', (call) => (call.saved = undefined as never)],
  ['saved: something else', ARGUMENT, 'saved', (call) => (call.saved = {} as never)],
  ['saved: of LoRA', ARGUMENT, 'saved', (call) => (call.saved = loraSaved() as never)],
  ['saved: disposed of', DISPOSED, 'saved', ({ saved }) => saved.dispose()],
  ['x: detached since forward', ARGUMENT, 'x', ({ inputs }) => void detach(inputs.x)],
  ['a: detached since forward', ARGUMENT, 'a', ({ inputs }) => void detach(inputs.a)],
  ['b: detached since forward', ARGUMENT, 'b', ({ inputs }) => void detach(inputs.b)],
  ['router: detached since forward', ARGUMENT, 'router', ({ inputs }) => void detach(inputs.router)],
  [
    'a getter of one operand detaches another',
    ARGUMENT,
    'x',
    ({ dy, inputs }) => getter(dy, 'shape', () => (void detach(inputs.x), [tokens, dOut])),
  ],
  [
    'a getter of one operand disposes of saved',
    DISPOSED,
    'saved',
    ({ dy, saved }) => getter(dy, 'shape', () => (saved.dispose(), [tokens, dOut])),
  ],
]

/** Rows about host memory. The same code of lib/ checks them for both backends. */
const aboutTheHost =
  /getter|detach|^fewer elements|^mask: more elements|claims a device|all operands on a device|on the cpu|saved.hidden/
const appliesToBackend = (name: string) => suiteBackend === 'cpu' || !aboutTheHost.test(name)

/** Excludes rows about host memory on a device. */
const hostIt: typeof it | ((name: string, run: () => unknown) => void) = suiteBackend === 'cpu' ? it : () => undefined

describe('lilyForward rejects', () => {
  for (const [name, code, argument, change] of forward.filter(([name]) => appliesToBackend(name))) {
    it(name, async () => {
      const call = forwardCall()
      await expectNothingWritten(call, change, async (changed) => {
        const { options, ...operands } = changed
        await expectRefused(code, argument, () => lilyForward(operands as never, options as never))
      })
    })
  }

  hostIt('a getter of one operand that detaches another, read before', async () => {
    const call = forwardCall()
    getter(call.y, 'shape', () => (void detach(call.x), [tokens, dOut]))
    const { options, ...operands } = call
    await expectRefused(ARGUMENT, 'x', () => lilyForward(operands as never, options as never))
    expect(call.y.data.every((value) => value === 1)).toBe(true)
  })

  // The small operands are copied when they are read. A y that overlaps them may be rejected, but must not change their
  // values.
  const overSmall = async (given: LilyForwardOptions, copied: LilyForwardOptions, memory: Float32Array) => {
    const { x, a, router, b } = smallOperands()
    const operands = given.routing === 'fixed' ? { x, a, b } : { x, a, router, b }
    const apart = (await lilyForward({ ...operands, y: room(tokens, dOut) }, copied)).y
    try {
      await lilyForward({ ...operands, y: { data: memory, shape: [tokens, dOut] } }, given)
      expect(Array.from(memory)).toEqual(Array.from(apart.data))
    } catch (error) {
      expect(error).toMatchObject({ code: ARGUMENT, argument: 'y' })
    }
  }

  it('y that overlaps the mask, or reads the mask first', async () => {
    const memory = room(tokens, dOut).data
    const mask = new Uint8Array(memory.buffer, 0, tokens)
    await overSmall({ mask }, { mask: mask.slice() }, memory)
  })

  it('y that overlaps the weights, or reads the weights first', async () => {
    const memory = room(tokens, dOut).data
    const weights = memory.subarray(1, 1 + experts)
    await overSmall({ routing: 'fixed', weights }, { routing: 'fixed', weights: weights.slice() }, memory)
  })

  it('a buffer that has shrunk', async () => {
    // Node 20 has resizable buffers; its type definitions do not include them.
    const Resizable = ArrayBuffer as unknown as new (
      length: number,
      options: object,
    ) => ArrayBuffer & {
      resize: (length: number) => void
    }
    const resizable = new Resizable(4 * tokens * dIn, { maxByteLength: 4 * tokens * dIn })
    const { options: _, ...operands } = forwardCall()
    const x = { data: new Float32Array(resizable), shape: [tokens, dIn] }
    resizable.resize(4 * dIn)
    await expectRefused(SHAPE, 'x', () => lilyForward({ ...operands, x } as never))
  })

  hostIt('a getter of the operands themselves that throws', async () => {
    const { x, a, router, b } = smallOperands()
    const y = room(tokens, dOut)
    await expectRefused(ARGUMENT, 'a', () => lilyForward(throwing({ x, a, router, b, y }, 'a') as never))
    expect(y.data.every((value) => value === 1)).toBe(true)
  })

  hostIt('what a getter threw is the cause', async () => {
    const { options: _, ...operands } = forwardCall()
    throwing(operands.x, 'data')
    const error = await expectRefused(ARGUMENT, 'x', () => lilyForward(operands as never))
    expect(error.cause).toBeInstanceOf(RangeError)
  })

  hostIt('the message of an error of another realm', async () => {
    const { options: _, ...operands } = forwardCall()
    const cause: unknown = runInNewContext("new Error('of another realm')")
    Object.defineProperty(operands.x, 'data', {
      get: () => {
        throw cause
      },
    })
    await expectRefused(ARGUMENT, '(of another realm)', () => lilyForward(operands as never))
  })
})

// The operands of the other backends do not matter to this check.
if (suiteBackend === 'cpu')
  describe('options', () => {
    const noOptions: Record<string, unknown> = {
      Map: new Map([['scaling', 2]]),
      'Promise; await it': Promise.resolve({ scaling: 2 }),
      Date: new Date(0),
      ArrayBuffer: new ArrayBuffer(8),
      Tensor: tensor([2], [1]),
    }
    for (const [type, options] of Object.entries(noOptions)) {
      it(`of type ${type} are rejected, because their properties would be ignored`, async () => {
        const { options: _, ...operands } = forwardCall()
        const { y, ...inputs } = operands
        const message = `expected a plain object, got an object of type ${type}`
        await expectRefused(ARGUMENT, `options: ${message}`, () => lilyForward(operands as never, options as never))
        expect(y.data.every((value) => value === 1)).toBe(true)
        const { saved } = await lilyForward(inputs as never)
        const dy = room(tokens, dOut)
        await expectRefused(ARGUMENT, `needs: ${message}`, () =>
          lilyBackward({ dy }, saved, { needs: options as never }),
        )
        await expectRefused(ARGUMENT, `config: ${message}`, () =>
          LilyModel.create({ layers: [], config: options as never }),
        )
      })
    }

    it('of a class, inherited and without a prototype are read', async () => {
      class Options {
        readonly scaling = 2
      }
      const { options: _, y: __, ...operands } = forwardCall()
      const expected = (await lilyForward(operands as never, { scaling: 2 })).y.data
      const inherited = Object.create({ scaling: 2 }) as { scaling: number }
      const bare = Object.assign(Object.create(null), { scaling: 2 }) as { scaling: number }
      for (const options of [new Options(), inherited, bare]) {
        expect((await lilyForward(operands as never, options)).y.data).toEqual(expected)
      }
    })
  })

describe('lilyBackward rejects', () => {
  for (const [name, code, argument, change] of backward.filter(([name]) => appliesToBackend(name))) {
    it(name, async () => {
      await expectNothingWritten(await backwardCall(), change, async (call) => {
        const { options, saved, inputs: _, ...operands } = call
        await expectRefused(code, argument, () => lilyBackward(operands as never, saved, options as never))
      })
    })
  }
})

describe('after a forward in bfloat16, lilyBackward rejects', () => {
  const operands = () => {
    const { x, a, router, b } = typedOperands({ activations: 'bfloat16' })
    return { x, a, router, b }
  }
  const dy = halves([tokens, dOut])
  const rows: [name: string, argument: string, gradients: object][] = [
    ['dy of float32', 'dy', { dy: room(tokens, dOut) }],
    ['dy of float16', 'dy', { dy: halves([tokens, dOut], 'float16') }],
    ['dx of float32', 'dx', { dy, dx: room(tokens, dIn) }],
    ['da of float16', 'da', { dy, da: halves([rank, dIn], 'float16') }],
    ['dRouter of float16', 'dRouter', { dy, dRouter: halves([experts, rank], 'float16') }],
    ['db of float16', 'db', { dy, db: halves([experts, rank, dOut], 'float16') }],
  ]
  for (const [name, argument, gradients] of rows) {
    it(name, async () => {
      const { saved } = await lilyForward(operands())
      await expectRefused(DTYPE, argument, () => lilyBackward(gradients as never, saved))
    })
  }
})

describe('LoRA rejects', () => {
  const b = smallLoraB()
  const { x, a, dy } = smallOperands()
  it("b in Lily's shape", async () => {
    await expectRefused(SHAPE, 'b', () => loraForward({ x, a, b: room(rank, dOut) }))
    await expectRefused(SHAPE, 'b', () => loraForward({ x, a, b: room(1, rank, dOut) }))
    await expectRefused(SHAPE, 'b', () => loraForward({ x, a, b: room(1, dOut, rank) }))
    await expectRefused(SHAPE, 'b', () => loraForward({ x, a, b: room(0, rank) }))
  })
  it('a with another d_in, y with another d_out', async () => {
    await expectRefused(SHAPE, 'a', () => loraForward({ x, a: room(rank, dIn + 1), b }))
    const y = room(tokens, dOut + 1)
    await expectRefused(SHAPE, 'y', () => loraForward({ x, a, b, y }))
    expect(y.data.every((value) => value === 1)).toBe(true)
  })
  it('parameters of other types', async () => {
    const [halfA, halfB] = [halves([rank, dIn]), halves([dOut, rank])]
    await expectRefused(DTYPE, 'a', () => loraForward({ x, a: halfA as never, b: halfB as never }))
    await expectRefused(DTYPE, 'b', () => loraForward({ x, a, b: halfB as never }))
  })
  it("Lily's operands and options", async () => {
    await expectRefused(ARGUMENT, 'router', () => loraForward({ x, a, b, router: room(1, rank) } as never))
    for (const option of ['routing', 'pool', 'mask', 'sequenceOffsets', 'weights']) {
      await expectRefused(ARGUMENT, option, () => loraForward({ x, a, b }, { [option]: 'batch' } as never))
    }
    const { saved } = await loraForward({ x, a, b })
    await expectRefused(ARGUMENT, 'dRouter', () => loraBackward({ dy, dRouter: room(1, rank) } as never, saved))
    await expectRefused(ARGUMENT, 'deferB', () => loraBackward({ dy }, saved, { deferB: true } as never))
  })
  it("the saved call of Lily's forward", async () => {
    const { saved: wrong } = await backwardCall()
    await expectRefused(ARGUMENT, 'saved', () => loraBackward({ dy }, wrong as never))
  })
  it('a wrong db', async () => {
    const saved = await loraSaved()
    const db = room(rank, dOut)
    await expectRefused(SHAPE, 'db', () => loraBackward({ dy, db }, saved))
    expect(db.data.every((value) => value === 1)).toBe(true)
  })
})

describe('foldB rejects', () => {
  const deferred = async (columns = dOut, rows = rank, stacked = experts) => {
    const { x } = smallOperands()
    const operands = { x, a: room(rows, dIn), router: room(stacked, rows), b: room(stacked, rows, columns) }
    const { saved } = await lilyForward(operands)
    await lilyBackward({ dy: room(tokens, columns) }, saved, { deferB: true })
    return saved
  }
  const rows: [name: string, code: string, argument: string, saved: () => unknown, db?: () => unknown][] = [
    ['nothing', ARGUMENT, 'saved', () => undefined],
    ['no layers and no db', ARGUMENT, 'saved', () => []],
    ['a value other than saved', ARGUMENT, 'saved', () => [{}]],
    ["LoRA's", ARGUMENT, 'saved', () => loraSaved()],
    ['a layer that deferred nothing', ARGUMENT, 'saved', async () => (await backwardCall()).saved],
    ['one layer twice', ARGUMENT, 'saved', async () => ((saved) => [saved, saved])(await deferred())],
    ['a layer that was folded already', ARGUMENT, 'saved', folded],
    ['a layer that was disposed of', DISPOSED, 'saved', gone],
    ['layers of different d_out', SHAPE, 'saved', () => Promise.all([deferred(), deferred(dOut + 1)])],
    ['layers of different ranks', SHAPE, 'saved', () => Promise.all([deferred(), deferred(dOut, rank + 1)])],
    ['layers of different E', SHAPE, 'saved', () => Promise.all([deferred(), deferred(dOut, rank, experts + 1)])],
    ['db of another shape', SHAPE, 'db', deferred, () => room(experts, rank, dOut + 1)],
    ['db with E and r exchanged', SHAPE, 'db', deferred, () => room(rank, experts, dOut)],
    ['db of 16 bits', DTYPE, 'db', deferred, () => halves([experts, rank, dOut])],
    ['db on a device', DEVICE, 'db', deferred, () => onDevice([experts, rank, dOut])],
    ['db disposed of', DISPOSED, 'db', deferred, () => disposed(experts, rank, dOut)],
  ]
  for (const [name, code, argument, saved, db] of rows) {
    it(name, async () => {
      const given = (db?.() ?? room(experts, rank, dOut)) as Operand
      const [data] = memoryOf({ given })
      const before = data?.slice()
      const layers = await saved()
      const target = name.startsWith('no layers') ? undefined : given
      await expectRefused(code, argument, () => foldB(layers as never, target as never))
      if (before) expect(bits(data).equals(bits(before))).toBe(true)
    })
  }

  it('a rejected call loses nothing', async () => {
    const saved = await deferred()
    await expectRefused(SHAPE, 'db', () => foldB(saved, room(1, 1, 1)))
    expect(numbers(await foldB(saved)).some((value) => value !== 0)).toBe(true)
  })

  it.for<[string, LilyForwardOptions]>([
    ['batch', {}],
    ['sequence', { routing: 'sequence', sequenceOffsets: [0, 2, tokens] }],
    ['fixed', { routing: 'fixed', weights: [0.5, 0.5] }],
  ])('a layer whose weights were transferred: %s', async ([routing, options], context) => {
    const saved = [0, 1].map(() => {
      const { x, a, router, b, dy } = smallOperands()
      const operands = routing === 'fixed' ? { x, a, b } : { x, a, b, router }
      const saved = lilyForwardOf(operands, options).saved as LilySaved
      lilyBackwardOf({ dy }, saved, { deferB: true })
      return saved
    })
    const { buffer } = (saved[1].weights as Tensor).data
    if (buffer instanceof SharedArrayBuffer) return context.skip('the memory of WebAssembly cannot be transferred')
    structuredClone(buffer, { transfer: [buffer] })
    const db = room(experts, rank, dOut)
    const before = db.data.slice()
    const error = await expectRefused(ARGUMENT, 'saved[1]: its ArrayBuffer is detached', () => foldBOf(saved, db))
    expect(error.argument).toBe('saved[1]')
    expect(db.data).toEqual(before)
    await expectRefused(ARGUMENT, 'saved: its ArrayBuffer is detached', () => foldBOf(saved[1], db))
    foldBOf(saved[0], db)
  })

  async function gone() {
    const saved = await deferred()
    saved.dispose()
    return saved
  }

  async function folded() {
    const saved = await deferred()
    await foldB(saved)
    return saved
  }
})

describe('LilyError', () => {
  it('is an Error with a name', async () => {
    const error = await expectRefused(ARGUMENT, 'x', () => lilyForward({} as never))
    expect(error).toBeInstanceOf(Error)
    expect(error.name).toBe('LilyError')
    expect(error.stack).toContain('LilyError')
    expect(error).toBeInstanceOf(LilyError)
  })

  it('is made of any message and details', () => {
    const hostile = { toString: () => fail() }
    for (const [message, text] of [
      [Symbol('no text'), 'a symbol'],
      [hostile, 'an object of type Object'],
      ['text', 'text'],
    ]) {
      const error = new LilyError(ARGUMENT, message as never, null as never)
      expect(error).toMatchObject({ code: ARGUMENT, message: text, argument: undefined, cudaError: undefined })
      expect('cause' in error).toBe(false)
    }
    expect(new LilyError(ARGUMENT, 'text', { argument: 'x', cause: 0 })).toMatchObject({ argument: 'x', cause: 0 })
  })
})

it('a message has a text that came, up to 160 characters of it', async () => {
  const { x, a, router, b } = smallOperands()
  const forward = (routing: string) => lilyForward({ x, a, router, b }, { routing: routing as 'batch' })
  const name = 'text_model.encoder.layers.10.self_attn.out_proj'
  await expectRefused(ARGUMENT, `got '${name}'`, () => forward(name))
  const long = 'a'.repeat(100_000)
  await expectRefused(ARGUMENT, `got '${long.slice(0, 160)}... (100000 characters)'`, () => forward(long))
})

it('a private constructor names the function that creates the object', async () => {
  const classes = new Map<unknown, string>([
    [Stream, 'Stream: its constructor is private; call Stream.create(device)'],
    [Event, 'call Event.create(device)'],
    [Tensor, 'Tensor: its constructor is private; call tensor(data, shape)'],
    [DeviceBuffer, 'call DeviceBuffer.allocate(shape)'],
    [PackedLinear, 'call packLinear(weight)'],
    [SafetensorsFile, 'call SafetensorsFile.open(file)'],
    [LilyModel, 'call LilyModel.create(options) or LilyModel.fromPretrained(folder)'],
    [LoraModel, 'call LoraModel.create(options) or LoraModel.fromPretrained(folder)'],
  ])
  for (const [of, message] of classes) {
    const create = of as new (...values: readonly unknown[]) => unknown
    for (const values of [
      [],
      [5],
      [{}],
      [{ device: 0, cudaStream: 1 }],
      [new Float32Array(2), [2]],
      [Symbol('create')],
    ]) {
      await expectRefused(ARGUMENT, message, () => new create(...values))
    }
  }
})

it('memoryStats of an object that cannot be read', async () => {
  const { proxy, revoke } = Proxy.revocable({ type: 'cpu' as const }, {})
  revoke()
  await expectRefused(ARGUMENT, 'device: reading it threw an error', () => memoryStats(proxy))
  await expectRefused(DEVICE, "{ type: 'cuda', id }, or the device of a createLily object, got null", () =>
    memoryStats(null as never),
  )
})

function forwardCall(): Forward {
  const { x, a, router, b } = smallOperands()
  return { x, a, router, b, y: room(tokens, dOut), options: {} }
}

async function backwardCall(): Promise<Backward> {
  const { dy, ...inputs } = smallOperands()
  const { saved } = await lilyForward(inputs)
  const outputs = {
    dx: room(tokens, dIn),
    da: room(rank, dIn),
    dRouter: room(experts, rank),
    db: room(experts, rank, dOut),
  }
  return { dy, ...outputs, saved, inputs, options: {} }
}

async function loraSaved() {
  const { x, a } = smallOperands()
  return (await loraForward({ x, a, b: smallLoraB() })).saved
}

/** Runs a modified call and compares all memory that it could have written, except memory that the change detached. */
async function expectNothingWritten<Call extends object>(
  call: Call,
  change: (call: Call) => void,
  run: (call: Call) => Promise<void>,
) {
  const memory = new Set(memoryOf(call))
  change(call)
  for (const data of memoryOf(call)) memory.add(data)
  // A detached buffer has no length and cannot be copied.
  const before = Array.from(memory, (data) => [data, Float32Array.from(data.length > 0 ? data : [])] as const)
  await run(call)
  for (const [data, old] of before) {
    if (data.length > 0) expect(bits(data).equals(bits(old)), 'nothing is written').toBe(true)
  }
}

function memoryOf(call: object): Float32Array[] {
  return Object.values(call).flatMap((operand: unknown) => {
    if (typeof operand !== 'object' || operand === null) return []
    const data: unknown = Object.getOwnPropertyDescriptor(operand, 'data')?.value
    return data instanceof Float32Array ? [data] : []
  })
}

/** The operands in bfloat16, except those named. */
function sixteen(call: Forward, dtypes: Partial<Record<'x' | 'a' | 'router' | 'b' | 'y', string>>): void {
  for (const name of ['x', 'a', 'router', 'b', 'y'] as const) {
    const dtype = dtypes[name] ?? 'bfloat16'
    call[name] = (dtype === 'float32' ? room(...call[name].shape) : halves(call[name].shape, dtype)) as never
  }
}

function badOffsets(): Rows<Forward> {
  const rows: [name: string, code: string, offsets: unknown, got?: string][] = [
    ['decreasing', ARGUMENT, [0, 4, 2, tokens]],
    ['not from 0', ARGUMENT, [1, tokens]],
    ['negative', ARGUMENT, [0, -1, tokens]],
    ['ending before M', ARGUMENT, [0, tokens - 1]],
    ['ending beyond M', ARGUMENT, [0, tokens + 1]],
    ['broken', ARGUMENT, [0, 1.5, tokens]],
    ['beyond 32 bits', ARGUMENT, [0, 2 ** 32, 2 ** 32 + tokens]],
    ['NaN', ARGUMENT, [0, NaN, tokens]],
    ['empty', SHAPE, [], 'got none'],
    ['a matrix', SHAPE, { data: Int32Array.of(0, tokens), shape: [1, 2] }, 'got shape [1, 2]'],
    ['of no sequence', SHAPE, [0], 'got one offset'],
    ['float32', DTYPE, Float32Array.of(0, tokens)],
    ['64 bits', DTYPE, BigInt64Array.of(0n, BigInt(tokens))],
    ['detached', ARGUMENT, detachedOffsets()],
  ]
  return rows.map(([name, code, sequenceOffsets, got = 'sequenceOffsets']) => [
    `sequenceOffsets: ${name}`,
    code,
    got,
    ({ options }) => Object.assign(options, { routing: 'sequence', sequenceOffsets }),
  ])
}

/** Of no numbers there can be any number of rows, and walking through them would take minutes. */
function rowsWithoutColumns(): Rows<Forward> {
  const arrays = { mask: Uint8Array, sequenceOffsets: Int32Array, weights: Float32Array }
  return Object.entries(arrays).map(([name, Class]) => [
    `${name}: rows without columns`,
    SHAPE,
    name,
    (call) => {
      const routing = { mask: 'batch', sequenceOffsets: 'sequence', weights: 'fixed' }[name]
      if (name === 'weights') delete (call as Partial<Forward>).router
      call.options = { routing, [name]: { data: new Class(0), shape: [2 ** 30, 0] } }
      if (name === 'weights') call.options.sequenceOffsets = [0, tokens]
    },
  ])
}

function badWeights(): Rows<Forward> {
  const rows: [name: string, code: string, weights: unknown][] = [
    ['missing', ARGUMENT, undefined],
    ['NaN', ARGUMENT, [1, NaN]],
    ['infinite', ARGUMENT, [Infinity, 0]],
    ['infinite in float32', ARGUMENT, [1e39, 0]],
    ['for other experts', SHAPE, [1, 0, 0]],
    ['for more experts than there can be', SHAPE, new Array<number>(100).fill(0)],
    ['none', SHAPE, []],
    ['for other groups', SHAPE, { data: new Float32Array(3 * experts), shape: [3, experts] }],
    ['three dimensions', SHAPE, { data: new Float32Array(2 * experts), shape: [2, experts, 1] }],
    ['bytes', DTYPE, Uint8Array.of(1, 0)],
  ]
  const withB = (bShape: number[], form: string): Rows<Forward> =>
    rows.map(([name, code, weights]) => [
      `weights: ${name}${form}`,
      code,
      'weights',
      (call) => {
        call.b.shape = bShape
        delete (call as Partial<Forward>).router
        call.options = { routing: 'fixed', weights, sequenceOffsets: [0, 2, tokens] }
        if (Array.isArray(weights) || weights === undefined) delete call.options.sequenceOffsets
      },
    ])
  return [...withB([experts, rank, dOut], ''), ...withB([experts * rank, dOut], ', with b [E*r, d_out]')]
}

function detachedOffsets(): Int32Array {
  const offsets = Int32Array.of(0, tokens)
  structuredClone(offsets.buffer, { transfer: [offsets.buffer] })
  return offsets
}

function notFlat({ x }: { x: Operand }): void {
  x.data = new Float32Array(100)
  x.shape = [2, 3, dIn]
  x.strides = [20, dIn, 1]
}

function manyRanks(call: Forward, ranks: number): void {
  call.a = room(ranks, dIn)
  call.router = room(experts, ranks)
  call.b = room(experts * ranks, dOut)
}

/** A call with a b of this shape and without a router. */
function uniform(...shape: number[]) {
  return (call: Forward): void => {
    delete (call as Partial<Forward>).router
    call.b = room(...shape)
    call.options.routing = 'uniform'
  }
}

function lastOfX(call: Forward): void {
  const memory = room(tokens * dIn + tokens * dOut)
  call.x = part(memory, [tokens, dIn])
  call.y = inside(call.x, tokens * dIn - 1, [tokens, dOut])
}

/** The first elements of a buffer, with a shape. */
function part({ data }: { data: Float32Array }, shape: number[]): Operand {
  return { data: data.subarray(0, count(shape)), shape }
}

function allOnDevice(call: Forward): void {
  for (const name of ['x', 'a', 'router', 'b', 'y'] as const) call[name] = onDevice(call[name].shape) as never
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

function getter(operand: Operand, name: string, get: () => unknown): void {
  Object.defineProperty(operand, name, { get })
}

function provider(method: unknown): object {
  return { [deviceTensor]: method }
}

function fail(): never {
  throw new Error('thrown by a provider')
}
