/**
 * Every argument of every public function and method, replaced by values of other kinds: the call is valid, as the row says,
 * or it throws a LilyError that names the argument, and the outputs that it was given are unchanged.
 */
import { join } from 'node:path'
import {
  accountFor,
  AdamW,
  analyse,
  attentionBackward,
  attentionForward,
  captureGraph,
  DeviceBuffer,
  Event,
  foldB,
  LilyAdapters,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  LilyModel,
  linearBackward,
  linearBackwardAsync,
  linearForward,
  linearForwardAsync,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  LoraModel,
  matMul,
  matMulAsync,
  packLinear,
  rankForLora,
  readPretrainedState,
  readState,
  SafetensorsFile,
  saveState,
  stateFile,
  Stream,
  tensor,
  writeSafetensors,
} from '../../lib/index.js'
import { fields, type Outputs, type Row, testRows } from './kinds.js'
import { filled, sizes, smallLoraB, smallOperands } from '../support/small.js'
import { temporaryFolder } from '../support/temporary.js'

const { tokens, dIn, dOut, rank, experts } = sizes

/** Options that read as absent: they have no property of their own. */
const EMPTY = ['undefined', '{}'] as const

/* The operations. */

/** The outputs that the calls below are given, as opposed to the values that replace them. */
const outputsMade = new WeakSet()
const output = (value: number, ...shape: number[]) => {
  const made = filled(value, ...shape)
  outputsMade.add(made)
  return made
}
const y = () => output(3, tokens, dOut)
const forwardCall = () => {
  const { x, a, router, b } = smallOperands()
  return { x, a, router, b, y: y() }
}
const loraCall = () => {
  const { x, a } = smallOperands()
  return { x, a, b: smallLoraB(), y: y() }
}
const gradients = () => ({
  dy: smallOperands().dy,
  dx: output(1, tokens, dIn),
  da: output(2, rank, dIn),
  dRouter: output(3, experts, rank),
  db: output(4, experts, rank, dOut),
})
const loraGradients = () => {
  const { dRouter: _, ...others } = gradients()
  return { ...others, db: output(4, dOut, rank) }
}
const savedCall = (deferB = false) => {
  const { x, a, router, b, dy } = smallOperands()
  const { saved } = lilyForward({ x, a, router, b })
  if (deferB) lilyBackward({ dy }, saved, { deferB })
  return saved
}
const loraSaved = () => {
  const { y: _, ...operands } = loraCall()
  return loraForward(operands).saved
}

const written = (outputs: Outputs, ...operands: ({ data?: unknown } | undefined)[]) => {
  for (const operand of operands) if (ArrayBuffer.isView(operand?.data)) outputs(operand.data)
}
/** Registers the outputs of a call whose operands may be no operands. */
const outputsOf = (outputs: Outputs, operands: Record<string, unknown>, ...names: string[]) => {
  for (const name of names) {
    const operand = operands[name]
    if (outputsMade.has(operand as object)) written(outputs, operand as { data?: unknown })
  }
}

const flag = { valid: ['undefined', 'true'] } as const
const forwardOptions = {
  scaling: { valid: ['undefined', '5'] },
  precision: { valid: ['undefined'] },
  save: flag,
  accumulate: flag,
  stream: { valid: ['undefined'] },
} as const
const lilyOptions = {
  ...forwardOptions,
  routing: { valid: ['undefined'] },
  pool: { valid: ['undefined'] },
  activation: { valid: ['undefined'] },
  mask: { valid: ['undefined'] },
  sequenceOffsets: { valid: ['undefined'] },
  weights: { valid: ['undefined'] },
} as const
const backwardOptions = {
  needs: { valid: EMPTY },
  retain: flag,
  accumulate: flag,
  stream: { valid: ['undefined'] },
} as const
const optional = { valid: ['undefined'] } as const

/** Rows of one operand: its properties. */
const operandFields = (call: (x: never) => unknown): Record<string, Row> =>
  fields(
    smallOperands().x,
    {
      data: {},
      shape: {},
      dtype: optional,
      strides: optional,
      byteOffset: optional,
      device: optional,
    },
    call,
  )
const named = (rows: Record<string, Row>, argument: RegExp): Record<string, Row> =>
  Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, { ...row, argument }]))

