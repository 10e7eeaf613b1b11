/** Prints to stdout and stderr; either may be closed or full. */

/** Prints to stdout. A failure is reported once on stderr, and the exit code is 1. */
export const print = (text: string): void => write(process.stdout, text, onStdoutError)

/** Prints to stderr. A failure is ignored, because there is no other place to report it. */
export const note = (text: string): void => write(process.stderr, text, () => undefined)

function write(stream: NodeJS.WriteStream, text: string, onError: (error: Error) => void): void {
  try {
    stream.write(`${text}\n`)
  } catch (error) {
    // Some streams throw, others emit an event.
    onError(error as Error)
  }
}

/** Keeps errors of stdout and stderr from ending the process, also errors of other libraries' writes. */
export function watchOutput(): void {
  process.stdout.on('error', onStdoutError)
  process.stderr.on('error', () => undefined)
}

let hasReported = false

function onStdoutError({ message }: Error): void {
  if (hasReported) return
  hasReported = true
  note(`error: stdout cannot be written (${message})`)
  process.exitCode ||= 1
}

/**
 * Whether escape sequences may be written to a stream: a terminal that has a cursor. NO_COLOR and FORCE_COLOR=0 exclude
 * them; any other FORCE_COLOR overrides NO_COLOR, as in Node.js.
 */
export function acceptsEscapes({ isTTY }: { readonly isTTY?: boolean }): boolean {
  const { FORCE_COLOR: forced, NO_COLOR: none = '', TERM: terminal } = process.env
  if (isTTY !== true || terminal === 'dumb') return false
  return forced === undefined ? none === '' : forced !== '0' && forced !== 'false'
}
