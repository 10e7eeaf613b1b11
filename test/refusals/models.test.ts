/** What models, their layers, sets of adapters, analysis and the optimiser refuse. */
import { accountFor, AdamW, analyse, LilyAdapters, LilyModel, LoraModel, rankForLora } from '../../lib/index.js'
import { filled, sizes, smallOperands } from '../support/small.js'
import { at, type Kinds, refuse } from './table.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const detached = () => {
  const weights = new Float32Array(experts)
  structuredClone(null, { transfer: [weights.buffer] })
  return weights
}
const throwing = () => {
  throw new Error('thrown by the caller')
}

/* Models. */

const layers = ['q', 'v'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = { r: rank, numB: experts, initWeights: false }
const model = () => LilyModel.create({ layers, config, seed: 1 })
const frozen = () => {
  const result = model()
  result.freeze('uniform')
  return result
}
const merged = () => {
  const result = frozen()
  result.merge('q', filled(1, dOut, dIn))
  return result
}
const lora = () => LoraModel.create({ layers, config: { r: rank, initLoraWeights: false }, seed: 1 })
const adapters = () =>
  new LilyAdapters().addAdapter('one', model()).addAdapter('two', model()).setAdapter(['one', 'two'])

const ofConfig = {
  options: /options|config/,
  'options.config.layersToTransform': /layersToTransform|targetModules/,
}
const targets = at('options.config', 'targetModules layersToTransform layersPattern')

refuse('LilyModel.create', {
  call: () => ({ options: { layers, config, seed: 1 } }),
  run: ({ options }) => LilyModel.create(options),
  kinds: {
    required: 'options options.layers options.layers.0',
    optional: `options.dtype ${at('options.config', 'routing pool activation')}`,
    nullable: targets,
    object: 'options.config',
    text: 'options.layers.0.name',
    textOrNull: 'options.config.excludeModules',
    flag: 'options.config.initWeights',
    number: at('options.layers.0', 'inFeatures outFeatures'),
    numberOrNot: `options.seed ${at('options.config', 'r strideA numB scaling')}`,
  },
  names: ofConfig,
})
refuse('LoraModel.create', {
  call: () => ({ options: { layers, config: { r: rank, rankPattern: { q: 1 }, alphaPattern: { q: 1 } }, seed: 1 } }),
  run: ({ options }) => LoraModel.create(options),
  kinds: {
    required: 'options options.layers',
    optional: 'options.dtype',
    nullable: targets,
    object: 'options.config',
    textOrNull: 'options.config.excludeModules',
    flag: at('options.config', 'useRslora fanInFanOut initLoraWeights'),
    number: at('options.config', 'rankPattern.q alphaPattern.q'),
    numberOrNot: `options.seed ${at('options.config', 'r loraAlpha')}`,
    mapOrNull: at('options.config', 'rankPattern alphaPattern'),
  },
  names: {
    ...ofConfig,
    'options.config.rankPattern.q': /rankPattern/,
    'options.config.alphaPattern.q': /alphaPattern/,
  },
})

const weight = () => filled(1, dOut, dIn)
const samples = () => ({ q: [smallOperands().x, smallOperands().x] as unknown[] })
refuse('LilyModel.freeze', {
  call: () => ({ weights: { q: [1, 1], v: [1, 1] } }),
  run: ({ weights }) => {
    model().freeze(weights)
  },
  kinds: { required: 'weights.q', number: 'weights.q.0', map: 'weights' },
  names: { 'weights.q.0': /weights/ },
  rows: [['weights.q', 'transferred memory', detached, 'ARGUMENT', 'weights: its ArrayBuffer is detached']],
})
refuse('LilyModel.calibrate', {
  call: () => ({ samples: samples() as never }),
  run: ({ samples }) => model().calibrate(samples),
  kinds: { required: 'samples samples.q samples.q.1' },
  names: { 'samples.q.1': /samples/ },
})
refuse('Calibrator.observe', {
  call: () => ({ name: 'q', x: smallOperands().x as never }),
  run: ({ name, x }) => model().calibrator().observe(name, x),
  kinds: { required: 'name x' },
})
const merging = () => ({ name: 'q', weight: weight() })
const ofMerging: Kinds = { required: 'name weight' }
// An object or a Map in the place of a name has the weights of several layers.
const ofName = { name: /name|weights/ }
refuse('LilyModel.merge', {
  call: merging,
  run: (call) => {
    frozen().merge(call.name, call.weight)
  },
  kinds: ofMerging,
  names: ofName,
})
refuse('LilyModel.unmerge', {
  call: merging,
  run: (call) => {
    merged().unmerge(call.name, call.weight)
  },
  kinds: ofMerging,
  names: ofName,
})
refuse('LoraModel.merge', {
  call: merging,
  run: (call) => {
    lora().merge(call.name, call.weight)
  },
  kinds: ofMerging,
  names: ofName,
})
refuse('LilyModel.merge of all layers', {
  call: () => ({ weights: { q: weight(), v: weight() }, options: {} }),
  run: ({ weights, options }) => {
    frozen().merge(weights, options)
  },
  kinds: { required: at('weights', 'q v'), flag: 'options.subset', options: 'options' },
  names: { 'weights.q': /weights\['q'\]/, 'weights.v': /weights\['v'\]/ },
})
for (const [name, make] of Object.entries({ LilyModel: model, LoraModel: lora, LilyAdapters: adapters })) {
  refuse(`${name}.layer`, {
    call: () => ({ name: 'q' }),
    run: (call) => make().layer(call.name),
    kinds: { required: 'name' },
  })
  refuse(`${name}.to`, {
    call: () => ({ device: { type: 'cuda' } as const }),
    run: ({ device }) => make().to(device),
    kinds: { required: 'device' },
    isInvalid: true,
  })
}

/* Sets of adapters. */

refuse('LilyAdapters.addAdapter', {
  call: () => ({ name: 'x', model: model() }),
  run: ({ name, model }) => new LilyAdapters().addAdapter(name, model),
  kinds: { required: 'model', text: 'name' },
})
refuse('LilyAdapters.addAdapter of LoRA', {
  call: () => ({ model: lora() }),
  run: ({ model }) => new LilyAdapters<LoraModel>().addAdapter('l', lora()).addAdapter('x', model),
  kinds: { required: 'model' },
})
refuse('LilyAdapters.setAdapter', {
  call: () => ({ name: ['one', 'two'] }),
  run: ({ name }) => adapters().setAdapter(name),
  kinds: { list: 'name', required: 'name.1' },
  names: { name: /names?/, 'name.1': /names?/ },
})
refuse('LilyAdapters.deleteAdapter', {
  call: () => ({ name: 'one' }),
  run: ({ name }) => {
    adapters().deleteAdapter(name)
  },
  kinds: { required: 'name' },
})

/* Layers. */

interface Layer {
  forward(operands: unknown, options?: unknown): { saved: unknown }
  backward(operands: unknown, options?: unknown): unknown
}
type Operands = Record<string, unknown>

/** Forward and backward of a layer. y and dx of a set of adapters are required. */
function refuseLayer(name: string, make: () => { layer: (name: string) => unknown }): void {
  const [isAdapters, isLora] = [name === 'LilyAdapters', name === 'LoraModel']
  const ofLily = at('options', 'routing pool activation mask sequenceOffsets weights')
  const run = (of: 'forward' | 'backward') => (call: { layer: Layer; operands: Operands; options: object }) =>
    call.layer[of](call.operands, call.options)
  const names = { 'options.deferB': /deferB|db/, 'operands.weight': /weight|bias/ }
  const forward = () => {
    const operands: Operands = {
      x: smallOperands().x,
      y: filled(3, tokens, dOut),
      weight: weight(),
      bias: filled(1, dOut),
    }
    return { layer: make().layer('q') as Layer, operands, options: {} }
  }
  refuse(`forward of a layer of ${name}`, {
    call: forward,
    run: run('forward'),
    kinds: {
      required: `operands options.scaling ${at('operands', `x weight${isAdapters ? ' y' : ''}`)}`,
      optional:
        `operands.bias ${at('options', 'precision stream')} ${isAdapters ? '' : 'operands.y'} ${isLora ? '' : ofLily}`
          .replace(/ +/g, ' ')
          .trim(),
      flag: at('options', 'save accumulate'),
      options: 'options',
    },
    names,
  })
  refuse(`backward of a layer of ${name}`, {
    call: () => {
      const {
        layer,
        operands: { x, y },
      } = forward()
      const { saved } = layer.forward({ x, y })
      const operands: Operands = { dy: smallOperands().dy, saved, dx: filled(1, tokens, dIn) }
      return { layer, operands, options: {} }
    },
    run: run('backward'),
    kinds: {
      required: `operands ${at('operands', `dy saved${isAdapters ? ' dx' : ''}`)}`,
      optional: `operands.x options.stream${isAdapters ? '' : ' operands.dx'}`,
      flag: at('options', isLora ? 'retain' : 'retain deferB'),
      options: 'options options.needs',
    },
    names,
  })
}
refuseLayer('LilyModel', model)
refuseLayer('LoraModel', lora)
refuseLayer('LilyAdapters', adapters)

/* What models need. */

refuse('accountFor', {
  call: () => ({ layers, config, options: {} }),
  run: ({ layers, config, options }) => accountFor(layers, config, options),
  kinds: {
    required: 'layers layers.0',
    object: 'config',
    options: 'options',
    optional: at('options', 'dtype activations'),
  },
})
refuse('rankForLora', {
  call: () => ({ layers, config, loraRank: 4 }),
  run: ({ layers, config, loraRank }) => rankForLora(layers, config, loraRank),
  kinds: { required: 'layers', object: 'config', number: 'loraRank' },
})
refuse('analyse', {
  call: () => ({ model: model(), options: { samples: samples() as never } }),
  run: ({ model, options }) => analyse(model, options),
  kinds: {
    required: 'model options.samples.q options.samples.q.1',
    optional: 'options.samples',
    options: 'options',
    functionOrNot: 'options.onProgress',
  },
  names: { 'options.samples.q': /samples/, 'options.samples.q.1': /samples/ },
})

/* The optimiser. */

const parameter = () => ({ value: filled(1, 2, 3), grad: filled(1, 2, 3) })
type Parameters = Map<string, ReturnType<typeof parameter>>
const state = () => ({ step: 1, parameters: { p: { expAvg: filled(0, 2, 3), expAvgSq: filled(0, 2, 3) } } })

refuse('AdamW', {
  call: () => ({ parameters: new Map([['p', parameter()]]), options: { groups: [{ match: ['p'] }] } }),
  run: ({ parameters, options }) => new AdamW(parameters, options),
  kinds: {
    required: 'parameters options.groups.0 options.groups.0.match',
    options: 'options',
    numberOrNot: `${at('options', 'lr eps weightDecay maxNorm')} ${at('options.groups.0', 'lr weightDecay')}`,
    listOrNot: 'options.groups',
    optional: 'options.betas options.distributed',
  },
  rows: [
    [
      'options.distributed',
      'what init() returns',
      { rank: 0, size: 1, library: null },
      'ARGUMENT',
      "distributed: expected an engine of data parallelism, got what init() returns; import * as mpi from 'lily-kernels/mpi', and pass mpi itself",
    ],
    ['options.groups', 'a match that throws', [{ match: throwing }], 'ARGUMENT', 'groups[0].match: reading it threw'],
  ],
})
refuse('a parameter of AdamW', {
  call: () => ({ name: 'p', p: parameter() }),
  run: ({ name, p }) => new AdamW(new Map([[name, p]])),
  kinds: { text: 'name', required: 'p p.value' },
  names: { name: /parameters/ },
})
refuse('AdamW.step', {
  call: () => ({ p: parameter(), options: {} }),
  run: ({ p, options }) => {
    const parameters: Parameters = new Map([['p', parameter()]])
    const optimiser = new AdamW(parameters)
    parameters.set('p', p)
    optimiser.step(options)
  },
  kinds: {
    required: 'p p.value p.grad',
    optional: 'options.stream',
    options: 'options',
    numberOrNot: 'options.lrScale',
  },
})
refuse('AdamW.zeroGrad', {
  call: () => ({ p: parameter() }),
  run: ({ p }) => {
    new AdamW(new Map([['p', p]])).zeroGrad()
  },
  kinds: { required: 'p p.grad', functionOrNot: 'p.zeroGrad' },
  rows: [['p.checkGrad', 'a method that throws', () => throwing, 'ARGUMENT', 'p: reading it threw an error']],
})
refuse('AdamW.load', {
  call: () => ({ state: state() }),
  run: ({ state }) => {
    new AdamW(new Map([['p', parameter()]])).load(state)
  },
  kinds: { required: `state state.parameters ${at('state.parameters', 'p p.expAvg')}`, number: 'state.step' },
})
