import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type Reporter, type TestCase, type TestSpecification } from 'vitest/node'

/** Prints at the end why tests were skipped, a line for each reason, which the default reporter omits. */
class SkipReasons implements Reporter {
  private readonly counts = new Map<string, number>()

  onTestCaseResult(test: TestCase): void {
    const result = test.result()
    if (result.state !== 'skipped') return
    const reason = result.note ?? 'no reason was given, or a hook failed'
    this.counts.set(reason, (this.counts.get(reason) ?? 0) + 1)
  }

  onTestRunEnd(): void {
    for (const [reason, count] of this.counts) console.log(`skipped, ${count} test${count > 1 ? 's' : ''}: ${reason}`)
  }
}

/** Files of a minute or more in any project, the longest first. */
const longest = [
  'site/site',
  'arm64/instruction-sets',
  'arm64/arm64',
  'operations/property',
  'operations/identities',
  'webgpu/kernels',
  'cuda/kernels',
  'cuda/counters',
  'cpu/sets/adapter',
  'operations/determinism',
  'cli/cli',
  'cli/failures',
  'operations/modes',
  'interop/webgpu',
  'cpu/workers',
  'emulator/emulator',
  'operations/linear',
  'bench/peers',
  'optimiser/adamw',
  'cpu/threads',
  'cuda/emulated',
  'memory/leak',
  'model/training',
  'cuda/self-test',
]

/** Starts the longest files first, so that no worker waits for one at the end. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = longest.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`))
      return found < 0 ? longest.length : found
    }
    return (await super.sort(files)).sort((a, b) => place(a) - place(b))
  }
}

const files = (names: string[]) => names.map((name) => `test/${name}.test.ts`)

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

interface Cuda {
  env: Record<string, string>
  /** Why there is neither a CUDA device nor the emulator. */
  missing?: string
}

/** Finds a GPU; without one, the emulator (unless LILY_TEST_GPU is 1); without either, the reason. */
function findCuda(): Cuda {
  const addon = path('build/Release/lily.node')
  // In a separate process, because the CUDA runtime does not survive the forks of the tests.
  const ask = 'const [, cuda] = require(process.argv[1]).backends(); console.log(cuda.available ? "" : cuda.reason)'
  const { LILY_CUDA_LIBRARY: _, ...env } = process.env
  const { status, stdout } = spawnSync(process.execPath, ['-e', ask, addon], { env, encoding: 'utf8' })
  if (status !== 0) return { env: {}, missing: 'the addon is not built; run npm run build:native' }
  if (stdout.trim() !== '' && process.env.LILY_TEST_GPU === '1') {
    throw new Error(`LILY_TEST_GPU is 1, but ${stdout.trim()}`)
  }
  if (stdout.trim() === '') return { env: { LILY_CUDA_LIBRARY: path('build/Release/lily_cuda.so') } }

  const library = path('build/emulator/lily_cuda.so')
  const missing = [
    [library, 'the CUDA library was not built, which requires nvcc of CUDA 13'],
    [path('build/emulator/libcudart.so.13'), 'the emulator was not built; run npm run build:emulator'],
  ].find(([file]) => !existsSync(file))
  if (missing !== undefined) return { env: {}, missing: `no GPU (${stdout.trim()}), and no emulator: ${missing[1]}` }
  // Memory in the pool and leftovers of a stopped test are not leaks; test/cuda/emulated.test.ts checks for leaks. As many
  // multiprocessors as a GPU has, so that tokens are split over blocks. The self-test at the first use of the device, in
  // each process, takes the emulator long; test/cuda/self-test.test.ts turns it on.
  return {
    env: {
      LILY_CUDA_LIBRARY: library,
      LILY_TEST_EMULATED: '1',
      LILY_EMULATOR_LEAKS: '0',
      LILY_EMULATOR_SMS: '64',
      LILY_SELF_TEST: '0',
    },
  }
}

const cuda = findCuda()
if (cuda.missing !== undefined) console.log(`the tests of the cuda backend are skipped: ${cuda.missing}`)

/** Why there is no adapter of WebGPU for the tests; undefined if there is one. CI must have one. */
function missingWebGpu(): string | undefined {
  // In a separate process, because an instance of Dawn keeps its process alive.
  const ask = `
    import('webgpu').then(async ({ create }) => {
      const adapter = await create([]).requestAdapter()
      process.stdout.write(adapter === null ? 'none' : 'found')
      process.exit()
    })`
  const { stdout } = spawnSync(process.execPath, ['-e', ask], { cwd: path('.'), encoding: 'utf8' })
  if (stdout === 'found') return undefined
  return 'Dawn (the npm package webgpu) finds no adapter; install mesa-vulkan-drivers and libvulkan1 for that of Mesa'
}

