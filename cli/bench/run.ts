/** Runs the benchmark and writes its reports. */
import { existsSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import type { Report } from '../../bench/harness/report.js'
import { type Findings, measure, type Plan } from '../../bench/harness/session.js'
import { selectCases } from '../../bench/workload/cases.js'
import { type BackendName, backends } from '../../lib/index.js'
import { type Progress, startProgress } from '../report/progress.js'
import type { BenchOptions } from './options.js'
import { reportText } from './text.js'

/** An interrupt ends the measurement; the results up to then are still written. */
export async function run(options: BenchOptions, command: Command, version: string): Promise<void> {
  // The addon reads the variable at its first call.
  if (options.threads !== undefined) process.env.LILY_NUM_THREADS = String(options.threads)
  const plans = plansOf(options, command)
  // Report a missing folder now, not after minutes of measurement.
  for (const [option, file] of Object.entries({ '--json': options.json, '--html': options.html })) {
    if (typeof file === 'string' && !existsSync(dirname(file))) command.error(`the folder of ${option} does not exist`)
  }
  const interrupt = new AbortController()
  // With `once`, a second signal terminates the process immediately.
  const onInterrupt = (): void => interrupt.abort()
  process.once('SIGINT', onInterrupt).once('SIGTERM', onInterrupt)
  const progress = startProgress()
  const reports: Report[] = []
  try {
    for (const [i, plan] of plans.entries()) {
      const onProgress: Progress['update'] = (step, share) =>
        progress.update(`${plan.backend}: ${step}`, (i + share) / plans.length)
      reports.push(await runPlan(plan, version, interrupt.signal, onProgress))
    }
  } finally {
    progress.stop()
    process.off('SIGINT', onInterrupt).off('SIGTERM', onInterrupt)
  }
  await write(reports, options)
  if (interrupt.signal.aborted) process.exitCode = 130
}

/** One plan per backend: the backends given, or all available ones. */
function plansOf(options: BenchOptions, command: Command): Plan[] {
  const { quick = false } = options
  const found = backends()
  const selected = new Set<BackendName>(
    options.backend.length > 0 ? options.backend : found.filter(({ available }) => available).map(({ name }) => name),
  )
  return [...selected].map((backend): Plan => {
    const { devices, reason } = found.find(({ name }) => name === backend)!
    if (devices.length === 0) {
      command.error(`the ${backend} backend is not available: ${reason ?? 'it has no device'}`)
    }
    return {
      backend,
      device: devices[0],
      cases: selectCases({
        backend,
        shapes: options.shape,
        dtypes: options.dtype,
        routings: options.routing,
        quick,
      }),
      caches: options.caches ?? (backend === 'cpu' ? 'warm' : 'cold'),
      model: { layers: options.layers, strideA: options.strideA },
      seconds: options.seconds ?? (quick ? 15 : 90),
      rounds: quick ? 3 : 5,
    }
  })
}

async function runPlan(
  plan: Plan,
  version: string,
  signal: AbortSignal,
  onProgress: Progress['update'],
): Promise<Report> {
  const { backend, device, caches, model } = plan
  const measuredAt = new Date().toISOString()
  const findings: Findings = { roofs: null, overhead: null, results: [], notes: [] }
  await measure(plan, findings, signal, onProgress)
  return {
    version,
    measuredAt,
    command: ['npx lily-kernels bench', ...process.argv.slice(3)].join(' '),
    complete: !signal.aborted,
    machine: {
      backend,
      device: device.name,
      detail: device.simd ?? `compute capability ${device.computeCapability ?? 'unknown'}`,
      threads: device.threads ?? null,
      platform: `${process.platform}-${process.arch}`,
      node: process.version,
    },
    caches,
    model,
    roofs: findings.roofs,
    overheadSeconds: findings.overhead,
    notes: findings.notes,
    results: findings.results,
  }
}

async function write(reports: readonly Report[], { json, html }: BenchOptions): Promise<void> {
  const text = `${JSON.stringify(reports, null, 2)}\n`
  if (json === true) process.stdout.write(text)
  else console.log(reports.map(reportText).join('\n\n\n'))
  if (typeof json === 'string') writeFileSync(json, text)
  if (html === undefined) return
  // The chart libraries are large; load them only for a page.
  const { reportPage } = await import('./page.js')
  writeFileSync(html, reportPage(reports))
}
