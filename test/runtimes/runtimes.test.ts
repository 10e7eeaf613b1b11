/** The installed package in every runtime of the README. Runtimes differ in loading modules, addons and workers. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { isLong } from '../support/runs.js'
import {
  asyncConsumer,
  consumer,
  expected,
  float16Consumer,
  float16ExchangeConsumer,
  MODULES,
  suitesConsumer,
  workersConsumer,
} from '../support/consumer.js'
import { type Installed, installPackage } from '../support/installed.js'
import { installOnce } from '../support/npm-install.js'
import { bundleSuites, expectAllPassed } from '../support/portable/bundle.js'
import type { Outcome } from '../support/portable/run.js'
import { type Runtime, runtimeProgram } from '../support/runtimes.js'

/** A folder of the project whose copy of the package has no addon. */
const WITHOUT_ADDON = 'without-addon'

let installed: Installed
beforeAll(async () => {
  installed = installPackage()
  const folder = join(installed.project, WITHOUT_ADDON)
  cpSync(installed.folder, join(folder, 'node_modules', 'lily-kernels'), {
    recursive: true,
    filter: (path) => !path.endsWith('.node'),
  })
  writeFileSync(join(folder, 'suites.mjs'), await bundleSuites())
})
afterAll(() => installed?.remove())

/** Arguments of each runtime before the file. */
const runtimes: [runtime: Runtime, options: string[]][] = [
  ['Node 20', []],
  ['Node 22', []],
  ['Node 24', []],
  ['Bun', []],
  // An addon requires --allow-ffi; its loader reads environment variables and folders.
  ['Deno', ['run', '--allow-ffi', '--allow-read', '--allow-env', '--allow-sys']],
]
const FORMATS = ['ESM', 'CJS'] as const

describe.each(runtimes)('%s', (runtime, options) => {
  let program: string
  beforeAll(() => {
    program = runtimeProgram(runtime)
  }, 600_000)

  const run = (file: string, source: string): unknown => JSON.parse(installed.run(program, options, file, source))

  test('is the expected runtime', () => {
    const source = 'const { bun, deno, node } = process.versions; console.log(JSON.stringify({ bun, deno, node }))'
    const { bun, deno, node } = run('versions.mjs', source) as Record<string, string | undefined>
    const name = bun ? 'Bun' : deno ? 'Deno' : `Node ${(node ?? '').split('.')[0]}`
    expect(name).toBe(runtime)
  })

  test.each(FORMATS)('%s', (format) => {
    expect(run(MODULES[format].file, consumer(format))).toEqual(expected)
  })

  test('async calls', () => {
    expect(run('async.mjs', asyncConsumer)).toEqual(expected)
  })

  test('async calls on WebAssembly, which run in a thread', () => {
    expect(run(join(WITHOUT_ADDON, 'async.mjs'), asyncConsumer)).toEqual(expected)
  })

  // The other test suites may run on a Node without Float16Array.
  const hasFloat16Array = runtime !== 'Node 20' && runtime !== 'Node 22'
  test('operands in a Float16Array, if the runtime has it', () => {
    expect(run('float16.mjs', float16Consumer)).toEqual(hasFloat16Array ? expected : null)
  })

  test('a Float16Array as DLPack, if the runtime has it', () => {
    const exchanged = { dtype: 'float16', shape: [3], numbers: [1, 2, 3] }
    expect(run('float16-exchange.mjs', float16ExchangeConsumer)).toEqual(hasFloat16Array ? exchanged : null)
  })

  test('four concurrent workers', () => {
    expect(run('workers.mjs', workersConsumer)).toEqual(new Array(5).fill(expected))
  })

  // All others have relaxed SIMD without a flag.
  const [chosen, simd] = runtime !== 'Node 20' ? ['wasm-relaxed', 'relaxed SIMD'] : ['wasm', 'SIMD']
  const because = `no native addon for ${process.platform}-${process.arch}; running on WebAssembly with ${simd}`
  test.for<[build: string, isa: string | null, reason: string]>([
    [chosen, null, because],
    ...(chosen === 'wasm' ? [] : ([['wasm', 'wasm', 'LILY_CPU_ISA=wasm']] as [string, string, string][])),
  ])('the golden cases and the modes on %s', ([build, isa, reason], context) => {
    if (!existsSync(join(installed.folder, 'dist', 'browser', 'wasm.js'))) {
      context.skip('the package has no WebAssembly: there is no toolchain for it')
    }
    const printed = run(join(WITHOUT_ADDON, 'suites-consumer.mjs'), suitesConsumer(isa))
    const { results, ...backend } = printed as { results: Outcome[]; reason: string; simd: string }
    expect(backend).toEqual({ reason, simd: build })
    expectAllPassed(results)
  })
})

