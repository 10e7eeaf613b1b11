/** Runs the command line from source in a child process. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { buildSync } from 'esbuild'
import { afterAll } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

// Bundled once, as in dist/: compiling the sources takes longer than most commands.
const folder = mkdtempSync(join(packageRoot, 'build', 'cli-'))
afterAll(() => rmSync(folder, { recursive: true }))
buildSync({
  entryPoints: [join(packageRoot, 'cli', 'main.ts')],
  outdir: folder,
  bundle: true,
  splitting: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
  outExtension: { '.js': '.mjs' },
})
const command = [process.execPath, join(folder, 'main.mjs')]

/** `onError` receives all of stderr so far whenever the child writes to it. */
export function runCli(
  args: string[],
  env: NodeJS.ProcessEnv = {},
  onError: (text: string, child: ChildProcessWithoutNullStreams) => void = () => undefined,
): Promise<Ended> {
  const [program, ...rest] = [...command, ...args]
  return ended(spawn(program, rest, { env: { ...process.env, ...env } }), onError)
}

/** Runs a shell script in which `"$@"` is the command line. */
export function runCliIn(script: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const child = spawn('sh', ['-c', script, 'sh', ...command, ...args], { env: { ...process.env, ...env } })
  return ended(child, () => undefined)
}

function ended(
  child: ChildProcessWithoutNullStreams,
  onError: (text: string, child: ChildProcessWithoutNullStreams) => void,
): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
    onError(stderr, child)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal, stdout, stderr })
    })
  })
}
