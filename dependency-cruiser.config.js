/**
 * Checks which folder imports from which. A folder of lib/ imports only from those before it in this list. The one
 * exception is model -> checkpoint, for `LilyModel.fromPretrained` and `savePretrained`.
 */
const layers = [
  'base',
  'binding',
  'memory',
  'tensor',
  'dlpack',
  'operations',
  'webgpu',
  'model',
  'checkpoint',
  'optimiser',
  'analysis',
  'gguf',
  'onnx',
  'mpi',
  'tfjs',
  'tfjs-layers',
]

/** @type {import('dependency-cruiser').IForbiddenRuleType[]} */
const downwards = layers.slice(0, -1).map((layer, i) => ({
  name: `${layer}-imports-what-is-below-it`,
  severity: 'error',
  comment: `lib/${layer} imports only from ${['its own files', ...layers.slice(0, i)].join(', ')}`,
  from: { path: `^lib/${layer}/` },
  to: {
    path: `^lib/(index\\.ts|(${layers.slice(i + 1).join('|')})/)`,
    ...(layer === 'model' && { pathNot: '^lib/checkpoint/' }),
  },
}))

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...downwards,
    {
      name: 'base-needs-no-addon',
      severity: 'error',
      comment: 'Backends for browsers build on lib/base: it imports the addon neither directly nor through other files',
      from: { path: '^lib/base/' },
      to: { path: '^lib/binding/', reachable: true },
    },
    {
      name: 'base-needs-no-node',
      severity: 'error',
      comment: 'Backends for browsers build on lib/base: it imports no Node.js module and no package',
      from: { path: '^lib/base/' },
      to: { dependencyTypes: ['core', 'npm'] },
    },
    {
      name: 'node-modules-are-not-imported',
      severity: 'error',
      comment: 'Bundles as ES modules have no require: lib/ takes modules of Node.js from process.getBuiltinModule',
      from: { path: '^lib/' },
      to: { dependencyTypes: ['core'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'the-disk-has-one-door',
      severity: 'error',
      comment: 'Builds for browsers replace lib/checkpoint/disk/disk.ts by disk.browser.ts',
      from: { path: '^lib/', pathNot: '^lib/checkpoint/disk/' },
      to: { path: '^lib/checkpoint/disk/', pathNot: '^lib/checkpoint/disk/disk\\.ts$' },
    },
    {
      name: 'webgpu-is-a-subpath',
      severity: 'error',
      comment: 'The main package meets a GPUDevice through lib/binding/devices.ts only',
      from: { path: '^lib/', pathNot: '^lib/webgpu/' },
      to: { path: '^lib/webgpu/' },
    },
    {
      name: 'tensorflow-is-optional',
      severity: 'error',
      comment: 'Only lib/tfjs and lib/tfjs-layers import TensorFlow.js, and of those only the second one its layers',
      from: { path: '^lib/', pathNot: '^lib/tfjs' },
      to: { path: '(@tensorflow/|^lib/tfjs)' },
    },
    {
      name: 'tfjs-layers-is-optional',
      severity: 'error',
      from: { path: '^lib/', pathNot: '^lib/tfjs-layers/' },
      to: { path: '@tensorflow/(?!tfjs-core/)' },
    },
    {
      name: 'lib-imports-the-command-line-or-the-benchmark',
      severity: 'error',
      from: { path: '^lib/' },
      to: { path: '^(cli|bench|report|test|examples|scripts)/' },
    },
    {
      name: 'bench-imports-the-command-line',
      severity: 'error',
      from: { path: '^bench/' },
      to: { path: '^(cli|test)/' },
    },
    {
      name: 'report-imports-its-users',
      severity: 'error',
      comment: 'Pages, tables and progress of the command line, the benchmarks and the examples: it imports only lib/',
      from: { path: '^report/' },
      to: { path: '^(cli|bench|test)/' },
    },
    {
      name: 'cycle',
      severity: 'error',
      comment: 'Type-only imports do not exist at run time and may complete a cycle',
      from: {},
      to: {
        circular: true,
        viaOnly: { dependencyTypesNot: ['type-only'] },
      },
    },
    // The builds of WebAssembly are made after this check.
    { name: 'unresolved', severity: 'error', from: {}, to: { couldNotResolve: true, pathNot: '\\.wasm$' } },
    {
      name: 'orphan',
      severity: 'error',
      comment: 'No file imports it',
      from: { orphan: true, path: '^(lib|cli|bench|report)/', pathNot: '\\.d\\.ts$|/main\\.ts$' },
      to: {},
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    // The files of pure-rand are reachable through its `exports` only.
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'node', 'default'] },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(build|dist)/' },
  },
}
