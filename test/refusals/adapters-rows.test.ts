/** What a layer of several adapters refuses with an adapter per row. */
import {
  type AdaptersForwardOptions,
  type AdaptersLayer,
  type LayerBackwardOptions,
  LilyAdapters,
  LilyModel,
  LoraModel,
} from '../../lib/index.js'
import { filled, sizes, smallOperands } from '../support/small.js'
import { at, MISSING, refuse } from './table.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const layers = ['q', 'v'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const lily = (config: object) => LilyModel.create({ layers, config: { r: rank, numB: experts, ...config }, seed: 1 })

function adapters(): LilyAdapters {
  const routing = 'sequence'
  return new LilyAdapters()
    .addAdapter('one', lily({ initWeights: false }))
    .addAdapter('sequences', lily({ initWeights: false, routing }))
    .addAdapter('lora', LoraModel.create({ layers, config: { r: 1, initLoraWeights: false }, seed: 1 }))
    .addAdapter('of v', lily({ targetModules: ['v'] }))
}

interface Call<O = AdaptersForwardOptions> {
  layer: AdaptersLayer
  operands: Record<string, unknown>
  options: O
}
const call = (options: AdaptersForwardOptions): Call => ({
  layer: adapters().layer('q'),
  operands: { x: smallOperands().x, y: filled(3, tokens, dOut), weight: filled(1, dOut, dIn) },
  options,
})
const run = ({ layer, operands, options }: Call) => layer.forward(operands as never, options)

refuse('forward with an adapter per token', {
  call: () => call({ rows: ['one', null, 'lora', 'one', 'of v', 'lora'], scale: [1, 2, 3, 4, 5, 6] }),
  run,
  kinds: {
    required: 'options.rows options.rows.1',
    optional: 'options.scale options.strict',
    number: 'options.scale.1',
  },
  // Without rows there must be no scale, and one of the adapters does not adapt the layer.
  names: {
    'options.rows': /rows|scale/,
    'options.strict': /strict|rows/,
    'options.rows.1': /rows/,
    'options.scale.1': /scale/,
  },
  without: { 'options.rows.1': ['null'], 'options.scale.1': ['true'] },
  rows: [
    ['options.rows', 'too few', ['one'], 'SHAPE', 'rows: expected one adapter name or null per token, [6]'],
    ['options.rows', 'none', MISSING, 'ARGUMENT', 'scale: is given without rows'],
    [
      'options.rows.2',
      'an unknown name',
      'two',
      'ARGUMENT',
      "rows: element 2: expected one of the adapters one, sequences, lora, of v, or null for the base, got 'two'",
    ],
    [
      'options.rows.2',
      'a name of an object',
      'constructor',
      'ARGUMENT',
      'rows: element 2: expected one of the adapters',
    ],
    ['options.rows.2', 'sequences with tokens', 'sequences', 'ARGUMENT', 'sequenceOffsets'],
    [
      'options.strict',
      'an adapter of other layers',
      true,
      'ARGUMENT',
      "rows: element 4: expected an adapter of layer 'q', got 'of v'",
    ],
    ['options.scale', 'too many', [1, 2, 3, 4, 5, 6, 7], 'SHAPE', 'scale: expected one factor per token, [6]'],
    ['options.scale.1', 'NaN', NaN, 'ARGUMENT', 'scale: element 1 must be a finite float32, got NaN'],
    ['options.scale.1', 'infinite in float32', 1e39, 'ARGUMENT', 'scale: element 1 must be a finite float32'],
    ['options.weights', 'those of a frozen adapter', [0.5, 0.5], 'ARGUMENT', 'weights: does not go with rows'],
    [
      'options.routing',
      'that of Lily for LoRA',
      ({ options }: Call) => (Object.assign(options, { save: false }), 'token'),
      'ARGUMENT',
      'routing: is no option of LoRA',
    ],
    ['options.mask', 'too short', [1, 0], 'SHAPE', 'mask: expected one flag per token, [6]'],
    [
      'options.adapterOf',
      'numbers of adapters',
      [0, 0, 0, 0, 0, 0],
      'ARGUMENT',
      'adapterOf: is not a property of options',
    ],
    [
      'options.sequenceOffsets',
      'sequences of another number',
      [0, 6],
      'SHAPE',
      'rows: expected one adapter name or null per sequence, [1]',
    ],
    [
      'operands.y',
      'a part of x',
      ({ operands }: Call) => ({
        data: (operands.x as { data: Float32Array }).data.subarray(0, tokens * dOut),
        shape: [tokens, dOut],
      }),
      'ARGUMENT',
      'y: its memory overlaps that of x',
    ],
    ['operands.x', 'another d_in', () => filled(1, tokens, dIn + 1), 'SHAPE', `x: expected ${tokens} rows of ${dIn}`],
    ['operands.weight', 'a transposed weight', () => filled(1, dIn, dOut), 'SHAPE', 'weight: expected [4, 5]'],
  ],
})

