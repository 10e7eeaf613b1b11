/**
 * Cases in a process of its own, with its own environment variables, which the addon reads once per process, or on a
 * processor of its own. This file is both sides; the child runs it bundled, as QEMU should not have to run a bundler.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'
import { backends, LilyError, type BackendInfo } from '../../lib/index.js'
import { packageRoot } from '../../lib/root.js'
import { makeCase, type Spec } from './cases.js'
import { thisProcessor, type Processor } from './processors.js'
import { run, type How, type Result } from './run.js'

export interface Job {
  spec: Spec
  how: How
}

export interface Report {
  backend: BackendInfo
  results: Result[]
  /** Instead of results, where a call was refused. */
  refused?: { code: string; message: string }
}

export async function runInChild(
  jobs: Job[],
  env: Record<string, string>,
  processor: Processor = thisProcessor,
): Promise<Report> {
  const [execPath, ...execArgv] = processor.command
  const child = fork(bundle(), ['child'], {
    execPath,
    execArgv,
    serialization: 'advanced',
    env: { ...process.env, ...processor.env, ...env },
  })
  const exit = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the child ended with ${String(signal ?? code)} and no report`)
  })
  const report = once(child, 'message').then(([message]) => message as Report)
  exit.catch(() => undefined)
  child.send(jobs)
  return Promise.race([report, exit])
}

/** In build/, one folder below the root, as lib/ is: lib/root.ts counts on it. */
function bundle(): string {
  const path = join(packageRoot, 'build', 'child.mjs')
  const [{ contents }] = buildSync({
    entryPoints: [fileURLToPath(import.meta.url)],
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    write: false,
  }).outputFiles
  // Other test files may be at it as well, and their children must not read half a file.
  const own = `${path}.${process.pid}`
  writeFileSync(own, contents)
  renameSync(own, path)
  return path
}

async function reportOn(jobs: Job[]): Promise<Report> {
  const [backend] = backends()
  try {
    const results: Result[] = []
    for (const { spec, how } of jobs) results.push(await run(makeCase(spec), how))
    return { backend, results }
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    return { backend, results: [], refused: { code: error.code, message: error.message } }
  }
}

if (process.argv[2] === 'child') {
  process.once('message', (jobs) => {
    void reportOn(jobs as Job[]).then((report) => {
      process.send?.(report, () => {
        process.disconnect()
      })
    })
  })
}
