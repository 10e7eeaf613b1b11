/**
 * Cases in a process of its own, with its own environment variables: the addon reads them once per process. This file
 * is both sides; the child runs it with tsx, from the sources.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { backends, LilyError, type BackendInfo } from '../../lib/index.js'
import { makeCase, type Spec } from './cases.js'
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

export async function runInChild(jobs: Job[], env: Record<string, string>): Promise<Report> {
  const child = fork(fileURLToPath(import.meta.url), ['child'], {
    execArgv: ['--import', 'tsx'],
    serialization: 'advanced',
    env: { ...process.env, ...env },
  })
  const exit = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the child ended with ${String(signal ?? code)} and no report`)
  })
  const report = once(child, 'message').then(([message]) => message as Report)
  exit.catch(() => undefined)
  child.send(jobs)
  return Promise.race([report, exit])
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
