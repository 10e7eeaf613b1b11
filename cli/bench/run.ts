/** A run of the microbenchmark from its options to its reports. */
import { existsSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import { chooseCases } from '../../bench/cases.js'
import type { Report } from '../../bench/report.js'
import { type Findings, measure, type Plan } from '../../bench/session.js'
import { type BackendName, backends } from '../../lib/index.js'
import { type Progress, startProgress } from '../report/progress.js'
import type { Options } from './command.js'
import { headOf, legendOf, tableOf } from './table.js'

/** Measures, shows how far it is, and writes what was asked for; an interrupt ends the measuring, not the writing. */
export async function run(options: Options, command: Command, version: string): Promise<void> {
  // The addon reads it before its first call.
  if (options.threads !== undefined) process.env.LILY_NUM_THREADS = String(options.threads)
  const plans = plansOf(options, command)
  // After minutes of measuring it would be too late.
  for (const [option, file] of Object.entries({ '--json': options.json, '--html': options.html })) {
    if (typeof file === 'string' && !existsSync(dirname(file))) command.error(`the folder of ${option} does not exist`)
  }
  const interrupt = new AbortController()
  // Once: a second one ends the process at once.
  const onInterrupt = (): void => interrupt.abort()
  process.once('SIGINT', onInterrupt).once('SIGTERM', onInterrupt)
  const progress = startProgress()
  const reports: Report[] = []
  try {
    for (const [i, plan] of plans.entries()) {
      const onProgress: Progress['update'] = (what, share) =>
        progress.update(`${plan.backend}: ${what}`, (i + share) / plans.length)
      reports.push(await reportOf(plan, version, interrupt.signal, onProgress))
    }
  } finally {
    progress.stop()
    process.off('SIGINT', onInterrupt).off('SIGTERM', onInterrupt)
  }
  await deliver(reports, options)
  if (interrupt.signal.aborted) process.exitCode = 130
}

/** One for each backend that was named, or else that is there. */
function plansOf(options: Options, command: Command): Plan[] {
  const found = backends()
  const wanted = new Set<BackendName>(
    options.backend.length > 0 ? options.backend : found.filter((each) => each.available).map(({ name }) => name),
  )
  return [...wanted].map((backend): Plan => {
    const { devices, reason } = found.find(({ name }) => name === backend)!
    if (devices.length === 0) {
      command.error(`the ${backend} backend is not available: ${reason ?? 'it has no device'}`)
    }
    return {
      backend,
      device: devices[0],
      cases: chooseCases({
        backend,
        shapes: options.shape,
        dtypes: options.dtype,
        routings: options.routing,
        quick: options.quick,
      }),
      caches: options.caches ?? (backend === 'cpu' ? 'warm' : 'cold'),
      model: { layers: options.layers, strideA: options.strideA },
      seconds: options.seconds ?? (options.quick ? 15 : 90),
      rounds: options.quick ? 3 : 5,
    }
  })
}

async function reportOf(
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

async function deliver(reports: readonly Report[], { json, html }: Options): Promise<void> {
  const text = `${JSON.stringify(reports, null, 2)}\n`
  if (json === true) process.stdout.write(text)
  else {
    const shown = reports.map((report) => [headOf(report), tableOf(report), legendOf(report)].join('\n\n'))
    console.log(shown.join('\n\n\n'))
  }
  if (typeof json === 'string') writeFileSync(json, text)
  if (html === undefined) return
  // The charts' libraries are large, and are loaded for this alone.
  const { pageOf } = await import('./page.js')
  writeFileSync(html, pageOf(reports))
}
