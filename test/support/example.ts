/** Runs the programs of examples/finetune and examples/distributed, and reads their reports. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { beforeEach } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { install } from '../../scripts/example.js'

/** Whether the packages of examples/finetune are installed, which both examples use. */
export const isInstalled = install()

/** Skips the tests of a file where the packages are missing. */
export function skipWithoutPackages(): void {
  beforeEach(({ skip }) => {
    skip(!isInstalled, 'the packages of examples/finetune cannot be installed; npm says why above')
  })
}

/** The subset of the DOM that the tests use. */
export interface Page {
  readonly textContent: string
  querySelector(selector: string): Page
  querySelectorAll(selector: string): Iterable<Page>
}

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export const pageOf = (html: string): Page => (parseHTML(html) as unknown as { document: Page }).document

/** The page that an example has written to its folder, and the results in it. */
export interface Report<Results> {
  readonly html: string
  readonly page: Page
  readonly results: Results
}

export function readReport(output: string): Report<unknown> {
  const html = readFileSync(join(output, 'report.html'), 'utf8')
  const page = pageOf(html)
  return { html, page, results: JSON.parse(page.querySelector('#report').textContent) as unknown }
}

/** The command of a program below examples/. */
export const program = (file: string, options: readonly string[]): string[] => [
  process.execPath,
  ...['--import', 'tsx', `examples/${file}`],
  ...options,
]

/** Runs a command. `onStderr` is called with what has been printed so far. */
export async function run(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
  onStderr?: (text: string, interrupt: () => void) => void,
): Promise<Ended> {
  const child = spawn(command[0], command.slice(1), {
    cwd: packageRoot,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => {
    stderr += text.toString()
    onStderr?.(stderr, () => child.kill('SIGINT'))
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  return { code, stdout, stderr }
}