const webGpuMissing = missingWebGpu()
if (webGpuMissing !== undefined) console.log(`the tests of WebGPU are skipped: ${webGpuMissing}`)

/** Tests that run on both backends. */
const both = [
  'optimiser/adamw',
  'operations/async',
  'checkpoint/device',
  'operations/determinism',
  'refusals/calls',
  'operations/golden',
  'operations/identities',
  'operations/linear',
  'model/adapters',
  'model/calibrate',
  'model/layers',
  'model/lora',
  'model/merge',
  'model/routing',
  'model/training',
  'operations/modes',
  'operations/property',
]

/** Tests that run on WebGPU, too. That of frozen linear layers is test/webgpu/linear.test.ts, which compiles fewer kernels. */
const webgpu = both.filter((name) => name !== 'operations/linear')

const webGpuProject = {
  name: 'webgpu',
  include:
    webGpuMissing === undefined ? ['test/webgpu/**/*.test.ts', ...files(webgpu)] : ['test/webgpu/missing.test.ts'],
  exclude: webGpuMissing === undefined ? ['test/webgpu/missing.test.ts'] : [],
  setupFiles: webGpuMissing === undefined ? ['test/support/webgpu.ts'] : [],
  env: {
    LILY_TEST_BACKEND: 'webgpu',
    LILY_CUDA_LIBRARY: 'none',
    LILY_TEST_WEBGPU_MISSING: webGpuMissing ?? '',
    // Mesa's compiler takes most of the time, and half as long without optimisation and with short vectors.
    GALLIVM_PERF: 'nopt',
    LP_NATIVE_VECTOR_WIDTH: '128',
    ...(process.env.LILY_TEST_LONG === '1' ? {} : { LILY_TEST_HALF: '0', FAST_CHECK_RUNS: '1' }),
  },
}

/** Half of the time of the CPU suite: other processors under QEMU, the tarball, long sweeps, a training. `npm run test:cpu` leaves them out. */
const slow = [
  'checkpoint/hostile-headers',
  'examples/finetune',
  'operations/identities',
  'cpu/sets/adapter',
  'cpu/sets/linear',
  'cpu/sets/matmul',
  'package/package',
]

/** Tests of the AMX kernels on a model of their instructions, on every processor. */
const amx = [
  'operations/adapted-linear',
  'operations/determinism',
  'operations/golden',
  'operations/identities',
  'operations/linear',
  'operations/modes',
  'operations/property',
  'cpu/tf32',
]

/** Tests that run on WebAssembly, too. Of those of checkpoints, two do without a backend or require locks of files. */
const wasm = [
  'optimiser/adamw',
  'operations/async',
  'operations/attention',
  'refusals/binding',
  'operations/determinism',
  'refusals/calls',
  'operations/golden',
  'operations/identities',
  'operations/linear',
  'operations/matmul',
  'operations/modes',
  'operations/property',
  'binding/slots',
  'wasm/module',
  'wasm/threads',
  'analysis/*',
  'checkpoint/*',
  'model/*',
  'tfjs/accelerate',
]

const hasWasm = existsSync(path('build/wasm/wasm.wasm'))

/** Tests that run on WebAssembly without shared memory, too: it differs in where operands lie, and in the Async forms. */
const wasmUnshared = ['operations/async', 'refusals/calls', 'operations/golden', 'operations/modes']

/** LILY_TEST_LONG=1, which .ci/run --long sets, runs all problems everywhere. */
const half = (LILY_TEST_HALF: '0' | '1') =>
  process.env.LILY_TEST_LONG === '1' ? {} : { LILY_TEST_HALF, FAST_CHECK_RUNS: process.env.FAST_CHECK_RUNS ?? '6' }

/**
 * All tests once; the numerical tests also on an architecture that executes the published PTX and on the oldest one, with
 * other schedules of the emulator. Those two run half of the fixed problems of test/operations/property.test.ts each, and half as many
 * random ones.
 */
const cudaProjects =
  cuda.missing !== undefined
    ? [{ name: 'cuda', include: ['test/cuda/missing.test.ts'], env: {} }]
    : [
        {
          name: 'cuda',
          include: ['test/cuda/**/*.test.ts', ...files(['dlpack/device', 'refusals/cuda', ...both])],
          env: {},
        },
        ...(cuda.env.LILY_TEST_EMULATED === '1'
          ? [
              {
                name: 'cuda newer',
                include: files(['operations/golden', 'operations/property']),
                env: { LILY_EMULATOR_SEED: '2', LILY_EMULATOR_ARCH: '110', ...half('1') },
              },
              {
                name: 'cuda turing',
                include: files(['operations/golden', 'operations/property']),
                env: { LILY_EMULATOR_SEED: '3', LILY_EMULATOR_ARCH: '75', ...half('0') },
              },
            ]
          : []),
      ]

