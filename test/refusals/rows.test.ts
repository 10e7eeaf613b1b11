/**
 * What calls with an adapter for each row refuse, beside what ordinary calls do.
 *
 * @project cpu wasm cuda
 */
import { dropoutState, type RowsSaved, tensor } from '../../lib/index.js'
import { resolve } from '../../lib/tensor/resolve.js'
import * as ops from '../support/backend.js'
import { filled, type HostTensor } from '../support/small.js'
import { type Kinds, refuse, type Row } from './table.js'

const [tokens, dIn, dOut, experts] = [6, 5, 4, 2]
const room = (...shape: number[]) => filled(1, ...shape)
const ranks = [0, 2, 3, 7]
const rank = 7
const adapterOf = [0, 1, -1, 2, 0, 1]
const weights = { data: new Float32Array(3 * experts).fill(0.5), shape: [3, experts] }

interface Call {
  /** The operands of the forward of a call of backward. */
  inputs?: Record<string, HostTensor>
  operands: Record<string, HostTensor>
  saved: RowsSaved
  options: Record<string, unknown>
}
type Bad = Row<Call>[]

/** An output in the memory of another operand: one of the call, which is put into a larger buffer, or of its forward. */
function over(name: string, other: string, ...shape: number[]): Row<Call> {
  const within = ({ operands, inputs }: Call) => {
    if (other in operands) {
      const { data, shape: own } = operands[other]
      operands[other] = { data: new Float32Array(64).subarray(0, data.length), shape: own }
    }
    const { data } = { ...inputs, ...operands }[other]
    return { data: new Float32Array(data.buffer, 0, shape[0] * shape[1]), shape }
  }
  return [`operands.${name}`, `in the memory of ${other}`, within, 'ARGUMENT', `its memory overlaps that of ${other}`]
}

const lily = () => ({
  operands: {
    x: room(tokens, dIn),
    a: room(rank, dIn),
    router: room(experts, rank),
    b: room(experts * rank, dOut),
    y: room(tokens, dOut),
  },
  options: { rankOffsets: ranks, adapterOf } as Record<string, unknown>,
})
const lora = () => {
  const { operands, options } = lily()
  const { router: _, ...rest } = operands
  return { operands: { ...rest, b: room(dOut, rank) }, options }
}
const fixed = (change: object) => (call: Call) => {
  Reflect.deleteProperty(call.operands, 'router')
  return { ...call.options, routing: 'fixed', ...change }
}
/** Options of a call whose x is [2, 3, d_in]. */
const ofSequences = (change: object) => (call: Call) => {
  call.operands.x.shape = [2, 3, dIn]
  return { ...call.options, adapterOf: [0, 1], ...change }
}
const change = (of: object) => (call: Call) => ({ ...call.options, ...of })
/** A stack of ranks r and 1, and its offsets. */
const large = (r: number) => (call: Call) => {
  call.operands.a = room(r + 1, dIn)
  call.operands.b = room(dOut, r + 1)
  return { ...call.options, rankOffsets: [0, 1, r + 1], adapterOf: new Array(tokens).fill(0) }
}

/** Rows of the options. */
const options = (argument: string, rows: [what: string, of: object, code: Row<Call>[3], message?: string][]) =>
  rows.map(([what, of, code, message = argument]): Row<Call> => {
    return ['options', what, typeof of === 'function' ? of : change(of), code, message]
  })

