/** A module that is both sides of a conversation with a process of its own, which tsx runs from the sources. */
import { fork } from 'node:child_process'
import { once } from 'node:events'

/** Sends a message to a module in a new process, with its own environment variables, and gives what it answers. */
export async function ask<Answer>(file: string, message: object, env: Record<string, string>): Promise<Answer> {
  const child = fork(file, ['child'], {
    execArgv: ['--import', 'tsx'],
    serialization: 'advanced',
    env: { ...process.env, ...env },
  })
  const exit = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the child ended with ${String(signal ?? code)} and no report`)
  })
  const report = once(child, 'message').then(([answer]) => answer as Answer)
  exit.catch(() => undefined)
  child.send(message)
  return Promise.race([report, exit])
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
