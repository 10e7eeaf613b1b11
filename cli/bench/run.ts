/** Runs the benchmark and writes its reports. */
import type { Command } from 'commander'
import { type Gpu, openGpu } from '../../bench/harness/gpu.js'
import type { Report } from '../../bench/harness/report.js'
import { type Findings, measure, type OnProgress, type Plan } from '../../bench/harness/session.js'
import { type BenchBackend, selectCases } from '../../bench/workload/cases.js'
import { countOf } from '../../lib/base/errors.js'
import { backends, type DeviceInfo } from '../../lib/index.js'
import { attemptAll, printStack, reasonOf, reportFailure } from '../../report/failure.js'
import { interruptSignal, SIGNALS } from '../../report/interrupt.js'
import { checkWritable, writeOutput } from '../../report/output-file.js'
import { note, print } from '../../report/print.js'
import { jsonText, withPrintableStrings } from '../../report/printable.js'
import { startProgress } from '../../report/progress.js'
import type { BenchOptions } from './options.js'
import { reportText } from './text.js'
import { verdictOf } from './verdict.js'

/** Runs the benchmark. An interrupt ends the measurement; the results up to then are still written. */
export async function run(options: BenchOptions, command: Command, version: string): Promise<void> {
  const plans = await plansOf(options, command)
  // Report a file that cannot be written now, not after minutes of measurement.
  checkWritable({ '--json': options.json === true ? undefined : options.json, '--html': options.html })
  const interrupt = interruptSignal()
  const progress = startProgress((step) => note(`measuring ${step}`))
  const reports: Report[] = []
  const begin = performance.now()
  try {
    for (const [i, plan] of plans.entries()) {
      const later = plans.slice(i + 1).reduce((sum, { seconds }) => sum + seconds, 0)
      const onProgress: OnProgress = (step, secondsLeft) => {
        const elapsed = (performance.now() - begin) / 1000
        progress.update(`${plan.backend}: ${step}`, elapsed / (elapsed + secondsLeft + later))
      }
      reports.push(await runPlan(plan, version, interrupt, onProgress))
    }
  } finally {
    progress.stop()
    for (const { gpu } of plans) gpu?.close()
  }
  if (interrupt.aborted) {
    const cases = plans.reduce((sum, plan) => sum + plan.cases.length, 0)
    const done = reports.reduce((sum, { results, failures }) => sum + casesOf(results) + failures.length, 0)
    note(`interrupted: ${done} of ${countOf(cases, 'case')} were measured; their results are written`)
  }
  await write(reports, options)
  if (reports.some(({ failures }) => failures.length > 0)) process.exitCode = 1
  if (interrupt.aborted) process.exitCode = SIGNALS[interrupt.reason as keyof typeof SIGNALS]
}

const casesOf = (results: Report['results']): number =>
  new Set(results.map(({ shape, dtype, routing }) => JSON.stringify([shape, dtype, routing]))).size

/** Options without effect on the other backends. */
const CPU_OPTIONS = ['layer', 'threads'] as const

/** One plan per backend: the backends given, or all that `backends()` lists as available. */
async function plansOf(options: BenchOptions, command: Command): Promise<Plan[]> {
  const found = backends()
  const selected = new Set<BenchBackend>(
    options.backend.length > 0 ? options.backend : found.filter(({ available }) => available).map(({ name }) => name),
  )
  if (selected.size === 0) {
    const reasons = found.map(({ name, reason }) => `${name}: ${reason ?? 'it has no device'}`).join('; ')
    command.error(`error: no backend is available: ${reasons}`)
  }
  if (!selected.has('cpu')) {
    for (const name of CPU_OPTIONS) {
      if (options[name] === undefined) continue
      command.error(`error: --${name} is for the cpu backend, which is not measured; leave it out or add --backend cpu`)
    }
  }
  const plans: Plan[] = []
  for (const backend of selected) {
    if (backend === 'webgpu') {
      const gpu = await openGpu().catch((error: unknown) => unavailable(backend, reasonOf(error), command))
      plans.push(planOf(options, backend, { id: 0, name: gpu.name }, gpu))
      continue
    }
    const { devices, reason } = found.find(({ name }) => name === backend)!
    if (devices.length === 0) unavailable(backend, reason ?? 'it has no device', command)
    plans.push(planOf(options, backend, devices[0], null))
  }
  return plans
}

function unavailable(backend: BenchBackend, reason: string, command: Command): never {
  return command.error(`error: the ${backend} backend is not available: ${reason}`)
}

function planOf(options: BenchOptions, backend: BenchBackend, device: DeviceInfo, gpu: Gpu | null): Plan {
  const { quick = false } = options
  const seconds = options.seconds ?? (quick ? 15 : 90)
  return {
    backend,
    device,
    gpu,
    cases: selectCases({
      backend,
      shapes: options.shape,
      dtypes: options.dtype,
      routings: options.routing,
      quick,
    }),
    caches: options.caches ?? (backend === 'cuda' ? 'cold' : 'warm'),
    model: { layers: options.layers, strideA: options.strideA },
    withLayer: options.layer ?? false,
    seconds,
    // Allocating and filling the buffers takes most of the time of a short run.
    roofOctaves: quick ? 3 : 0.5,
    roofBytes: seconds < 1 ? 16 * 2 ** 20 : Infinity,
    rounds: quick ? 3 : 5,
  }
}

async function runPlan(plan: Plan, version: string, signal: AbortSignal, onProgress: OnProgress): Promise<Report> {
  const { backend, device, gpu, caches, model } = plan
  const measuredAt = new Date().toISOString()
  const findings: Findings = { roofs: null, overhead: null, results: [], failures: [], notes: [] }
  const describe = (error: unknown): string => {
    printStack(error)
    return reasonOf(error)
  }
  let isComplete = true
  try {
    await measure(plan, findings, signal, onProgress, describe)
  } catch (error) {
    // What was measured before is reported.
    reportFailure(error)
    isComplete = false
  }
  const machine = {
    backend,
    device: device.name,
    detail: gpu === null ? processorText(device) : gpu.isSoftware ? 'software adapter' : 'adapter of a GPU',
    threads: device.threads ?? null,
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
  }
  return {
    verdict: verdictOf({ machine, results: findings.results }),
    version,
    measuredAt,
    command: ['npx lily-kernels bench', ...process.argv.slice(3).map(quoted)].join(' '),
    complete: isComplete && !signal.aborted,
    machine,
    caches,
    model,
    roofs: findings.roofs,
    overheadSeconds: findings.overhead,
    notes: findings.notes,
    results: findings.results,
    failures: findings.failures,
  }
}

/** An argument as a shell reads it. */
const quoted = (argument: string): string =>
  /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`

const processorText = ({ simd, computeCapability = 'unknown' }: DeviceInfo): string =>
  simd ?? `compute capability ${computeCapability}`

async function write(reports: readonly Report[], { json, html }: BenchOptions): Promise<void> {
  const text = jsonText(reports, 2)
  await attemptAll([
    () => {
      if (typeof json === 'string') writeOutput('--json', json, `${text}\n`)
    },
    () =>
      print(json === true ? text : reports.map((report) => reportText(withPrintableStrings(report))).join('\n\n\n')),
    async () => {
      if (html === undefined) return
      // The chart libraries are large; load them only for a page.
      const { reportPage } = await import('./page.js')
      writeOutput('--html', html, reportPage(reports))
    },
  ])
}
