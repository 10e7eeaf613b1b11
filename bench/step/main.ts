/** `npm run bench:step`: whole training steps of this package beside PyTorch and TensorFlow.js alone, on the CPU. */
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseNames, parsePositive, readOptions } from '../harness/options.js'
import { type PeerCommand, PeerProcess } from '../peers/peer-process.js'
import { findPython, pytorch, pytorchEnvironment, pytorchSettings } from '../peers/peers.js'
import { checkFolder, cpuBackend, interruptSignal, measurement, writeReport } from '../peers/program.js'
import type { Missing } from '../peers/protocol.js'
import { type Contender, measureStep, type StepRow } from './measure.js'
import { stepPage } from './page.js'
import { adapters, encoders, makeProblem } from './problem.js'
import type { Reply, Request } from './protocol.js'
import { type StepReport, stepMarkdown } from './report.js'

/** Contenders by the names of the option --without. */
const titles = { pytorch: 'PyTorch', tfjs: 'TensorFlow.js' } as const
const others = Object.keys(titles) as (keyof typeof titles)[]

const usage = `npm run bench:step -- [options]
  --encoder NAME    ${encoders.join(', ')}; repeatable (default: both)
  --without NAME    leave a contender out: ${others.join(', ')}; repeatable
  --threads COUNT   number of threads of every contender (default: as the cpu backend)
  --seconds TIME    time budget of the measurements (default: 160, with --quick 1); TensorFlow.js alone may exceed it
  --quick           take one sample of each contender
  --json FILE       write all results as JSON
  --html FILE       write a page with charts
  --help            show this help`

const repeatable = { type: 'string', multiple: true } as const
const options = readOptions(usage, {
  encoder: repeatable,
  without: repeatable,
  threads: { type: 'string' },
  seconds: { type: 'string' },
  quick: { type: 'boolean', default: false },
  json: { type: 'string' },
  html: { type: 'string' },
})

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))

const selected = parseNames('encoder', encoders, options.encoder ?? encoders)
const without = parseNames('without', others, options.without ?? [])
const budget = parsePositive('seconds', options.seconds ?? (options.quick ? '1' : '160'))
checkFolder(options.json)
checkFolder(options.html)
const cpu = cpuBackend(options.threads)
const { threads } = cpu

const signal = interruptSignal()

const nodeCommand = (name: string): PeerCommand => ({
  command: process.execPath,
  args: ['--import', 'tsx', path('tfjs.ts'), '--with', name, '--threads', String(threads)],
  env: { ...process.env, LILY_NUM_THREADS: String(threads) },
})
const environment = pytorchEnvironment(threads, process.env)
const python = without.includes('pytorch') ? undefined : findPython(environment)
const commands: readonly (readonly [name: string, PeerCommand])[] = [
  ['lily-kernels', nodeCommand('lily-kernels')],
  ...(python === undefined
    ? []
    : ([
        [
          titles.pytorch,
          { command: python, args: [path('pytorch.py'), '--threads', String(threads)], env: environment },
        ],
      ] as const)),
  ...(without.includes('tfjs') ? [] : ([[titles.tfjs, nodeCommand('tfjs')]] as const)),
]

const measuredAt = new Date().toISOString()
const missing: Missing[] = without.map((name) => ({
  name: titles[name],
  reason: 'left out by --without',
  install: '',
}))
if (python === undefined && !without.includes('pytorch')) {
  missing.push({ name: titles.pytorch, reason: 'no module torch', install: pytorch.install })
}
const versions: Record<string, string> = { Node: process.version }
const contenders: (Contender & { readonly peer: PeerProcess<Request, Reply> })[] = []
const rows: StepRow[] = []
try {
  for (const [name, command] of commands) {
    const { peer, hello } = await PeerProcess.start<Request, Reply>(command)
    contenders.push({ name, peer })
    Object.assign(versions, hello.versions)
  }
  const problems = selected.flatMap((encoder) => adapters.map((adapter) => makeProblem(encoder, adapter)))
  for (const problem of problems) {
    console.error(`measuring ${problem.encoder}, ${problem.adapter}`)
    const limits = {
      seconds: budget / problems.length,
      rounds: options.quick ? 1 : 5,
      losses: options.quick ? 3 : 5,
      signal,
    }
    rows.push(await measureStep(contenders, problem, limits, missing))
  }
} catch (error) {
  if (!signal.aborted) throw error
} finally {
  for (const { peer } of contenders) peer.stop()
}

const report: StepReport = {
  ...measurement('bench:step', measuredAt, signal, cpu),
  versions,
  environment: python === undefined ? {} : pytorchSettings(threads),
  missing,
  rows,
}
writeReport(report, stepMarkdown(report), options.json)
if (options.html !== undefined) writeFileSync(options.html, stepPage(report))
