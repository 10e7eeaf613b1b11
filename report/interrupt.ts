/** Signals that end a long run early, so that what it has measured can still be reported. */

/** The codes with which a command exits after a signal, as shells report them. */
export const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const

/** Aborts at the first SIGHUP, SIGINT or SIGTERM, whose name is the reason. A later signal ends the process. */
export function interruptSignal(): AbortSignal {
  const interrupt = new AbortController()
  const onSignal = (signal: NodeJS.Signals): void => {
    interrupt.abort(signal)
    // npx forwards the SIGINT that the terminal has already sent to all processes: a second one within a second is the same.
    setTimeout(() => {
      for (const name of Object.keys(SIGNALS)) process.off(name, onSignal)
    }, 1000).unref()
  }
  for (const name of Object.keys(SIGNALS)) process.on(name, onSignal)
  return interrupt.signal
}
