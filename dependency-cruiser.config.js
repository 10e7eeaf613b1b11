/**
 * Which folder may import from which. A folder of lib/ imports only from those above it in this list; of the two that
 * need each other, `LilyModel.fromPretrained` is worth the exception.
 */
const layers = ['base', 'binding', 'memory', 'tensor', 'operations', 'model', 'checkpoint', 'optimiser', 'analysis']

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
      comment: 'Backends for browsers build on lib/base: it reaches neither the addon nor Node.js, by any way',
      from: { path: '^lib/base/' },
      to: { path: '^lib/binding/', reachable: true },
    },
    {
      name: 'base-needs-no-node',
      severity: 'error',
      comment: 'Backends for browsers build on lib/base',
      from: { path: '^lib/base/' },
      to: { dependencyTypes: ['core', 'npm'] },
    },
    {
      name: 'lib-imports-the-command-line-or-the-benchmark',
      severity: 'error',
      from: { path: '^lib/' },
      to: { path: '^(cli|bench|test|examples|scripts)/' },
    },
    {
      name: 'bench-imports-the-command-line',
      severity: 'error',
      from: { path: '^bench/' },
      to: { path: '^(cli|test)/' },
    },
    {
      name: 'cycle',
      severity: 'error',
      comment: 'Imports of types alone leave no trace at run time and may close a circle',
      from: {},
      to: {
        circular: true,
        viaOnly: { dependencyTypesNot: ['type-only'] },
      },
    },
    { name: 'unresolved', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'orphan',
      severity: 'error',
      comment: 'Nobody imports it',
      from: { orphan: true, path: '^(lib|cli|bench)/', pathNot: '\\.d\\.ts$|/main\\.ts$' },
      to: {},
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    // pure-rand has its files by exports alone.
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'node', 'default'] },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(build|dist)/' },
  },
}
