/**
 * Communication between a module and a child process that runs the same module, optionally on an emulated processor. The
 * child runs a bundle, because running a bundler under QEMU is slow.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { buildSync } from 'esbuild'
import { packageRoot } from '../../lib/binding/root.js'
import { type Processor, thisProcessor } from './processors.js'

/** Sends a message to a module in a new process with additional environment variables, and returns its answer. */
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
  const exited = once(child, 'exit')
  const failed = exited.then(([code, signal]) => {
    throw new Error(`the child exited with ${String(signal ?? code)} without an answer`)
  })
  const report = once(child, 'message').then(([answer]) => answer as Answer)
  failed.catch(() => undefined)
  child.send(message)
  const answer = await Promise.race([report, failed])
  await exited // the emulator writes files at the exit
  return answer
}

/** Those that this process has made. */
const bundles = new Map<string, string>()

/**
 * Bundles a program, and returns the path in build/, below the folder of the package, so that lib/binding/root.ts finds the
 * package.
 *
 * @param name that of the file in build/
 */
export function bundle(file: string, name = basename(file, '.ts')): string {
  const known = bundles.get(file)
  if (known !== undefined) return known
  const path = join(packageRoot, 'build', `${name}.mjs`)
  const [{ contents }] = buildSync({
    entryPoints: [file],
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    write: false,
  }).outputFiles
  // Other test files may write the same bundle; a rename keeps their children from reading an incomplete file.
  const own = `${path}.${process.pid}`
  writeFileSync(own, contents)
  renameSync(own, path)
  bundles.set(file, path)
  return path
}

/** In the child: answers the message. */
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
