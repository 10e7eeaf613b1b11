/** What loading and saving refuse: paths, options, and the fields of a configuration. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  AdamW,
  AdapterModel,
  LilyModel,
  LoraModel,
  readPretrainedState,
  readState,
  SafetensorsFile,
  saveState,
  stateFile,
  tensor,
  writeSafetensors,
} from '../../lib/index.js'
import { CONFIG, GOLDEN, newFolder, readFields, TENSORS } from '../support/checkpoint.js'
import { filled } from '../support/small.js'
import { at, type Kinds, refuse } from './table.js'

const layers = [{ name: 'q', inFeatures: 5, outFeatures: 4 }]
const model = () => LilyModel.create({ layers, config: { r: 3, numB: 2 }, seed: 1 })
const lora = () => LoraModel.create({ layers, config: { r: 3 }, seed: 1 })
const frozen = () => {
  const result = model()
  result.freeze('uniform')
  return result
}
const detached = () => {
  const numbers = new Float32Array(2)
  structuredClone(null, { transfer: [numbers.buffer] })
  return numbers
}
const tensors = () => ({ w: tensor([1, 2], [2]) })
const state = () => ({ step: 1, parameters: { p: { expAvg: filled(0, 2, 3), expAvgSq: filled(0, 2, 3) } } })

const [folder, target] = [newFolder(), join(newFolder(), 'target')]
const file = join(folder, 'file.safetensors')
await writeSafetensors(file, tensors())
await model().savePretrained(join(folder, 'lily'))
await lora().savePretrained(join(folder, 'lora'))

/** What is no path. */
const badPaths = (path: string): [string, string, object | string, 'ARGUMENT', string][] =>
  [
    new URL('https://example.org/x'),
    new URL('file:///a%2fb'),
    '',
    'a\0b',
    { href: 'file:///tmp', toString: () => '/tmp' },
    { href: 'file:///tmp/x', protocol: 'file:', hostname: '', pathname: '/tmp/x' },
    ['/tmp'],
  ].map((value) => [path, String(value), value, 'ARGUMENT', `${path}: expected a path as a string`])
const reading = { folder: /folder|path|\bx\b/, file: /file|path|\bx\b/, name: /name|\bx\b/ }
/** 'x' is a path that can be written. */
const without = { folder: ['x'], path: ['x'], file: ['x'] } as const

for (const [name, of, saved] of [
  ['LilyModel', LilyModel, 'lily'],
  ['LoraModel', LoraModel, 'lora'],
] as const) {
  const make = () => (name === 'LilyModel' ? model() : lora())
  const ofModules: Kinds = {
    mapOrNot: 'options.modulesToSave',
    map: 'options.modulesToSave.head',
    required: 'options.modulesToSave.head.w',
  }
  refuse(`${name}.fromPretrained`, {
    call: () => ({ folder: join(folder, saved), options: {} }),
    run: (call) => of.fromPretrained(call.folder, call.options),
    kinds: { required: 'folder', optional: 'options.layers', options: 'options' },
    names: reading,
    rows: [...badPaths('folder'), ['folder', 'transferred memory', detached, 'ARGUMENT', 'folder: expected a path']],
  })
  refuse(`${name}.savePretrained`, {
    call: () => ({ folder: join(target, saved), options: { modulesToSave: { head: tensors() } } }),
    run: ({ folder, options }) => make().savePretrained(folder, options),
    kinds: {
      ...ofModules,
      required: `${ofModules.required} folder`,
      optional: at('options', 'format optimiser'),
      flag: 'options.replaceOtherMethod',
      options: 'options',
    },
    names: { 'options.modulesToSave.head': /modulesToSave/, 'options.modulesToSave.head.w': /head\.w/ },
    without,
    rows: [
      ...badPaths('folder'),
      [
        'options.optimiser',
        'a method that throws',
        { state: throwing },
        'ARGUMENT',
        'optimiser: reading it threw an error',
      ],
    ],
  })
  refuse(`${name}.pretrainedFiles`, {
    call: () => ({ options: { modulesToSave: { head: tensors() } } }),
    run: ({ options }) => make().pretrainedFiles(options),
    kinds: { ...ofModules, optional: 'options.format', options: 'options' },
    names: { 'options.modulesToSave.head': /modulesToSave/, 'options.modulesToSave.head.w': /head\.w/ },
  })
}
function throwing() {
  throw new Error('thrown by the caller')
}
refuse('LilyModel.saveLora', {
  call: () => ({ folder: join(target, 'of-lily') }),
  run: ({ folder }) => frozen().saveLora(folder),
  kinds: { required: 'folder' },
  without,
  rows: badPaths('folder'),
})
refuse('AdapterModel.fromPretrained', {
  call: () => ({ folder: join(folder, 'lora'), options: {} }),
  run: (call) => AdapterModel.fromPretrained(call.folder, call.options),
  kinds: { required: 'folder', optional: 'options.layers', options: 'options' },
  names: reading,
  rows: badPaths('folder'),
})
refuse('LilyModel.fromPretrained of files', {
  call: () => ({
    folder: [CONFIG, TENSORS].map((name) => new File([readFileSync(join(GOLDEN, name))], name)),
  }),
  run: ({ folder }) => LilyModel.fromPretrained(folder as File[]),
  kinds: { required: 'folder.1' },
  names: { 'folder.1': /folder/ },
})