/** A call without `save` in which no row has an adapter, but the frozen layer has work. */
const ofBase = (of: object) => (call: Call) => {
  call.operands.weight = room(dOut, dIn)
  return { ...call.options, adapterOf: new Array(tokens).fill(-1), save: false, ...of }
}
const of16Bits = ({ shape }: HostTensor) => {
  return { data: new Uint16Array(shape[0] * shape[1]), shape, dtype: 'bfloat16' }
}
const onDevice = (length: number, dtype = 'int32') => {
  return { ptr: 0x1000, shape: [length], dtype, device: { type: 'cuda', id: 0 } }
}
const of = (rows: object) => ({ adapterOf: rows })
const ofBoth: Bad = [
  ...options('adapterOf', [
    [
      'offsets without it',
      { adapterOf: undefined },
      'ARGUMENT',
      'adapterOf: is required with rankOffsets, got undefined',
    ],
    [
      'one element too few',
      of(adapterOf.slice(1)),
      'SHAPE',
      'expected one adapter per token, [6] (x has shape [6, 5]), got [5]',
    ],
    [
      'one for each token of a 3-D x',
      ofSequences(of(adapterOf)),
      'SHAPE',
      'one adapter per sequence, [2] (x has shape [2, 3, 5]), got [6]',
    ],
    [
      'one for each token beside offsets',
      { sequenceOffsets: [0, 2, tokens] },
      'SHAPE',
      'one adapter per sequence, [2]',
    ],
    ['a matrix', of({ data: Int32Array.from(adapterOf), shape: [1, tokens] }), 'SHAPE'],
    ['an adapter too many', of([0, 1, 2, 3, 0, 0]), 'ARGUMENT', 'element 3 must be from -1 (the base) to 2, got 3'],
    ['below the base', of([0, 1, 2, 0, 0, -2]), 'ARGUMENT', 'element 5 must be from -1 (the base) to 2, got -2'],
    ['a fraction', of([0, 1, 0.5, 0, 0, 0]), 'ARGUMENT'],
    ['NaN', of([0, 1, NaN, 0, 0, 0]), 'ARGUMENT'],
    ['names', of(['a', 'b', 'a', 'a', 'a', 'a']), 'ARGUMENT'],
    ['float32', of(Float32Array.from(adapterOf)), 'DTYPE'],
    ['on a device', of(onDevice(tokens)), 'ARGUMENT', 'adapterOf: expected an array on the host'],
  ]),
  ...options('rankOffsets', [
    [
      'adapters without it',
      { rankOffsets: undefined },
      'ARGUMENT',
      'rankOffsets: is required with adapterOf, got undefined',
    ],
    ['no adapter', { rankOffsets: [0] }, 'SHAPE'],
    ['a matrix', { rankOffsets: { data: Int32Array.from(ranks), shape: [2, 2] } }, 'SHAPE'],
    ['not from 0', { rankOffsets: [1, 2, 3, rank] }, 'ARGUMENT', 'the first offset must be 0, got 1'],
    [
      'an adapter without a rank',
      { rankOffsets: [0, 3, 3, rank] },
      'ARGUMENT',
      'must ascend by 1 to 4096: element 2 is 3 after 3',
    ],
    ['a fraction', { rankOffsets: [0, 2.5, 3, rank] }, 'ARGUMENT', 'element 1 is 2.5 after 0'],
    ['on a device', { rankOffsets: onDevice(4) }, 'ARGUMENT', 'rankOffsets: expected an array on the host'],
    ['other rows than a has', { rankOffsets: [0, 2, 3, 6] }, 'ARGUMENT', 'must be the number of rows of a, 7, got 6'],
  ]),
  ...options('scale', [
    [
      'without adapters',
      { rankOffsets: undefined, adapterOf: undefined, scale: [1, 1, 1, 1, 1, 1] },
      'ARGUMENT',
      'scale: goes with adapterOf; use scaling',
    ],
    ['a number', { scale: 2 }, 'ARGUMENT', 'scale: expected a factor for each row, got 2; pass one factor as scaling'],
    ['one element too many', { scale: new Float32Array(tokens + 1) }, 'SHAPE', 'one factor per token, [6]'],
    ['NaN', { scale: [1, 1, 1, NaN, 1, 1] }, 'ARGUMENT', 'scale: element 3 must be a finite float32, got NaN'],
    ['infinite in float32', { scale: [1e39, 1, 1, 1, 1, 1] }, 'ARGUMENT'],
  ]),
  ['options.scale', 'on a device', onDevice(tokens, 'float32'), 'ARGUMENT', 'scale: expected an array on the host'],
  ['options.sequenceOffsets', 'on a device', onDevice(2), 'ARGUMENT', 'sequenceOffsets: expected an array on the host'],
  ['options.sequenceOffsets', 'that end before M', [0, tokens - 1], 'ARGUMENT'],
  [
    'options.dropout',
    'with adapters',
    { rate: 0.1, state: dropoutState(1) },
    'ARGUMENT',
    'dropout: does not go with an adapter per row',
  ],
  ['operands.a', 'another d_in', room(rank, dIn + 1), 'SHAPE'],
  ['operands.y', 'other columns', room(tokens, dOut + 1), 'SHAPE'],
  [
    'operands.y',
    'of 16 bits',
    { data: new Uint16Array(tokens * dOut), shape: [tokens, dOut], dtype: 'bfloat16' },
    'DTYPE',
  ],
  [
    'options',
    'parameters of another type without a row',
    (call) => {
      const { a, b } = call.operands
      Object.assign(call.operands, { a: of16Bits(a), b: of16Bits(b) })
      return ofBase({})(call)
    },
    'DTYPE',
    'a: ',
  ],
  over('y', 'x', tokens, dOut),
  over('y', 'a', tokens, dOut),
  over('y', 'b', tokens, dOut),
]