function operations(): Record<string, Record<string, Row>> {
  const groups: Record<string, Record<string, Row>> = {}
  for (const [name, run] of Object.entries({ lilyForward, lilyForwardAsync })) {
    const operandsOf = (call: (changed: Record<string, unknown>) => unknown) => (changed: never, outputs: Outputs) => {
      outputsOf(outputs, changed, 'y')
      return call(changed)
    }
    groups[name] = {
      operands: { argument: /operands|x/, call: (value) => run(value) },
      ...fields(
        forwardCall(),
        { x: {}, a: {}, router: {}, b: {}, y: optional },
        operandsOf((changed) => run(changed as never)),
      ),
      options: {
        argument: /options/,
        valid: EMPTY,
        call: (value, outputs) => {
          const call = forwardCall()
          written(outputs, call.y)
          return run(call, value)
        },
      },
    }
    groups[`${name} operand`] = named(
      operandFields((x) => run({ ...forwardCall(), x })),
      /\bx\b/,
    )
    groups[`${name} options`] = fields({}, lilyOptions, (options, outputs) => {
      const call = forwardCall()
      written(outputs, call.y)
      return run(call, options)
    })
  }
  for (const [name, run] of Object.entries({ loraForward, loraForwardAsync })) {
    groups[name] = {
      operands: { argument: /operands|x/, call: (value) => run(value) },
      ...fields(loraCall(), { x: {}, a: {}, b: {}, y: optional }, (changed, outputs) => {
        outputsOf(outputs, changed, 'y')
        return run(changed)
      }),
      options: { argument: /options/, valid: EMPTY, call: (value) => run(loraCall(), value) },
    }
    groups[`${name} options`] = fields({}, forwardOptions, (options, outputs) => {
      const call = loraCall()
      written(outputs, call.y)
      return run(call, options)
    })
  }
  for (const [name, run] of Object.entries({ lilyBackward, lilyBackwardAsync })) {
    const outputs = ['dx', 'da', 'dRouter', 'db']
    groups[name] = {
      operands: { argument: /operands|dy/, call: (value) => run(value, savedCall()) },
      ...fields(
        {},
        { dy: {}, dx: optional, da: optional, dRouter: optional, db: optional },
        (changed: Record<string, unknown>, given) => {
          const call = { ...gradients(), ...changed }
          outputsOf(given, call, ...outputs)
          return run(call, savedCall())
        },
      ),
      saved: {
        argument: /saved/,
        call: (value, given) => {
          const call = gradients()
          outputsOf(given, call, ...outputs)
          return run(call, value)
        },
      },
      options: { argument: /options/, valid: EMPTY, call: (value) => run(gradients(), savedCall(), value) },
    }
    groups[`${name} options`] = fields(
      {},
      { ...backwardOptions, deferB: { argument: /deferB|db/, valid: ['undefined'] } },
      (options, given) => {
        const call = gradients()
        outputsOf(given, call, ...outputs)
        return run(call, savedCall(), options)
      },
    )
    groups[`${name} needs`] = fields({}, { dx: flag, da: flag, dRouter: flag, db: flag }, (needs, given) => {
      const call = gradients()
      outputsOf(given, call, ...outputs)
      return run(call, savedCall(), { needs })
    })
  }
  for (const [name, run] of Object.entries({ loraBackward, loraBackwardAsync })) {
    groups[name] = {
      operands: { argument: /operands|dy/, call: (value) => run(value, loraSaved()) },
      ...fields({}, { dy: {}, dx: optional, da: optional, db: optional }, (changed: Record<string, unknown>, given) => {
        const call = { ...loraGradients(), ...changed }
        outputsOf(given, call, 'dx', 'da', 'db')
        return run(call, loraSaved())
      }),
      saved: { argument: /saved/, call: (value) => run(loraGradients(), value) },
      options: { argument: /options/, valid: EMPTY, call: (value) => run(loraGradients(), loraSaved(), value) },
    }
    groups[`${name} options`] = fields({}, backwardOptions, (options) => run(loraGradients(), loraSaved(), options))
  }
  const weight = () => filled(1, dOut, dIn)
  const linearOptions = { precision: optional, accumulate: flag, stream: optional }
  // A weight that is left out is refused, because a bias is given.
  const frozen = { weight: {}, bias: optional }
  const withLayer = {
    lilyForward: [lilyForward, forwardCall],
    lilyForwardAsync: [lilyForwardAsync, forwardCall],
    loraForward: [loraForward, loraCall],
    loraForwardAsync: [loraForwardAsync, loraCall],
  } as const
  for (const [name, [given, adapter]] of Object.entries(withLayer)) {
    const run = given as (operands: never) => unknown
    const call = { ...adapter(), weight: weight(), bias: filled(1, dOut) }
    groups[`${name} with its layer`] = fields(call, frozen, (changed, outputs) => {
      outputsOf(outputs, changed, 'y')
      return run(changed)
    })
  }
  const [q, k, v] = [filled(1, tokens, dIn), filled(2, tokens, dIn), filled(3, tokens, dIn)]
  const rows = () => output(4, tokens, dIn)
  const queries = () => ({ q, k, v, mask: new Array<number>(tokens).fill(1), y: rows() })
  groups.attentionForward = {
    operands: { argument: /operands|q/, call: (value) => attentionForward(value, { heads: 1 }) },
    ...fields(queries(), { q: {}, k: {}, v: {}, mask: optional, y: optional }, (changed, outputs) => {
      outputsOf(outputs, changed, 'y')
      return attentionForward(changed, { heads: 1 })
    }),
    options: { argument: /options|heads/, call: (value) => attentionForward(queries(), value) },
    ...fields(
      { heads: 1 },
      { heads: { valid: ['5'] }, causal: flag, scale: forwardOptions.scaling, save: flag },
      (options, outputs) => {
        const given = queries()
        written(outputs, given.y)
        return attentionForward(given, options)
      },
    ),
  }
  const ofAttention = () => attentionForward({ q, k, v }, { heads: 1 }).saved
  const queryGradients = () => ({ dy: q, dq: rows(), dk: rows(), dv: rows() })
  const again = { q: optional, k: optional, v: optional, y: optional }
  groups.attentionBackward = {
    operands: { argument: /operands|dy/, call: (value) => attentionBackward(value, ofAttention()) },
    ...fields(queryGradients(), { dy: {}, ...again, dq: optional, dk: optional, dv: optional }, (changed, outputs) => {
      outputsOf(outputs, changed, 'dq', 'dk', 'dv')
      return attentionBackward(changed, ofAttention())
    }),
    saved: { argument: /saved/, call: (value) => attentionBackward(queryGradients(), value) },
    options: {
      argument: /options/,
      valid: EMPTY,
      call: (value) => attentionBackward(queryGradients(), ofAttention(), value),
    },
    ...fields({}, { needs: { valid: EMPTY }, accumulate: flag }, (options) =>
      attentionBackward(queryGradients(), ofAttention(), options),
    ),
  }
  for (const [name, run] of Object.entries({ linearForward, linearForwardAsync })) {
    const call = () => ({ x: smallOperands().x, weight: weight(), bias: filled(1, dOut), y: y() })
    groups[name] = {
      operands: { argument: /operands|x/, call: (value) => run(value) },
      ...fields(call(), { x: {}, weight: {}, bias: optional, y: optional }, (changed, outputs) => {
        outputsOf(outputs, changed, 'y')
        return run(changed)
      }),
      options: { argument: /options/, valid: EMPTY, call: (value) => run(call(), value) },
    }
    groups[`${name} options`] = fields({}, linearOptions, (options, outputs) => {
      const given = call()
      written(outputs, given.y)
      return run(given, options)
    })
  }
  for (const [name, run] of Object.entries({ linearBackward, linearBackwardAsync })) {
    const call = () => ({ dy: smallOperands().dy, weight: weight(), dx: output(1, tokens, dIn) })
    groups[name] = {
      operands: { argument: /operands|dy/, call: (value) => run(value) },
      ...fields(call(), { dy: {}, weight: {}, dx: optional }, (changed, outputs) => {
        outputsOf(outputs, changed, 'dx')
        return run(changed)
      }),
      options: { argument: /options/, valid: EMPTY, call: (value) => run(call(), value) },
    }
    groups[`${name} options`] = fields({}, linearOptions, (options, outputs) => {
      const given = call()
      written(outputs, given.dx)
      return run(given, options)
    })
  }
  for (const [name, run] of Object.entries({ matMul, matMulAsync })) {
    const call = () => ({ a: smallOperands().x, b: filled(1, dIn, dOut), bias: filled(1, dOut), y: y() })
    groups[name] = {
      operands: { argument: /operands|a/, call: (value) => run(value) },
      ...fields(call(), { a: {}, b: {}, bias: optional, y: optional }, (changed, outputs) => {
        outputsOf(outputs, changed, 'y')
        return run(changed)
      }),
      options: { argument: /options/, valid: EMPTY, call: (value) => run(call(), value) },
    }
    // With one of them the sizes do not match.
    const transposed = { valid: ['undefined'], without: ['true'] } as const
    const options = { transposeA: transposed, transposeB: transposed, precision: optional, accumulate: flag }
    groups[`${name} options`] = fields({}, options, (changed, outputs) => {
      const given = call()
      written(outputs, given.y)
      return run(given, changed)
    })
  }
  groups.packLinear = {
    weight: { argument: /weight/, call: (value) => packLinear(value) },
    options: { argument: /options/, valid: EMPTY, call: (value) => packLinear(filled(1, dOut, dIn), value) },
    ...fields({}, { transposed: flag }, (options) => packLinear(filled(1, dOut, dIn), options)),
  }
  const db = () => filled(4, experts, rank, dOut)
  groups.foldB = {
    saved: {
      argument: /saved/,
      call: (value, outputs) => {
        const given = db()
        written(outputs, given)
        return foldB(value, given)
      },
    },
    'saved[0]': { argument: /saved/, call: (value) => foldB([value], db()) },
    db: { argument: /db/, valid: ['undefined'], call: (value) => foldB(savedCall(true), value) },
    options: { argument: /options/, valid: EMPTY, call: (value) => foldB(savedCall(true), db(), value) },
    accumulate: {
      argument: /accumulate/,
      ...flag,
      call: (accumulate) => foldB(savedCall(true), db(), { accumulate }),
    },
    stream: { argument: /stream/, ...optional, call: (stream) => foldB(savedCall(true), db(), { stream }) },
  }
  return groups
}