test.each(FORMATS)('the oldest supported Node.js, %s', (format) => {
  const printed = installed.run(runtimeProgram('Node 20.16'), [], MODULES[format].file, consumer(format))
  expect(JSON.parse(printed)).toEqual(expected)
})

test('Deno without the permissions of an addon runs on WebAssembly', () => {
  const options = ['run', '--no-prompt', '--allow-read', '--allow-env']
  const source = `
import { backends } from 'lily-kernels'
const [{ reason }] = backends()
${consumer('ESM').replace('console.log(results)', 'console.log(JSON.stringify({ reason, results }))')}`
  const printed = installed.run(runtimeProgram('Deno'), options, 'permissions.mjs', source)
  const { reason, results } = JSON.parse(printed) as { reason: string; results: string }
  expect(reason).toMatch(/--allow-ffi.*; running on WebAssembly/)
  expect(JSON.parse(results)).toEqual(expected)
})

test('Deno checks the types of a program and the declarations', () => {
  const source = `
import { lilyBackward, lilyForward, LilyModel, type LilySaved, type Tensor, tensor } from 'lily-kernels'
import { createLily } from 'lily-kernels/webgpu'
const x = tensor(new Float32Array(4), [2, 2])
const operands = { x, a: x, router: x, b: tensor([1, 2, 3, 4], [2, 1, 2]) }
const { y, saved }: { y: Tensor; saved: LilySaved<'token'> } = lilyForward(operands, { routing: 'token' })
const { dx }: { dx: Tensor } = lilyBackward({ dy: y }, saved)
using model = LilyModel.create({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: { r: 1, numB: 2 } })
declare const device: GPUDevice
const buffer: GPUBuffer = createLily(device).tensor(new Float32Array(4), [2, 2]).buffer
// @ts-expect-error: misspelt
lilyForward(operands, { rooting: 'token' })
// @ts-expect-error: no device
createLily({})
export { buffer, dx, model }
`
  installed.run(runtimeProgram('Deno'), ['check', '--all'], 'types.mts', source)
})

test.each(FORMATS)('a deployment with the files that Next.js collects, as %s', (format) => {
  const nft = installOnce('nft-1.11.5', ['@vercel/nft@1.11.5'])
  const { file } = MODULES[format]
  installed.run(process.execPath, [], file, consumer(format))
  const tracer = join(nft, 'trace.mjs')
  writeFileSync(
    tracer,
    `import { nodeFileTrace } from '@vercel/nft'
const { fileList } = await nodeFileTrace([process.argv[2]])
console.log(JSON.stringify([...fileList]))`,
  )
  const files = JSON.parse(
    execFileSync(process.execPath, [tracer, file], { cwd: installed.project, encoding: 'utf8' }),
  ) as string[]
  const deployment = join(installed.project, `deployment-${format}`)
  for (const path of files) cpSync(join(installed.project, path), join(deployment, path))
  for (const isa of ['', 'wasm']) {
    const env = { ...installed.environment, LILY_CPU_ISA: isa }
    const printed = execFileSync(process.execPath, [file], { cwd: deployment, env, encoding: 'utf8' })
    expect(JSON.parse(printed)).toEqual(expected)
  }
  // Without the addon the first of them would have run on WebAssembly, too.
  const prebuilds = join(deployment, 'node_modules', 'lily-kernels', 'prebuilds')
  expect(readdirSync(join(prebuilds, `${process.platform}-${process.arch}`))).toContain('lily.glibc.node')
})

// In the gate the project `wasm` runs in the Node of the gate, and golden and modes run in all runtimes, above.
test.for(['Node 22', 'Node 24'] as const)(
  'all suites of WebAssembly in %s',
  { timeout: 3_600_000 },
  (runtime, context) => {
    if (!isLong) return context.skip('a test of scheduled runs (.ci/run --long): it takes minutes')
    const vitest = join(packageRoot, 'node_modules', 'vitest', 'vitest.mjs')
    const args = [vitest, 'run', '--project', 'wasm', '--reporter', 'dot']
    const { status, stdout } = spawnSync(runtimeProgram(runtime), args, { cwd: packageRoot, encoding: 'utf8' })
    expect(status, stdout).toBe(0)
  },
)
