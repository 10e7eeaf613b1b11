/** `npm run bench:rows`: many adapters in one call beside a loop of calls and PyTorch, and calls of few tokens, on the CPU. */
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parsePositive, readOptions } from '../harness/options.js'
import { type Limits, medianRatio, sampleInterleaved, timingOf } from '../harness/sampling.js'
import { disagreement } from '../peers/agreement.js'
import { PAUSE, WARMUP } from '../peers/contender.js'
import { type PeerCommand, PeerProcess } from '../peers/peer-process.js'
import { findPython, pytorch, pytorchEnvironment, pytorchSettings } from '../peers/peers.js'
import { checkFolder, cpuBackend, interruptSignal, measurement, writeReport } from '../peers/program.js'
import type { Missing, Outputs } from '../peers/protocol.js'
import { adapters, adaptersOf, type Method, type Order, type Problem, type Reply, type Request } from './protocol.js'
import { type RowsReport, type RowsResult, rowsMarkdown } from './report.js'

const usage = `npm run bench:rows -- [options]
  --package DIR     measure another build beside this one: a folder with its dist and build/Release
  --without-pytorch leave PyTorch out
  --threads COUNT   number of threads of every contender (default: as the cpu backend)
  --seconds TIME    time budget of the measurements (default: 300, with --quick 5)
  --quick           fewer problems, in fewer rounds
  --json FILE       write all results as JSON
  --help            show this help`

const options = readOptions(usage, {
  package: { type: 'string' },
  'without-pytorch': { type: 'boolean', default: false },
  threads: { type: 'string' },
  seconds: { type: 'string' },
  quick: { type: 'boolean', default: false },
  json: { type: 'string' },
})

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))
const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '5' : '300'))
checkFolder(options.json)
const cpu = cpuBackend(options.threads)
const { threads } = cpu

// ---- Problems ----

const layer = { d: 4096, rank: 16, experts: 4 }
const batches = [
  { sequences: 32, length: 1 },
  { sequences: 8, length: 256 },
]
const counts = options.quick ? [8] : [1, 2, 8, 32]
/** Numbers of adapters that each have a sequence, in one order if each has at most one. */
const rowsProblems: Problem[] = batches.flatMap((batch) =>
  adapters.flatMap((adapter) =>
    counts
      .filter((count) => count <= batch.sequences)
      .flatMap((count) => {
        const orders: readonly Order[] = count === 1 || count === batch.sequences ? ['sorted'] : ['sorted', 'in turns']
        return orders.map((order) => ({ ...layer, ...batch, adapter, adapters: count, order }))
      }),
  ),
)
const fewProblems: Problem[] = adapters.flatMap((adapter) =>
  (options.quick ? [4] : [1, 2, 4, 8, 16]).map((sequences) => {
    return { ...layer, adapter, sequences, length: 1, adapters: 1, order: 'sorted' } as const
  }),
)

// ---- Contenders ----

interface Contender {
  readonly name: string
  readonly peer: PeerProcess<Request, Reply>
}

const nodeCommand = (folder: string): PeerCommand => ({
  command: process.execPath,
  args: ['--import', 'tsx', path('lily.ts'), '--package', folder],
  env: { ...process.env, LILY_NUM_THREADS: String(threads) },
})
const environment = pytorchEnvironment(threads, process.env)
const python = options['without-pytorch'] ? undefined : findPython(environment)
const commands: [name: string, PeerCommand][] = [['lily-kernels', nodeCommand(path('../..'))]]
if (options.package !== undefined) commands.push(['before', nodeCommand(options.package)])
const missing: Missing[] = []
if (python === undefined) {
  const why = options['without-pytorch'] ? 'left out by --without-pytorch' : 'no module torch'
  missing.push({ name: pytorch.name, reason: why, install: pytorch.install })
} else {
  const args = [path('pytorch.py'), '--threads', String(threads)]
  commands.push([pytorch.name, { command: python, args, env: environment }])
}

/** A method of a contender that is open. */
interface Opened extends Contender {
  readonly method: Method
}

/**
 * Measures one problem for the tables. Methods whose y differs from our loop's are not measured; a reason is
 * reported once.
 */
async function measure(contenders: readonly Contender[], problem: Problem, limits: Limits): Promise<RowsResult[]> {
  const opened: Opened[] = []
  let expected: Outputs | undefined
  for (const { name, peer } of contenders) {
    const found = (await peer.request({ request: 'open', problem, of: adaptersOf(problem) })).methods ?? []
    for (const method of found) {
      try {
        const { outputs = {} } = await peer.request({ request: 'outputs', method })
        if (method !== 'one') {
          expected ??= outputs
          const wrong = disagreement(outputs, expected, 'float32')
          if (wrong !== null) throw new Error(wrong)
        }
        opened.push({ name, peer, method })
      } catch (error) {
        limits.signal.throwIfAborted()
        const reason = (error as Error).message
        if (missing.some((each) => each.name.startsWith(`${name}, ${method}`) && each.reason === reason)) continue
        const where = `${problem.adapter}, ${problem.sequences} x ${problem.length}, ${problem.adapters} ${problem.order}`
        missing.push({ name: `${name}, ${method}, ${where}`, reason, install: '' })
      }
    }
  }
  const samples = await sampleInterleaved(
    opened.map(({ peer, method }) => async (calls) => {
      await setTimeout(PAUSE)
      const { seconds = 0 } = await peer.request({ request: 'sample', method, warmup: WARMUP, calls })
      return seconds
    }),
    limits,
  )
  const ours = samples[opened.findIndex(({ method }) => method === 'call')] ?? samples[0]
  return opened.map(({ name, method }, i) => ({
    contender: name,
    method,
    ...timingOf(samples[i]),
    ratioToCall: medianRatio(samples[i], ours),
  }))
}

const signal = interruptSignal()
const measuredAt = new Date().toISOString()
const versions: Record<string, string> = { Node: process.version }
const contenders: Contender[] = []
const rows: RowsReport['rows'][number][] = []
try {
  for (const [name, command] of commands) {
    const { peer, hello } = await PeerProcess.start<Request, Reply>(command)
    contenders.push({ name, peer })
    Object.assign(versions, hello.versions)
  }
  const problems = [...rowsProblems, ...fewProblems]
  for (const problem of problems) {
    const { adapter, sequences, length, adapters: count, order } = problem
    console.error(`measuring ${adapter}, ${sequences} x ${length}, ${count} adapters, ${order}`)
    const limits = {
      seconds: budget / problems.length,
      rounds: options.quick ? 3 : 9,
      sampleSeconds: options.quick ? 0.002 : 0.01,
      signal,
    }
    rows.push({ ...problem, results: await measure(contenders, problem, limits) })
  }
} catch (error) {
  if (!signal.aborted) throw error
} finally {
  for (const { peer } of contenders) peer.stop()
}

const report: RowsReport = {
  ...measurement('bench:rows', measuredAt, signal, cpu),
  versions,
  environment: python === undefined ? {} : pytorchSettings(threads),
  missing,
  rows,
}
writeReport(report, rowsMarkdown(report), options.json)