/* Tensors and devices. */

const device = () => tensor([1, 2], [2])
/** Without a GPU, a valid device is not available. */
const anyDevice = { argument: /device/ }
const tensors: Record<string, Record<string, Row>> = {
  tensor: {
    data: { argument: /data|shape/, call: (data) => tensor(data, [2]) },
    shape: { argument: /shape/, call: (shape) => tensor([1, 2], shape) },
    dtype: { argument: /dtype/, valid: ['undefined'], call: (dtype) => tensor([1, 2], [2], dtype) },
    'dtype of a typed array': {
      argument: /dtype/,
      valid: ['undefined'],
      call: (dtype) => tensor(new Float32Array(2), [2], dtype),
    },
  },
  Tensor: {
    to: { ...anyDevice, call: (value) => device().to(value) },
    'to type': { ...anyDevice, call: (type) => device().to({ type }) },
    'to id': { ...anyDevice, call: (id) => device().to({ type: 'cuda', id }) },
  },
  Stream: {
    create: { ...anyDevice, call: (value) => Stream.create(value) },
    default: { ...anyDevice, call: (value) => Stream.default(value) },
  },
  Event: { create: { ...anyDevice, call: (value) => Event.create(value) } },
  DeviceBuffer: {
    shape: { argument: /shape|device/, call: (shape) => DeviceBuffer.allocate(shape) },
    dtype: { argument: /dtype|device/, call: (dtype) => DeviceBuffer.allocate([1], dtype) },
    device: { ...anyDevice, call: (value) => DeviceBuffer.allocate([1], 'float32', value) },
  },
  captureGraph: {
    fn: { argument: /fn|device/, call: (fn) => captureGraph(fn) },
    options: { argument: /options|device/, call: (options) => captureGraph(() => undefined, options) },
    device: { ...anyDevice, call: (value) => captureGraph(() => undefined, { device: value }) },
  },
}

