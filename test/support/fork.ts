/**
 * A module that is both sides of a conversation with a process of its own, perhaps on a processor of its own. The child runs
 * it bundled, as QEMU should not have to run a bundler.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { buildSync } from 'esbuild'
import { packageRoot } from '../../lib/binding/root.js'
import { type Processor, thisProcessor } from './processors.js'

/** Sends a message to a module in a new process, with its own environment variables, and gives what it answers. */
export async function ask<Answer>(
  file: string,
  message: object,
  env: Record<string, string>,
  processor: Processor = thisProcessor,
): Promise<Answer> {
  const [execPath, ...execArgv] = processor.command
  const child = fork(bundle(file), ['child'], {
    execPath,
    execArgv,
    serialization: 'advanced',
    env: { ...process.env, ...processor.env, ...env },
  })
  const exit = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the child ended with ${String(signal ?? code)} and no report`)
  })
  const report = once(child, 'message').then(([answer]) => answer as Answer)
  exit.catch(() => undefined)
  child.send(message)
  return Promise.race([report, exit])
}

/** The bundle lies in build/, below the package's folder, where lib/binding/root.ts finds it. */
function bundle(file: string): string {
  const path = join(packageRoot, 'build', `${basename(file, '.ts')}.mjs`)
  const [{ contents }] = buildSync({
    entryPoints: [file],
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

/** In the child: answers the one message. */
export function answer(respond: (message: never) => Promise<object>): void {
  if (process.argv[2] !== 'child') return
  process.once('message', (message) => {
    void respond(message as never).then((report) => {
      process.send?.(report, () => {
        process.disconnect()
      })
    })
  })
}