const kinds: Kinds = ops.backend === 'cpu' ? { required: 'options.rankOffsets options.adapterOf' } : {}

refuse('lilyForward with an adapter for each row', {
  call: () => lily() as never as Call,
  run: ({ operands, options }) => ops.lilyForward(operands as never, options as never),
  kinds,
  rows: [
    ...ofBoth,
    [
      'operands.router',
      'columns of one adapter',
      room(experts, 2),
      'SHAPE',
      'expected [E, 7] (a has 7 rows), got [2, 2]',
    ],
    [
      'operands.b',
      'three dimensions',
      room(experts, rank, dOut),
      'SHAPE',
      'expected [14, d_out] (E 2, a has 7 rows), got [2, 7, 4]',
    ],
    ['operands.b', 'other rows', room(experts * rank + 1, dOut), 'SHAPE'],
    ['operands.b', 'no columns', room(experts * rank, 0), 'SHAPE'],
    ['options', 'sequence routing of tokens', change({ routing: 'sequence' }), 'ARGUMENT', 'sequenceOffsets'],
    [
      'options',
      'sequence routing of tokens, none of which has an adapter',
      ofBase({ routing: 'sequence' }),
      'ARGUMENT',
      'sequenceOffsets',
    ],
    ['options', 'fixed routing without weights', fixed({}), 'ARGUMENT', "weights: is required by routing 'fixed'"],
    [
      'options',
      'fixed routing with one row',
      fixed({ weights: [1, 0] }),
      'SHAPE',
      'weights: expected [3, 2]: one row for each adapter',
    ],
    [
      'options',
      'fixed weights that are NaN',
      fixed({ weights: { ...weights, data: weights.data.slice().fill(NaN, 5) } }),
      'ARGUMENT',
      'element 5 must',
    ],
    [
      'options',
      'a mask of token routing',
      change({ routing: 'token', mask: new Uint8Array(tokens) }),
      'ARGUMENT',
      'mask',
    ],
    ['options.mask', 'too short', new Uint8Array(tokens - 1), 'SHAPE'],
    [
      'options',
      'logits of one adapter',
      (call) => {
        call.operands.router = room(experts, 1)
        return { ...call.options, routing: 'learned' }
      },
      'SHAPE',
      'router: expected [E, 3] (a column of logits for each adapter), got [2, 1]',
    ],
  ],
})

refuse('loraForward with an adapter for each row', {
  call: () => lora() as never as Call,
  run: ({ operands, options }) => ops.loraForward(operands as never, options as never),
  rows: [
    ...ofBoth,
    ['operands.b', 'of Lily', room(rank, dOut), 'SHAPE', 'expected [d_out, 7] (a has 7 rows), got [7, 4]'],
    [
      'options',
      'a rank above 4096',
      large(4097),
      'SHAPE',
      'rankOffsets: expected ranks from 1 to 4096, got 4097 for adapter 1',
    ],
    ['options', 'sequences without adapters', () => ({ sequenceOffsets: [0, tokens] }), 'ARGUMENT', 'sequenceOffsets'],
    ['options.mask', 'no option', new Uint8Array(tokens), 'ARGUMENT'],
  ],
})