refuse('SafetensorsFile.open', {
  call: () => ({ path: file }),
  run: async ({ path }) => (await SafetensorsFile.open(path)).close(),
  kinds: { required: 'path' },
  names: { path: reading.folder },
  rows: badPaths('path'),
})
refuse('a SafetensorsFile', {
  call: () => ({ name: 'w', of: 'w', expected: new Uint8Array(8) }),
  run: async ({ name, of, expected }) => {
    const opened = await SafetensorsFile.open(file)
    try {
      await opened.read(name)
      await opened.hasBytes(of, expected)
    } finally {
      await opened.close()
    }
  },
  kinds: { required: 'name of expected' },
  names: { ...reading, of: reading.name },
})
refuse('writeSafetensors', {
  call: () => ({ path: `${target}-1`, tensors: tensors(), metadata: { key: 'x' } }),
  run: ({ path, tensors, metadata }) => writeSafetensors(path, tensors, metadata),
  kinds: { required: 'path tensors.w', text: 'metadata.key', map: 'tensors', mapOrNot: 'metadata' },
  names: { 'metadata.key': /metadata/ },
  without,
  rows: badPaths('path'),
})
refuse('saveState', {
  call: () => ({ file: `${target}-2`, state: state() }),
  run: ({ file, state }) => saveState(file, state),
  kinds: {
    required: `file state ${at('state.parameters', 'p p.expAvg')}`,
    number: 'state.step',
    map: 'state.parameters',
  },
  without,
})
refuse('stateFile', {
  call: () => ({ state: state() }),
  run: ({ state }) => stateFile(state),
  kinds: { required: 'state' },
})
refuse('readState', {
  call: async () => {
    await saveState(`${target}-3`, state())
    return { file: `${target}-3` }
  },
  run: ({ file }) => readState(file),
  kinds: { required: 'file' },
  names: reading,
})
refuse('readPretrainedState', {
  call: async () => {
    const [folder, of] = [join(target, 'of-state'), model()]
    await of.savePretrained(folder, { optimiser: new AdamW(of.parameters()) })
    return { folder, model: of }
  },
  run: ({ folder, model }) => readPretrainedState(folder, model),
  kinds: { required: 'folder model' },
  names: reading,
})

/* The fields of a configuration. */

const fields = readFields(GOLDEN)
const weights = readFileSync(join(GOLDEN, TENSORS))
const inPattern = (pattern: string) => ({ layers_pattern: pattern, layers_to_transform: [1] })
const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`field${i}`, 1]))
const badFields: [what: string, fields: object, message: string][] = [
  ['of LoRA', { peft_type: 'LORA' }, `expected peft_type 'LILY', got "LORA"`],
  ['without a type', { peft_type: undefined }, "expected peft_type 'LILY'"],
  ['with a type that is an object', { peft_type: { toString: 1 } }, "expected peft_type 'LILY', got an object"],
  ['with unknown fields', { lily_alpha: 0.1, num_A: 4 }, '"lily_alpha", "num_A"'],
  ['with many unknown fields', many, '"field0", "field1", "field2" and 4997 more'],
  ['with a long unknown field', { ['x'.repeat(1e6)]: 1 }, '... (1000000 characters)'],
  ['with a rank of 0', { r: 0 }, 'r: expected an integer from 1 to 4096, got 0'],
  ['with a rank as text', { r: '8' }, "r: expected an integer from 1 to 4096, got '8'"],
  ['with null as the rank', { r: null }, 'r: expected an integer from 1 to 4096, got null'],
  ['with a stride of a half', { stride_A: 0.5 }, 'stride_A: expected an integer of at least 1, got 0.5'],
  ['with null as the stride', { stride_A: null }, 'stride_A: expected an integer of at least 1, got null'],
  ['with one expert', { num_B: 1 }, 'num_B: expected an integer from 2 to 64, got 1'],
  ['with null as the number of experts', { num_B: null }, 'num_B: expected an integer from 2 to 64, got null'],
  ['with a scaling as text', { scaling: '2' }, "scaling: expected a finite float32 number, got '2'"],
  ['with null as the scaling', { scaling: null }, 'scaling: expected a finite float32 number, got null'],
  ['with targets that are no strings', { target_modules: [3] }, 'target_modules: expected strings'],
  [
    'with a rank that names its constructor',
    { r: { constructor: { name: Array(50).fill(1) } } },
    'r: expected an integer',
  ],
  ['with targets that are no pattern', { target_modules: '(' }, 'target_modules: '],
  ['with a pattern that is an object', { exclude_modules: { source: 'a' } }, 'exclude_modules: expected strings'],
  ['with a broken pattern', inPattern('a)(b'), 'layers_pattern: expected a regular expression'],
  ['with a pattern of exponential time', inPattern('(?=(a+)+b)'), 'layers_pattern: expected a regular expression'],
  [
    'with an unknown routing',
    { lily_routing: 'all' },
    "one of 'batch', 'sequence', 'token', 'uniform', 'learned', got 'all'",
  ],
  ['with the routing of frozen layers', { lily_routing: 'fixed' }, "lily_routing: expected one of 'batch', 'sequence'"],
  ['with a routing that is no string', { lily_routing: 1 }, "lily_routing: expected one of 'batch', 'sequence'"],
  ['with an unknown pool', { lily_pool: 'mean' }, "lily_pool: expected one of 'probabilities', 'logits', got 'mean'"],
  [
    'with a pool without groups',
    { lily_routing: 'token', lily_pool: 'logits' },
    "lily_pool: does not go with routing 'token'",
  ],
  [
    'with an unknown activation',
    { lily_activation: 'gelu' },
    "lily_activation: expected one of 'none', 'relu', got 'gelu'",
  ],
]
refuse('a configuration', {
  call: () => ({ fields }),
  run: (call) => {
    const config = Buffer.from(JSON.stringify(call.fields))
    return LilyModel.fromPretrained({ [CONFIG]: config, [TENSORS]: weights })
  },
  rows: badFields.map(([what, changed, message]) => ['fields', what, { ...fields, ...changed }, 'CHECKPOINT', message]),
})
