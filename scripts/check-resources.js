#!/usr/bin/env node
// Reports the resources that ptxas assigns to every kernel on every published architecture: registers, shared memory,
// and the number of resident blocks per multiprocessor (cuda_occupancy.h). Fails on any spill, stack frame or other
// local memory, and on products of wgmma that ptxas serialises.
//
//   npm run check:resources                       all architectures: as long as the CUDA part of npm run prebuild
//   npm run check:resources -- --architecture 80  one architecture
//     --json FILE                                 also write the table as JSON
//
// Does not use the build: it compiles the sources with the build's options and discards the machine code.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { codeOf, float16Targets, targets } from './cuda-targets.js'
import { kernelsOf, serialisedOf } from './ptxas-output.js'

/** @import { CudaTarget } from './cuda-targets.js' */
/** @import { Resources } from './ptxas-output.js' */

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'resources')
const nvcc = process.env.CUDACXX ?? 'nvcc'
const options = ['-std=c++20', '-O3', '-DNDEBUG', '-I', join(root, 'native'), '-I', join(root, 'native', 'include')]

const cuda = join(root, 'native', 'cuda')
/** What chooses and starts the kernels of a call, and the program of addOccupancy: ptxas reports nothing of them. */
const withoutKernels = ['operations.cu', 'occupancy.cu']
const files = readdirSync(cuda, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.cu') && !withoutKernels.includes(file))
  .sort()

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`check-resources: ${message}`)
  process.exit(1)
}

