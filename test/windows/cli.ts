/** Runs the command line of the installed package in a child process, in place of test/support/cli.ts. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import type { Ended } from '../support/cli.js'

/** For tests that do not run on Windows. */
export function runCliIn(): never {
  throw new Error('the script is for a shell of POSIX')
}

export function runCli(args: string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const child = spawn(process.execPath, [join(packageRoot, 'dist', 'cli.js'), ...args], {
    env: { ...process.env, ...env },
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal, stdout, stderr })
    })
  })
}
