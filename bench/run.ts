/** A run of the microbenchmark from its options to its report. */
import { existsSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import { backends } from '../lib/index.js'
import { chooseCases } from './cases.js'
import type { Options } from './command.js'
import { startProgress } from './progress.js'
import type { Report } from './report.js'
import { measure, type Findings, type Plan } from './session.js'
import { headOf, legendOf, tableOf } from './table.js'

/** Measures, shows how far it is, and writes what was asked for; an interrupt ends the measuring, not the writing. */
export async function run(options: Options, command: Command, version: string): Promise<void> {
  // The addon reads it before its first call.
  if (options.threads !== undefined) process.env.LILY_NUM_THREADS = String(options.threads)
  const found = backends().find(({ name }) => name === options.backend)
  const device = found?.devices[0]
  if (device === undefined) {
    command.error(`the ${options.backend} backend is not available: ${found?.reason ?? 'it has no device'}`)
  }
  // After minutes of measuring it would be too late.
  for (const [option, file] of Object.entries({ '--json': options.json, '--html': options.html })) {
    if (typeof file === 'string' && !existsSync(dirname(file))) command.error(`the folder of ${option} does not exist`)
  }
  const plan: Plan = {
    backend: options.backend,
    device,
    cases: chooseCases({
      shapes: options.shape,
      dtypes: options.dtype,
      routings: options.routing,
      quick: options.quick,
    }),
    isCold: options.cold,
    model: { layers: options.layers, strideA: options.strideA },
    seconds: options.seconds ?? (options.quick ? 15 : 90),
    rounds: options.quick ? 3 : 5,
  }
  const findings: Findings = { roofs: null, overhead: null, results: [], notes: [] }
  const measuredAt = new Date().toISOString()
  const interrupt = new AbortController()
  // Once: a second one ends the process at once.
  const onInterrupt = (): void => interrupt.abort()
  process.once('SIGINT', onInterrupt).once('SIGTERM', onInterrupt)
  const progress = startProgress()
  try {
    await measure(plan, findings, interrupt.signal, progress.update)
  } finally {
    progress.stop()
    process.off('SIGINT', onInterrupt).off('SIGTERM', onInterrupt)
  }

  const { roofs, overhead: overheadSeconds, results, notes } = findings
  const report: Report = {
    version,
    measuredAt,
    command: ['npx lily-kernels bench', ...process.argv.slice(3)].join(' '),
    complete: !interrupt.signal.aborted,
    machine: {
      backend: options.backend,
      device: device.name,
      detail: device.simd ?? `compute capability ${device.computeCapability ?? 'unknown'}`,
      threads: device.threads ?? null,
      platform: `${process.platform}-${process.arch}`,
      node: process.version,
    },
    caches: options.cold ? 'cold' : 'warm',
    model: plan.model,
    roofs,
    overheadSeconds,
    notes,
    results,
  }
  await deliver(report, options)
  if (!report.complete) process.exitCode = 130
}

async function deliver(report: Report, { json, html }: Options): Promise<void> {
  const text = `${JSON.stringify(report, null, 2)}\n`
  if (json === true) process.stdout.write(text)
  else console.log([headOf(report), tableOf(report), legendOf(report)].join('\n\n'))
  if (typeof json === 'string') writeFileSync(json, text)
  if (html === undefined) return
  // The charts' libraries are large, and are loaded for this alone.
  const { pageOf } = await import('./page/page.js')
  writeFileSync(html, pageOf(report))
}