refuse('forward of sequences', {
  call: () => call({ rows: ['sequences', null], sequenceOffsets: [0, 2, 6] }),
  run,
  kinds: { required: 'options.sequenceOffsets' },
  names: { 'options.sequenceOffsets': /sequenceOffsets|rows/ },
})
refuse('forward of the base', {
  call: () => call({ rows: Array.from({ length: tokens }, () => null) }),
  run,
  rows: [
    ['operands.x', 'another d_in', () => filled(1, tokens, dIn + 1), 'SHAPE', `x: expected ${tokens} rows of ${dIn}`],
    [
      'operands.y',
      'another d_out',
      () => filled(1, tokens, dOut + 1),
      'SHAPE',
      `y: expected ${tokens} rows of ${dOut}`,
    ],
    ['operands.weight', 'a transposed weight', () => filled(1, dIn, dOut), 'SHAPE', 'weight: expected [4, 5]'],
    ['options.rows.0', 'an unknown name', 'two', 'ARGUMENT', 'rows: element 0: expected one of the adapters'],
  ],
})
refuse('forward of a layer whose adapters were replaced by larger ones', {
  call: () => {
    const set = new LilyAdapters().addAdapter('one', lily({}))
    const layer = set.layer('q')
    const wide = [{ name: 'q', inFeatures: dIn, outFeatures: 2 * dOut }]
    set.deleteAdapter('one')
    set.addAdapter('wide', LoraModel.create({ layers: wide, config: { r: 1 }, seed: 1 }))
    const of = (outFeatures: number) => ({ y: filled(3, tokens, outFeatures), weight: filled(1, outFeatures, dIn) })
    const rows = Array.from({ length: tokens }, () => 'wide')
    return { layer, small: of(dOut), operands: { x: smallOperands().x, ...of(2 * dOut) }, options: { rows } }
  },
  run,
  rows: [
    [
      'operands',
      'y and weight of the old size',
      ({ operands, small }) => ({ ...operands, ...small }),
      'SHAPE',
      `y: expected ${tokens} rows of ${2 * dOut}`,
    ],
  ],
})
refuse('a name among many', {
  call: () => {
    const set = new LilyAdapters()
    for (let i = 0; i < 100; i++)
      set.addAdapter(`adapter ${i}`, LoraModel.create({ layers, config: { r: 1 }, seed: i }))
    return { set, name: 'adapter 99' }
  },
  run: ({ set, name }) => set.setAdapter(name),
  rows: [['name', 'an unknown one', 'adapter 100', 'ARGUMENT', "adapter 7 and 92 others, got 'adapter 100'"]],
})
refuse('forward without rows', {
  call: () => call({}),
  run,
  rows: [
    ['options.strict', 'a flag of rows', false, 'ARGUMENT', 'strict: is given without rows'],
    ['options.scale', 'factors of rows', [1, 1, 1, 1, 1, 1], 'ARGUMENT', 'scale: is given without rows'],
  ],
})

refuse('backward with an adapter per token', {
  call: () => {
    const { layer, operands } = call({})
    const { saved } = layer.forward(operands as never, { rows: ['one', null, 'lora', 'one', 'of v', 'lora'] })
    return { layer, operands: { dy: smallOperands().dy, saved, dx: filled(1, tokens, dIn) }, options: {} }
  },
  run: ({ layer, operands, options }: Call<LayerBackwardOptions>) => layer.backward(operands as never, options),
  kinds: { required: at('operands', 'dy saved dx'), flag: 'options.retain' },
  rows: [
    [
      'operands.dy',
      'too few rows',
      () => filled(1, tokens - 1, dOut),
      'SHAPE',
      `dy: expected ${tokens} rows of ${dOut}`,
    ],
    ['operands.dx', 'another d_in', () => filled(1, tokens, dIn + 1), 'SHAPE', `dx: expected ${tokens} rows of ${dIn}`],
    ['operands.x', 'another x', () => filled(1, tokens, dIn + 1), 'SHAPE', 'x: expected [6, 5]'],
    ['options.deferB', 'a deferred gradient', true, 'ARGUMENT', 'deferB: does not go with an adapter per row'],
    ['options.rows', 'rows', [null], 'ARGUMENT', 'rows: is not a property of options'],
  ],
})