const backward = async (of = lily()) => {
  const { operands: inputs, options } = of
  const { y: _, ...rest } = inputs
  const { saved } = await ops.lilyForward(rest, options as never)
  const gradients = { da: room(rank, dIn), dRouter: room(experts, rank), db: room(experts * rank, dOut) }
  const operands = { dy: room(tokens, dOut), dx: room(tokens, dIn), ...gradients }
  return { operands, inputs, saved, options: {} } as never as Call
}
refuse<Call>('lilyBackward with an adapter for each row', {
  call: () => backward(),
  run: ({ operands, saved, options }) => ops.lilyBackward(operands as never, saved as never, options as never),
  rows: [
    ['operands.dy', 'other rows', room(tokens + 1, dOut), 'SHAPE'],
    ['operands.dx', 'other columns', room(tokens, dIn + 1), 'SHAPE'],
    ['operands.x', 'another shape than in forward', room(1, tokens, dIn), 'SHAPE'],
    ['operands.da', 'the rows of one adapter', room(2, dIn), 'SHAPE', 'da: expected [7, 5], got [2, 5]'],
    ['operands.dRouter', 'other columns', room(experts, rank + 1), 'SHAPE'],
    ['operands.db', 'three dimensions', room(experts, rank, dOut), 'SHAPE', 'db: expected [14, 4], got [2, 7, 4]'],
    [
      'operands.da',
      'of 16 bits',
      { data: new Uint16Array(rank * dIn), shape: [rank, dIn], dtype: 'bfloat16' },
      'DTYPE',
    ],
    over('dx', 'dy', tokens, dIn),
    over('dx', 'x', tokens, dIn),
    over('dx', 'a', tokens, dIn),
    over('da', 'a', rank, dIn),
    over('db', 'dy', experts * rank, dOut),
    over('dRouter', 'da', experts, rank),
    over('da', 'dx', rank, dIn),
    ['options.needs', 'without da, which is given', { da: false }, 'ARGUMENT', 'da'],
    [
      'options.deferB',
      'true',
      (call) => (Reflect.deleteProperty(call.operands, 'db'), true),
      'ARGUMENT',
      'deferB: does not go with',
    ],
    [
      'options.needs',
      'the gradient of given weights',
      async (call) => {
        const { router: _, ...inputs } = lily().operands
        call.saved = (await ops.lilyForward(inputs, { rankOffsets: ranks, adapterOf, routing: 'fixed', weights })).saved
        Reflect.deleteProperty(call.operands, 'dRouter')
        return { dWeights: true }
      },
      'ARGUMENT',
      'needs.dWeights: does not go with an adapter per row',
    ],
    ['saved', 'of one adapter', ({ saved }) => saved.adapters[1], 'ARGUMENT', 'the part of one of its adapters'],
    ['saved', 'disposed of', ({ saved }) => (saved.dispose(), saved), 'DISPOSED'],
    ['saved', 'one adapter of which is disposed of', ({ saved }) => (saved.adapters[1].dispose(), saved), 'DISPOSED'],
    [
      'saved',
      'of LoRA',
      async () => (await ops.loraForward(lora().operands, lora().options as never)).saved,
      'ARGUMENT',
    ],
    ['saved', 'that a backward has used', used, 'ARGUMENT', 'saved: expected one that no backward has used'],
    ...(ops.backend === 'cpu'
      ? [
          [
            'saved',
            'with a parameter that was trained',
            trained,
            'ARGUMENT',
            'b: expected the values of forward',
          ] as Row<Call>,
        ]
      : []),
  ],
})

async function used({ operands, saved }: Call) {
  await ops.lilyBackward({ dy: operands.dy }, saved as never)
  return saved
}

async function trained() {
  const { x, a, router, b } = lily().operands
  const values = tensor(b.data, b.shape)
  const { saved } = await ops.lilyForward({ x, a, router, b: values }, lily().options as never)
  resolve('b', values).version++ // as AdamW does
  return saved
}