/* Models. */

const layerShapes = ['q', 'v'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = { r: rank, numB: experts, initWeights: false }
const model = () => LilyModel.create({ layers: layerShapes, config, seed: 1 })
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
const adapters = () => {
  const set = new LilyAdapters().addAdapter('one', model()).addAdapter('two', model())
  return set.setAdapter(['one', 'two'])
}
const loraConfig = { r: rank, initLoraWeights: false }
const lora = () => LoraModel.create({ layers: layerShapes, config: loraConfig, seed: 1 })
const targetFields = {
  targetModules: { valid: ['undefined', 'null'] },
  excludeModules: { valid: ['undefined', 'null', 'x'] },
  layersToTransform: { argument: /layersToTransform|targetModules/, valid: ['undefined', 'null'] },
  layersPattern: { valid: ['undefined', 'null'] },
} as const
const loraConfigFields = {
  r: { valid: ['undefined', '5'] },
  loraAlpha: { valid: ['undefined', '5'] },
  useRslora: flag,
  rankPattern: { valid: ['undefined', 'null', '{}', 'map'] },
  alphaPattern: { valid: ['undefined', 'null', '{}', 'map'] },
  fanInFanOut: flag,
  ...targetFields,
  initLoraWeights: flag,
} as const
const configFields = {
  r: { valid: ['undefined', '5'] },
  strideA: { valid: ['undefined', '5'] },
  numB: { valid: ['undefined', '5'] },
  scaling: { valid: ['undefined', '5'] },
  ...targetFields,
  initWeights: flag,
  routing: optional,
  pool: optional,
  activation: optional,
} as const
const layerFields = {
  name: { valid: ['x'] },
  inFeatures: { valid: ['5'] },
  outFeatures: { valid: ['5'] },
} as const

/** The rows of forward and backward of a layer, of a model or of adapters. */
function layerRows(
  of: () => { layer: Layer; saved: () => object },
  { isAdapters = false, isLora = false } = {},
): Record<string, Row> {
  const dx = () => output(1, tokens, dIn)
  const required = isAdapters ? {} : optional
  const forward = (changed: Record<string, unknown>, outputs: Outputs, options?: object) => {
    const operands = { x: smallOperands().x, y: y(), ...changed }
    outputsOf(outputs, operands, 'y')
    return of().layer.forward(operands, options)
  }
  const backward = (changed: Record<string, unknown>, outputs: Outputs, options?: object) => {
    const { layer, saved } = of()
    const operands = { dy: smallOperands().dy, saved: saved(), dx: dx(), ...changed }
    outputsOf(outputs, operands, 'dx')
    return layer.backward(operands, options)
  }
  const frozen = { weight: filled(1, dOut, dIn), bias: filled(1, dOut) }
  const rowsOfBackward = {
    operands: { argument: /operands/, call: (value) => of().layer.backward(value) },
    ...fields({}, { dy: {}, saved: {}, x: optional, dx: required }, backward),
    options: { argument: /options/, valid: EMPTY, call: (options, outputs) => backward({}, outputs, options) },
    ...fields(
      {},
      { needs: { valid: EMPTY }, retain: flag, ...(isLora ? {} : { deferB: flag }), stream: optional },
      (options, outputs) => backward({}, outputs, options),
    ),
  } satisfies Record<string, Row>
  return {
    operands: { argument: /operands/, call: (value) => of().layer.forward(value) },
    // A weight that is left out is refused, because a bias is given.
    ...fields(frozen, { x: {}, y: required, weight: {}, bias: optional }, forward),
    options: { argument: /options/, valid: EMPTY, call: (options, outputs) => forward({}, outputs, options) },
    ...fields({}, { ...(isLora ? forwardOptions : lilyOptions), scaling: { valid: [] } }, (options, outputs) =>
      forward({}, outputs, options),
    ),
    ...Object.fromEntries(Object.entries(rowsOfBackward).map(([name, row]) => [`${name} of backward`, row])),
  }
}
interface Layer {
  forward(operands: unknown, options?: unknown): { saved: object }
  backward(operands: unknown, options?: unknown): unknown
}

const plainLayer = () => {
  const layer = model().layer('q') as unknown as Layer
  return { layer, saved: () => layer.forward({ x: smallOperands().x, y: y() }).saved }
}
const loraLayer = () => {
  const layer = lora().layer('q') as unknown as Layer
  return { layer, saved: () => layer.forward({ x: smallOperands().x, y: y() }).saved }
}
const adaptersLayer = () => {
  const layer = adapters().layer('q') as unknown as Layer
  return { layer, saved: () => layer.forward({ x: smallOperands().x, y: y() }).saved }
}

const models: Record<string, Record<string, Row>> = {
  'LilyModel.create': {
    options: { argument: /options|config/, call: (value) => LilyModel.create(value) },
    ...fields(
      { layers: layerShapes, config },
      { layers: {}, config: { valid: ['{}'] }, seed: { valid: ['undefined', '5'] }, dtype: optional },
      (options) => LilyModel.create(options),
    ),
    'layers[0]': { argument: /layers\[0\]/, call: (layer) => LilyModel.create({ layers: [layer], config }) },
  },
  'LilyModel.create config': fields(config, configFields, (changed) =>
    LilyModel.create({ layers: layerShapes, config: changed }),
  ),
  'LilyModel.create layer': fields(layerShapes[0], layerFields, (layer) =>
    LilyModel.create({ layers: [layer], config }),
  ),
  LilyModel: {
    layer: { argument: /name/, call: (name) => model().layer(name) },
    to: { ...anyDevice, call: (value) => model().to(value) },
    freeze: { argument: /weights/, valid: ['{}', 'map'], call: (weights) => model().freeze(weights) },
    'freeze weights': { argument: /weights/, call: (q) => model().freeze({ q }) },
    'freeze a weight': { argument: /weights/, valid: ['5'], call: (w) => model().freeze({ q: [w, 1] }) },
    'freeze a name': { argument: /weights/, call: (name) => model().freeze(new Map([[name, [1, 1]]])) },
    calibrate: { argument: /samples/, call: (samples) => model().calibrate(samples) },
    'calibrate samples': { argument: /samples/, call: (q) => model().calibrate({ q }) },
    'calibrate a sample': { argument: /samples/, call: (x) => model().calibrate({ q: [smallOperands().x, x] }) },
    'merge name': {
      argument: /name/,
      call: (name, outputs) => {
        const weight = filled(1, dOut, dIn)
        written(outputs, weight)
        frozen().merge(name, weight)
      },
    },
    'merge weight': { argument: /weight/, call: (weight) => frozen().merge('q', weight) },
    'unmerge name': { argument: /name/, call: (name) => merged().unmerge(name, filled(1, dOut, dIn)) },
    'unmerge weight': { argument: /weight/, call: (weight) => merged().unmerge('q', weight) },
  },
  LilyLayer: layerRows(plainLayer),
  'LoraModel.create': {
    options: { argument: /options|config/, call: (value) => LoraModel.create(value) },
    ...fields(
      { layers: layerShapes, config: loraConfig },
      { layers: {}, config: { valid: ['{}'] }, seed: { valid: ['undefined', '5'] }, dtype: optional },
      (options) => LoraModel.create(options),
    ),
  },
  'LoraModel.create config': {
    ...fields(loraConfig, loraConfigFields, (changed) => LoraModel.create({ layers: layerShapes, config: changed })),
    'a rank': {
      argument: /rankPattern/,
      valid: ['5'],
      call: (q) => LoraModel.create({ layers: layerShapes, config: { rankPattern: { q } } }),
    },
    'an alpha': {
      argument: /alphaPattern/,
      valid: ['5'],
      call: (q) => LoraModel.create({ layers: layerShapes, config: { alphaPattern: { q } } }),
    },
  },
  LoraModel: {
    layer: { argument: /name/, call: (name) => lora().layer(name) },
    to: { ...anyDevice, call: (value) => lora().to(value) },
    'merge name': {
      argument: /name/,
      call: (name, outputs) => {
        const weight = filled(1, dOut, dIn)
        written(outputs, weight)
        lora().merge(name, weight)
      },
    },
    'merge weight': { argument: /weight/, call: (weight) => lora().merge('q', weight) },
  },
  LoraLayer: layerRows(loraLayer, { isLora: true }),
  LilyAdapters: {
    'addAdapter name': { argument: /name/, valid: ['x'], call: (name) => new LilyAdapters().addAdapter(name, model()) },
    'addAdapter of LoRA': {
      argument: /model/,
      call: (value) => new LilyAdapters<LoraModel>().addAdapter('l', lora()).addAdapter('x', value),
    },
    'addAdapter model': { argument: /model/, call: (value) => new LilyAdapters().addAdapter('x', value) },
    setAdapter: { argument: /name/, valid: ['[]'], call: (names) => adapters().setAdapter(names) },
    'setAdapter a name': { argument: /name/, call: (name) => adapters().setAdapter(['one', name]) },
    deleteAdapter: { argument: /name/, call: (name) => adapters().deleteAdapter(name) },
    layer: { argument: /name/, call: (name) => adapters().layer(name) },
    to: { ...anyDevice, call: (value) => adapters().to(value) },
  },
  'a layer of LilyAdapters': layerRows(adaptersLayer, { isAdapters: true }),
  accountFor: {
    layers: { argument: /layers/, call: (layers) => accountFor(layers, config) },
    'layers[0]': { argument: /layers\[0\]/, call: (layer) => accountFor([layer], config) },
    config: { argument: /config/, valid: ['{}'], call: (value) => accountFor(layerShapes, value) },
    options: { argument: /options/, valid: EMPTY, call: (options) => accountFor(layerShapes, config, options) },
    dtype: { argument: /dtype/, ...optional, call: (dtype) => accountFor(layerShapes, config, { dtype }) },
    activations: {
      argument: /activations/,
      ...optional,
      call: (activations) => accountFor(layerShapes, config, { activations }),
    },
  },
  rankForLora: {
    layers: { argument: /layers/, call: (layers) => rankForLora(layers, config, 4) },
    config: { argument: /config/, valid: ['{}'], call: (value) => rankForLora(layerShapes, value, 4) },
    loraRank: { argument: /loraRank/, valid: ['5'], call: (value) => rankForLora(layerShapes, config, value) },
  },
  analyse: {
    model: { argument: /model/, call: (value) => analyse(value) },
    options: { argument: /options/, valid: EMPTY, call: (options) => analyse(model(), options) },
    samples: { argument: /samples/, valid: ['undefined'], call: (samples) => analyse(model(), { samples }) },
    'samples of a layer': { argument: /samples/, call: (q) => analyse(model(), { samples: { q } }) },
    'a sample': { argument: /samples/, call: (x) => analyse(model(), { samples: { q: [x] } }) },
    onProgress: {
      argument: /onProgress/,
      valid: ['undefined', 'function'],
      call: (onProgress) => analyse(model(), { onProgress }),
    },
  },
}

/* The optimiser. */

const parameter = () => ({ value: filled(1, 2, 3), grad: filled(1, 2, 3) })
const parameters = () => new Map([['p', parameter()]])
const optimiser = () => new AdamW(parameters())
const step = (entry: object, outputs: Outputs, value?: unknown) => {
  const map = parameters()
  written(outputs, map.get('p')?.value)
  const created = new AdamW(map)
  map.set('p', (value === undefined ? { ...parameter(), ...entry } : value) as never)
  created.step()
}
const state = () => ({ step: 1, parameters: { p: { expAvg: filled(0, 2, 3), expAvgSq: filled(0, 2, 3) } } })
const rate = { valid: ['undefined', '5'] } as const
const optimisers: Record<string, Record<string, Row>> = {
  AdamW: {
    parameters: { argument: /parameters/, call: (value) => new AdamW(value) },
    name: { argument: /parameters/, valid: ['x'], call: (name) => new AdamW(new Map([[name, parameter()]])) },
    entry: { argument: /\bp\b/, call: (entry) => new AdamW(new Map([['p', entry]])) },
    value: { argument: /p\.value/, call: (value) => new AdamW(new Map([['p', { ...parameter(), value }]])) },
    options: { argument: /options/, valid: EMPTY, call: (options) => new AdamW(parameters(), options) },
    ...fields(
      {},
      {
        lr: rate,
        betas: optional,
        eps: rate,
        weightDecay: rate,
        maxNorm: rate,
        groups: { valid: ['undefined', '[]'] },
      },
      (options) => new AdamW(parameters(), options),
    ),
  },
  'AdamW group': {
    group: { argument: /groups\[0\]/, call: (group) => new AdamW(parameters(), { groups: [group] }) },
    ...fields(
      { match: ['p'] },
      { match: {}, lr: rate, weightDecay: rate },
      (group) => new AdamW(parameters(), { groups: [group] }),
    ),
  },
  'AdamW.step': {
    options: { argument: /options/, valid: EMPTY, call: (options) => optimiser().step(options) },
    lrScale: { argument: /lrScale/, ...rate, call: (lrScale) => optimiser().step({ lrScale }) },
    stream: { argument: /stream/, ...optional, call: (stream) => optimiser().step({ stream }) },
    'an entry': { argument: /\bp\b/, without: ['undefined'], call: (entry, outputs) => step({}, outputs, entry) },
    'a value': { argument: /p\.value/, call: (value, outputs) => step({ value }, outputs) },
    'a gradient': { argument: /p\.grad/, call: (grad, outputs) => step({ grad }, outputs) },
  },
  'AdamW.load': {
    state: { argument: /state/, call: (value) => optimiser().load(value) },
    ...fields(state(), { step: { valid: ['5'] }, parameters: {} }, (value) => optimiser().load(value)),
    'an entry': { argument: /'p'/, call: (p) => optimiser().load({ step: 1, parameters: { p } }) },
    'a moment': {
      argument: /expAvg/,
      call: (expAvg) => optimiser().load({ step: 1, parameters: { p: { ...state().parameters.p, expAvg } } }),
    },
  },
}

/* Files. */

const folder = temporaryFolder()
const file = async () => {
  const path = join(folder, 'file.safetensors')
  await writeSafetensors(path, { w: tensor([1, 2], [2]) })
  return SafetensorsFile.open(path)
}
const using = async (call: (file: SafetensorsFile) => Promise<unknown>) => {
  const opened = await file()
  try {
    return await call(opened)
  } finally {
    await opened.close()
  }
}
const saved = async () => {
  const path = join(folder, 'adapter')
  await model().savePretrained(path)
  return path
}
const savedLora = async () => {
  const path = join(folder, 'lora')
  await lora().savePretrained(path)
  return path
}
const loraTarget = () => join(folder, 'lora-target')
/** 'x' is a path that exists nowhere; calls that write are not given it. */
const reads = { argument: /folder|path|\bx\b/ }
const writes = { argument: /folder|path/, without: ['x'] as const }
const target = () => join(folder, 'target')
const files: Record<string, Record<string, Row>> = {
  'LilyModel.fromPretrained': {
    folder: { ...reads, call: (path) => LilyModel.fromPretrained(path) },
    'a file': { argument: /folder/, call: (data) => LilyModel.fromPretrained({ 'adapter_config.json': data }) },
    'a file of a list': { argument: /folder/, call: (file) => LilyModel.fromPretrained([file]) },
    options: {
      argument: /options/,
      valid: EMPTY,
      call: async (options) => LilyModel.fromPretrained(await saved(), options),
    },
    layers: {
      argument: /layers/,
      ...optional,
      call: async (layers) => LilyModel.fromPretrained(await saved(), { layers }),
    },
  },
  'LilyModel.savePretrained': {
    folder: { ...writes, call: (path) => model().savePretrained(path) },
    options: { argument: /options/, valid: EMPTY, call: (options) => model().savePretrained(target(), options) },
    format: { argument: /format/, ...optional, call: (format) => model().savePretrained(target(), { format }) },
    replaceOtherMethod: {
      ...flag,
      argument: /replaceOtherMethod/,
      call: (replaceOtherMethod) => model().savePretrained(target(), { replaceOtherMethod }),
    },
    modulesToSave: {
      argument: /modulesToSave/,
      valid: [...EMPTY, 'map'],
      call: (modulesToSave) => model().savePretrained(target(), { modulesToSave }),
    },
    'a module': {
      argument: /modulesToSave/,
      valid: ['{}', 'map'],
      call: (head) => model().savePretrained(target(), { modulesToSave: { head } }),
    },
    'a tensor': {
      argument: /head\.w/,
      call: (w) => model().savePretrained(target(), { modulesToSave: { head: { w } } }),
    },
    optimiser: {
      argument: /optimiser/,
      ...optional,
      call: (optimiser) => model().savePretrained(target(), { optimiser }),
    },
  },
  'LilyModel.pretrainedFiles': {
    options: { argument: /options/, valid: EMPTY, call: (options) => model().pretrainedFiles(options) },
    format: { argument: /format/, ...optional, call: (format) => model().pretrainedFiles({ format }) },
    modulesToSave: {
      argument: /modulesToSave/,
      valid: [...EMPTY, 'map'],
      call: (modulesToSave) => model().pretrainedFiles({ modulesToSave }),
    },
  },
  'LoraModel.fromPretrained': {
    folder: { ...reads, call: (path) => LoraModel.fromPretrained(path) },
    options: {
      argument: /options/,
      valid: EMPTY,
      call: async (options) => LoraModel.fromPretrained(await savedLora(), options),
    },
  },
  'LoraModel.savePretrained': {
    folder: { ...writes, call: (path) => lora().savePretrained(path) },
    options: { argument: /options/, valid: EMPTY, call: (options) => lora().savePretrained(loraTarget(), options) },
    format: { argument: /format/, ...optional, call: (format) => lora().savePretrained(loraTarget(), { format }) },
    replaceOtherMethod: {
      ...flag,
      argument: /replaceOtherMethod/,
      call: (replaceOtherMethod) => lora().savePretrained(loraTarget(), { replaceOtherMethod }),
    },
  },
  'LoraModel.pretrainedFiles': {
    options: { argument: /options/, valid: EMPTY, call: (options) => lora().pretrainedFiles(options) },
    format: { argument: /format/, ...optional, call: (format) => lora().pretrainedFiles({ format }) },
  },
  'LilyModel.saveLora': { folder: { ...writes, call: (path) => frozen().saveLora(path) } },
  SafetensorsFile: {
    open: { ...reads, call: (path) => SafetensorsFile.open(path) },
    read: { argument: /name|\bx\b/, call: (name) => using((opened) => opened.read(name)) },
    readBytes: { argument: /name|\bx\b/, call: (name) => using((opened) => opened.readBytes(name)) },
    'hasBytes name': {
      argument: /name|\bx\b/,
      call: (name) => using((opened) => opened.hasBytes(name, new Uint8Array())),
    },
    hasBytes: { argument: /expected/, call: (expected) => using((opened) => opened.hasBytes('w', expected)) },
  },
  writeSafetensors: {
    path: { ...writes, call: (path) => writeSafetensors(path, { w: tensor([1, 2], [2]) }) },
    tensors: { argument: /tensors/, valid: ['{}', 'map'], call: (value) => writeSafetensors(target() + '-1', value) },
    'a tensor': { argument: /\bw\b/, call: (w) => writeSafetensors(target() + '-2', { w }) },
    metadata: {
      argument: /metadata/,
      valid: [...EMPTY, 'map'],
      call: (metadata) => writeSafetensors(target() + '-3', { w: tensor([1, 2], [2]) }, metadata),
    },
    'an entry of metadata': {
      argument: /metadata/,
      valid: ['x'],
      call: (key) => writeSafetensors(target() + '-4', { w: tensor([1, 2], [2]) }, { key }),
    },
  },
}

const states: Record<string, Record<string, Row>> = {
  saveState: {
    file: { argument: /file/, without: ['x'], call: (path) => saveState(path, state()) },
    state: { argument: /state/, call: (value) => saveState(`${target()}-5`, value) },
    'an entry': { argument: /'p'/, call: (p) => saveState(`${target()}-6`, { step: 1, parameters: { p } }) },
  },
  stateFile: { state: { argument: /state/, call: (value) => stateFile(value) } },
  readState: { file: { ...reads, call: (path) => readState(path) } },
  readPretrainedState: {
    folder: { ...reads, call: (path) => readPretrainedState(path, model()) },
    model: { argument: /model/, call: async (value) => readPretrainedState(await saved(), value) },
  },
}

testRows({ ...states, ...operations(), ...tensors, ...models, ...optimisers, ...files })
