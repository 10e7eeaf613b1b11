/** `npm run bench:onnx`: an adapter in a model of ONNX Runtime beside merged weights and the layers of this package, on the CPU. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { backends } from '../../lib/index.js'
import { parsePositive } from '../harness/options.js'
import { ortVersion, requireOrt } from '../peers/ort.js'
import { onnxRuntime } from '../peers/peers.js'
import { adapters, type Sizes } from './block.js'
import { measureAdapter } from './measure.js'
import { type OnnxReport, onnxMarkdown, type OnnxRow } from './report.js'

const usage = `npm run bench:onnx -- [options]
  --threads COUNT   number of threads of every contender (default: as the cpu backend)
  --seconds TIME    time budget of the measurements (default: 240, with --quick 2)
  --quick           smaller layers and fewer rounds
  --json FILE       write all results as JSON
  --help            show this help`

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string' },
    seconds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}

const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '2' : '240'))
// The addon reads the variable at its first call.
if (options.threads !== undefined) process.env.LILY_NUM_THREADS = String(parsePositive('threads', options.threads))
// Report a missing folder now, not after minutes of measurement.
if (options.json !== undefined && !existsSync(dirname(resolve(options.json)))) {
  throw new Error(`the folder of ${options.json} does not exist`)
}
const command = onnxRuntime.command({ threads: 1, compiles: false })
if ('reason' in command) {
  console.error(`${command.reason}; to install it: ${onnxRuntime.install}`)
  process.exit(1)
}
const ort = requireOrt()
const { devices, reason } = backends().find(({ name }) => name === 'cpu')!
if (devices.length === 0) throw new Error(`the cpu backend is not available: ${reason ?? 'unknown'}`)
const [{ name: device, simd = 'unknown', threads = 1 }] = devices

const sizes: Sizes = { d: options.quick ? 256 : 2048, rank: 16, experts: 4 }
/** Tokens of a call: a step of decoding, and prompts. */
const counts = options.quick ? [1, 128] : [1, 128, 512]

const interrupt = new AbortController()
// With `once`, a second signal terminates the process immediately.
process.once('SIGINT', () => interrupt.abort()).once('SIGTERM', () => interrupt.abort())
const measuredAt = new Date().toISOString()
const rows: OnnxRow[] = []
try {
  for (const adapter of adapters) {
    console.error(`measuring ${adapter}`)
    const limits = {
      seconds: budget / adapters.length / counts.length,
      rounds: options.quick ? 3 : 9,
      sampleSeconds: options.quick ? 0.002 : 0.01,
      signal: interrupt.signal,
    }
    for await (const row of measureAdapter(ort, adapter, sizes, counts, threads, limits)) rows.push(row)
  }
} catch (error) {
  if (!interrupt.signal.aborted) throw error
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}
const report: OnnxReport = {
  version,
  measuredAt,
  command: ['npm run bench:onnx', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
  complete: !interrupt.signal.aborted,
  machine: { device, instructionSet: simd, threads, platform: `${process.platform}-${process.arch}` },
  versions: { Node: process.version, 'ONNX Runtime': ortVersion(ort) },
  sizes,
  rows,
}
console.log(onnxMarkdown(report))
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`)
if (interrupt.signal.aborted) process.exitCode = 130