// Long enough that only a test that hangs exceeds it; the sanitizers slow everything down several times.
const milliseconds = (process.env.LILY_TEST_SANITIZER === undefined ? 60 : 300) * 1000

const shared = {
  // The addon reads its environment once per process, and the sanitizers require processes.
  pool: 'forks' as const,
  testTimeout: milliseconds,
  hookTimeout: milliseconds,
}
const resolve = {
  alias: [
    { find: /^lily-kernels$/, replacement: path('lib/index.ts') },
    { find: /^lily-kernels\/(tfjs|tfjs-layers|webgpu)$/, replacement: path('lib/$1/index.ts') },
  ],
}

/** The published entries in place of those of lib/, which tests import by name or by path. Files below the entries stay. */
const published = {
  alias: [
    { find: /^lily-kernels$/, replacement: path('dist/index.js') },
    { find: /^lily-kernels\/(tfjs|tfjs-layers|webgpu)$/, replacement: path('dist/$1.js') },
    { find: /^(?:\.\.\/)+lib\/index\.js$/, replacement: path('dist/index.js') },
    { find: /^(?:\.\.\/)+lib\/(tfjs|tfjs-layers|webgpu)\/index\.js$/, replacement: path('dist/$1.js') },
  ],
}

export default defineConfig({
  test: {
    // Emulated kernels run on one thread, and the default leaves one processor idle.
    maxWorkers: '100%',
    sequence: { sequencer: LongestFirst },
    // .ci/run reads the JSON file.
    reporters: ['default', new SkipReasons(), ['json', { outputFile: 'build/test-results.json' }]],
    projects: [
      // A project for each of the three, because `--exclude` does not reach the files of a project.
      ...[
        {
          name: 'cpu',
          include: ['test/**/*.test.ts'],
          exclude: [
            'test/cuda/**',
            'test/emulator/**',
            'test/runtimes/**',
            'test/arm64/**',
            'test/interop/**',
            'test/browser/**',
            'test/site/**',
            'test/webgpu/**',
            'test/wasm/**',
            ...files([...slow, 'dlpack/device', 'refusals/cuda']),
          ],
        },
        { name: 'cpu slow', include: files(slow), exclude: [] },
        { name: 'cpu amx', include: files(amx), exclude: [], env: { LILY_CPU_ISA: 'amx-model' } },
        {
          name: 'wasm',
          // Without the build, one file says so.
          include: files(hasWasm ? wasm : ['wasm/threads']),
          exclude: files(['checkpoint/hostile-headers']),
          env: { LILY_CPU_ISA: 'wasm' },
        },
        ...(hasWasm
          ? [
              {
                name: 'wasm unshared',
                include: files(wasmUnshared),
                exclude: [],
                env: { LILY_CPU_ISA: 'wasm' },
                setupFiles: ['test/support/unshared.ts'],
              },
            ]
          : []),
        { name: 'emulator', include: ['test/emulator/**/*.test.ts'], exclude: [] },
      ].map((tests) => ({
        resolve,
        // The environment excludes GPUs on every machine.
        test: { ...shared, ...tests, env: { LILY_TEST_BACKEND: 'cpu', LILY_CUDA_LIBRARY: 'none', ...tests.env } },
      })),
      ...cudaProjects.map(({ name, include, env }) => ({
        resolve,
        test: {
          ...shared,
          name,
          include,
          exclude: cuda.missing === undefined ? ['test/cuda/missing.test.ts'] : [],
          env: { LILY_TEST_BACKEND: 'cuda', LILY_TEST_CUDA_MISSING: cuda.missing ?? '', ...cuda.env, ...env },
          // Emulated kernels take seconds.
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      })),
      // Kernels compile and run on a software adapter.
      {
        resolve: published,
        test: {
          ...shared,
          ...webGpuProject,
          testTimeout: 300_000,
          hookTimeout: 300_000,
          // Node.js loads them: as modules of vitest, the entries would not share their chunks.
          server: { deps: { external: [/\/dist\/[\w-]+\.c?js$/] } },
        },
      },
      // Not part of `npm test`, because they download runtimes and libraries.
      ...['runtimes', 'browser', 'arm64', 'interop', 'site'].map((name) => ({
        resolve,
        test: {
          ...shared,
          name,
          include: [`test/${name}/**/*.test.ts`],
          env: { LILY_CUDA_LIBRARY: 'none' },
          // A browser and an emulated processor take the two cores at the same time.
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      })),
    ],
  },
})
