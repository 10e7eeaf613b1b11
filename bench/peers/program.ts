/** What the programs have in common that measure this package beside others on the CPU. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import { backends } from '../../lib/index.js'
import { parsePositive } from '../harness/options.js'
import type { Measurement } from './report.js'

/** The cpu backend of this process. */
export interface Cpu {
  readonly device: string
  readonly simd: string
  readonly threads: number
}

/**
 * @param threads the option --threads
 * @throws Error if the cpu backend is not available
 */
export function cpuBackend(threads?: string): Cpu {
  // The addon reads the variable at its first call.
  if (threads !== undefined) process.env.LILY_NUM_THREADS = String(parsePositive('threads', threads))
  const { devices, reason } = backends().find(({ name }) => name === 'cpu')!
  if (devices.length === 0) throw new Error(`the cpu backend is not available: ${reason ?? 'unknown'}`)
  const [{ name, simd = 'unknown', threads: count = 1 }] = devices
  return { device: name, simd, threads: count }
}

/**
 * Reports a missing folder before minutes of measurement.
 *
 * @throws Error
 */
export function checkFolder(file: string | null | undefined): void {
  if (file == null || existsSync(dirname(resolve(file)))) return
  throw new Error(`the folder of ${file} does not exist`)
}

/** Aborts at the first SIGINT or SIGTERM; a second one ends the process at once. */
export function interruptSignal(): AbortSignal {
  const interrupt = new AbortController()
  process.once('SIGINT', () => interrupt.abort()).once('SIGTERM', () => interrupt.abort())
  return interrupt.signal
}

/**
 * What a report says of its run.
 *
 * @param script such as 'bench:peers'
 */
export function measurement(
  script: string,
  measuredAt: string,
  { aborted }: AbortSignal,
  { device, simd, threads }: Cpu,
): Omit<Measurement, 'versions'> {
  const { version } = JSON.parse(readFileSync(resolve(packageRoot, 'package.json'), 'utf8')) as { version: string }
  return {
    version,
    measuredAt,
    command: [`npm run ${script}`, ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
    complete: !aborted,
    machine: { device, instructionSet: simd, threads, platform: `${process.platform}-${process.arch}` },
  }
}

/**
 * Prints the tables of a report. The exit code is 130 if the run was interrupted.
 *
 * @param json the option --json: the file for all of it
 */
export function writeReport(report: Pick<Measurement, 'complete'>, markdown: string, json: string | undefined): void {
  console.log(markdown)
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`)
  if (!report.complete) process.exitCode = 130
}
