/**
 * Runs cases in a child process with other environment variables, which the addon reads once per process, or on an
 * emulated processor. This file contains both sides.
 */
import { fileURLToPath } from 'node:url'
import { type BackendInfo, backends, emptyCache, LilyError } from '../../lib/index.js'
import { makeCase, type Spec } from './cases.js'
import { answer, ask } from './fork.js'
import type { Processor } from './processors.js'
import { type How, type Result, run } from './run.js'

export interface Job {
  spec: Spec
  how: How
}

export interface Report {
  backend: BackendInfo
  results: Result[]
  /** The error of a rejected call, instead of results. */
  refused?: { code: string; message: string }
}

export async function runInChild(jobs: Job[], env: Record<string, string>, processor?: Processor): Promise<Report> {
  return ask<Report>(fileURLToPath(import.meta.url), jobs, env, processor)
}

async function reportOn(jobs: Job[]): Promise<Report> {
  const [backend] = backends()
  try {
    const results: Result[] = []
    for (const { spec, how } of jobs) {
      results.push(await run(makeCase(spec), how))
      // Memory of the next problem is new: on the emulator, what lies beyond an operand is then not initialised. On the
      // host it is used again, so that what an earlier call has left in it would show.
      if (backend.name === 'cuda') emptyCache()
    }
    return { backend, results }
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    return { backend, results: [], refused: { code: error.code, message: error.message } }
  }
}

answer(reportOn)
