/** `npm run bench:onnx`: an adapter in a model of ONNX Runtime beside merged weights and the layers of this package, on the CPU. */
import { parsePositive, readOptions } from '../harness/options.js'
import { ortVersion, requireOrt } from '../peers/ort.js'
import { onnxRuntime } from '../peers/peers.js'
import { checkFolder, cpuBackend, interruptSignal, measurement, writeReport } from '../peers/program.js'
import { adapters, type Sizes } from './block.js'
import { measureAdapter } from './measure.js'
import { type OnnxReport, onnxMarkdown, type OnnxRow } from './report.js'

const usage = `npm run bench:onnx -- [options]
  --threads COUNT   number of threads of every contender (default: as the cpu backend)
  --seconds TIME    time budget of the measurements (default: 240, with --quick 2)
  --quick           smaller layers and fewer rounds
  --json FILE       write all results as JSON
  --help            show this help`

const options = readOptions(usage, {
  threads: { type: 'string' },
  seconds: { type: 'string' },
  quick: { type: 'boolean', default: false },
  json: { type: 'string' },
})

const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '2' : '240'))
checkFolder(options.json)
const command = onnxRuntime.command({ threads: 1, compiles: false })
if ('reason' in command) {
  console.error(`${command.reason}; to install it: ${onnxRuntime.install}`)
  process.exit(1)
}
const ort = requireOrt()
const cpu = cpuBackend(options.threads)

const sizes: Sizes = { d: options.quick ? 256 : 2048, rank: 16, experts: 4 }
/** Tokens of a call: a step of decoding, and prompts. */
const counts = options.quick ? [1, 128] : [1, 128, 512]

const signal = interruptSignal()
const measuredAt = new Date().toISOString()
const rows: OnnxRow[] = []
try {
  for (const adapter of adapters) {
    console.error(`measuring ${adapter}`)
    const limits = {
      seconds: budget / adapters.length / counts.length,
      rounds: options.quick ? 3 : 9,
      sampleSeconds: options.quick ? 0.002 : 0.01,
      signal,
    }
    for await (const row of measureAdapter(ort, adapter, sizes, counts, cpu.threads, limits)) rows.push(row)
  }
} catch (error) {
  if (!signal.aborted) throw error
}

const report: OnnxReport = {
  ...measurement('bench:onnx', measuredAt, signal, cpu),
  versions: { Node: process.version, 'ONNX Runtime': ortVersion(ort) },
  sizes,
  rows,
}
writeReport(report, onnxMarkdown(report), options.json)
