#!/usr/bin/env node
// Installs the packed package as a user does, on any system with Node.js, npm and a network, and runs it. It needs no
// checkout beside it:
//
//     node try-package.js FOLDER addon|wasm
//
// FOLDER has package/*.tgz (npm run check:package) and suites.mjs (scripts/bundle-suites.ts), as build/ does. The second
// argument says which backend has to run there.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const [folder = '', wanted = ''] = process.argv.slice(2)
const [tarball] = readdirSync(join(folder, 'package'))
const project = mkdtempSync(join(realpathSync(tmpdir()), 'lily-try-'))

/** Prints what suites.mjs found, and what a worker that requires the package computes. */
const PROGRAM = `
import { Worker } from 'node:worker_threads'
import { backends } from 'lily-kernels'
import { outcomes } from './suites.mjs'
const worker = new Worker(new URL('./worker.cjs', import.meta.url))
const y = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
await worker.terminate()
const results = await outcomes()
const failed = results.filter(({ errors }) => errors.length > 0)
const [{ devices }] = backends()
console.log(JSON.stringify({ y, simd: devices[0].simd, count: results.length, failed }))
`

// Two tokens, d_in = d_out = 2, r = 1, E = 2. The router is zero, so both weights are 1/2: y = 2 x a^T [1/2, 1].
const WORKER = `
const { parentPort } = require('node:worker_threads')
const { lilyForwardAsync, tensor } = require('lily-kernels')
const operands = {
  x: tensor(new Float32Array([1, 2, 3, 4]), [2, 2]),
  a: tensor(new Float32Array([1, 1]), [1, 2]),
  router: tensor(new Float32Array(2), [2, 1]),
  b: tensor(new Float32Array([1, 0, 0, 2]), [2, 1, 2]),
}
lilyForwardAsync(operands, { scaling: 2 }).then(({ y }) => parentPort.postMessage(String(y.data)))
`

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/**
 * @param {string} command a program and its arguments, which a shell reads, because npm of Windows is a script of its shell
 * @returns {string} what it printed
 */
function run(command) {
  console.log(`> ${command}`)
  const { status, stdout } = spawnSync(command, {
    cwd: project,
    shell: true,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 26,
  })
  if (status !== 0) fail(`${command} failed: ${stdout}`)
  return stdout
}

copyFileSync(join(folder, 'package', tarball), join(project, 'lily-kernels.tgz'))
copyFileSync(join(folder, 'suites.mjs'), join(project, 'suites.mjs'))
writeFileSync(join(project, 'package.json'), '{ "private": true }\n')
writeFileSync(join(project, 'program.mjs'), PROGRAM)
writeFileSync(join(project, 'worker.cjs'), WORKER)
run('npm install --ignore-scripts --no-audit --no-fund ./lily-kernels.tgz')

/** @type {unknown} */
const diagnosis = JSON.parse(run('npx --no-install lily-kernels doctor --json'))
const { ok, addon, backends, platform, node } = /** @type {import('../cli/doctor/diagnosis.js').Diagnosis} */ (
  diagnosis
)
if (!ok) fail(`doctor finds a fault: ${JSON.stringify(backends)}`)
if (addon.loads !== (wanted === 'addon')) fail(`the addon ${addon.loads ? 'loads' : `does not load: ${addon.reason}`}`)

/** @type {unknown} */
const printed = JSON.parse(run('node program.mjs'))
const { y, simd, count, failed } = /** @type {{ y: string, simd: string, count: number, failed: unknown[] }} */ (
  printed
)
if (y !== '3,6,7,14') fail(`a worker computes ${y}`)
if (failed.length > 0 || count <= 250) fail(`of ${count} results these failed: ${JSON.stringify(failed, null, 2)}`)
if (simd.startsWith('wasm') !== (wanted === 'wasm')) fail(`${simd} has run instead of ${wanted}`)
rmSync(project, { recursive: true, force: true })
console.log(`lily-kernels: ${count} tests passed on ${platform}, ${node}, with ${simd}`)