/** @type {(file: string) => Promise<Resources[]>} */
function compile(file) {
  const source = join(cuda, file)
  const wanted = wantedOf(file)
  const code = wanted.map((target) => `--generate-code=${codeOf({ ...target, hasPtx: false })}`)
  const args = [
    ...options,
    ...code,
    '--threads=0',
    '-Xptxas',
    '-v',
    '-c',
    source,
    '-o',
    join(folder, `${basename(file)}.o`),
  ]
  return new Promise((resolve) => {
    const child = spawn(nvcc, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let text = ''
    child.stderr.on('data', (/** @type {Buffer} */ chunk) => (text += chunk.toString()))
    child.on('error', (error) => fail(`${nvcc}: ${error.message}; set CUDACXX`))
    child.on('close', (status, signal) => {
      if (status !== 0) fail(`${source} does not compile (${signal ?? status}):\n${text}`)
      const kernels = kernelsOf(text)
      // Missing results must not pass as success.
      const isMissing = wanted.some(({ real }) => real.some((name) => !kernels.some((k) => k.architecture === name)))
      if (isMissing || kernels.some(({ symbol, registers }) => symbol === '' || registers === 0))
        fail(`the output of ptxas for ${file} was not understood:\n${text}`)
      serialised.push(...serialisedOf(text))
      console.error(`${file}: ${kernels.length} kernels`)
      resolve(kernels)
    })
  })
}

/** All local memory: the stack frame, spills and other data. @type {(kernel: Resources) => number} */
function localBytesOf({ stackBytes, spillStoreBytes, spillLoadBytes, localBytes }) {
  return stackBytes + spillStoreBytes + spillLoadBytes + localBytes
}

/** @type {(kernels: Resources[]) => void} */
function addOccupancy(kernels) {
  const program = join(folder, 'occupancy')
  const source = join(cuda, 'occupancy.cu')
  const built = spawnSync(nvcc, [...options, source, '-o', program], { encoding: 'utf8' })
  if (built.status !== 0) fail(`${source} does not compile:\n${built.stderr}`)
  const input = kernels
    .map((each) => `${each.architecture} ${each.symbol} ${each.registers} ${each.staticSharedBytes}\n`)
    .join('')
  const { status, stdout, stderr } = spawnSync(program, { input, encoding: 'utf8' })
  if (status !== 0) fail(stderr)
  for (const [i, line] of stdout.trimEnd().split('\n').entries()) {
    const [blocks, warps, mostWarps, dynamicSharedBytes, kernel] = line.split('\t')
    Object.assign(kernels[i] ?? {}, {
      kernel,
      blocks: Number(blocks),
      warps: Number(warps),
      mostWarps: Number(mostWarps),
      dynamicSharedBytes: Number(dynamicSharedBytes),
    })
  }
}

const { values: given } = parseArgs({
  options: { architecture: { type: 'string', multiple: true }, json: { type: 'string' } },
})
const published = targets.flatMap(({ real }) => real)
const architectures = given.architecture?.map(Number) ?? published
const unknown = architectures.find((name) => !published.includes(name))
if (unknown !== undefined) fail(`--architecture ${unknown}: expected one of ${published.join(', ')}`)
mkdirSync(folder, { recursive: true })

/** The targets of a file with the wanted architectures of which the library has machine code. @type {(file: string) => CudaTarget[]} */
const wantedOf = (file) =>
  (basename(file) === 'engine_float16.cu' ? float16Targets : targets)
    .map((target) => ({ ...target, real: target.real.filter((name) => architectures.includes(name)) }))
    .filter(({ real }) => real.length > 0)
/** @type {Resources[]} */
const kernels = []
/** @type {string[]} */
const serialised = []
/** @type {() => Promise<void>} */
async function work() {
  for (let file = files.shift(); file !== undefined; file = files.shift())
    if (wantedOf(file).length > 0) kernels.push(...(await compile(file)))
}
await Promise.all(Array.from({ length: availableParallelism() }, work))

addOccupancy(kernels)
// Kernels without code for an architecture (kHasCode in tiles/matrix.cuh) have next to no registers.
kernels.splice(0, kernels.length, ...kernels.filter(({ registers }) => registers > 8))
kernels.sort((p, q) => p.architecture - q.architecture || (p.kernel < q.kernel ? -1 : 1))

/** Minimum and maximum. @typedef {[number, number]} Range */

/** One row per architecture and kernel name, over all variants of the kernel. */
const rows = architectures.flatMap((architecture) => {
  const here = kernels.filter((each) => each.architecture === architecture)
  /** @type {(each: Resources) => string} */
  const nameOf = ({ kernel }) => kernel.replace(/<.*/, '')
  return [...new Set(here.map(nameOf))].map((kernel) => {
    const variants = here.filter((each) => nameOf(each) === kernel)
    /** @type {(of: (each: Resources) => number) => Range} */
    const range = (of) => [Math.min(...variants.map(of)), Math.max(...variants.map(of))]
    return {
      architecture,
      kernel,
      variants: variants.length,
      registers: range(({ registers }) => registers),
      sharedBytes: range(({ staticSharedBytes, dynamicSharedBytes }) => staticSharedBytes + dynamicSharedBytes),
      blocks: range(({ blocks }) => blocks),
      warps: range(({ warps }) => warps),
      mostWarps: variants[0]?.mostWarps,
      localBytes: Math.max(...variants.map(localBytesOf)),
    }
  })
})

const widths = [8, 20, 8, 13, 13, 10, 16]
/** @type {(cells: string[]) => void} */
const printRow = (cells) => {
  console.log(cells.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(''))
}
/** @type {(range: Range) => string} */
const printed = (range) => [...new Set(range)].join(' to ')
printRow(['', 'kernel', 'variants', 'registers', 'shared KiB', 'blocks', 'warps of'])
for (const { architecture, kernel, variants, registers, sharedBytes, blocks, warps, mostWarps } of rows) {
  const [least, most] = sharedBytes.map((bytes) => Math.ceil(bytes / 1024))
  printRow([
    `sm_${architecture}`,
    kernel,
    String(variants),
    printed(registers),
    printed([least ?? 0, most ?? 0]),
    printed(blocks),
    `${printed(warps)} of ${mostWarps}`,
  ])
}
if (given.json !== undefined) {
  const compiler = spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout.trim().split('\n').at(-1)
  writeFileSync(given.json, JSON.stringify({ compiler, experts: 4, rows }) + '\n')
}
const spilling = kernels.filter((each) => localBytesOf(each) > 0)
for (const { architecture, kernel, stackBytes, spillStoreBytes, spillLoadBytes, localBytes } of spilling) {
  console.error(
    `sm_${architecture} ${kernel}: stack frame of ${stackBytes} bytes, ${spillStoreBytes} bytes of spill stores, ` +
      `${spillLoadBytes} bytes of spill loads, ${localBytes} bytes of local memory`,
  )
}
for (const message of serialised) console.error(message)
if (spilling.length > 0) fail(`${spilling.length} kernels use local memory`)
if (serialised.length > 0) fail('wgmma waits for each product; see the messages of ptxas above')
console.log(`${kernels.length} kernels, none of them with spills, other local memory or wgmma that is serialised`)
