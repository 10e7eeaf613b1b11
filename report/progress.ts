/** The progress bar. It writes to stderr, because stdout may be redirected to a file. */
import { SingleBar } from 'cli-progress'
import { acceptsEscapes, note } from './print.js'
import { printable } from './printable.js'

export interface Progress {
  /** `share` of the run that is complete when `step` begins. */
  readonly update: (step: string, share: number) => void
  readonly stop: () => void
}

/**
 * A bar in a terminal that accepts escape sequences.
 *
 * @param otherwise called for each step where there is no bar
 */
export function startProgress(otherwise: (step: string) => void): Progress {
  if (!acceptsEscapes(process.stderr)) return { update: (step) => otherwise(printable(step)), stop: () => undefined }
  const bar = new SingleBar({
    stream: process.stderr,
    format: '{bar} {percentage}% | {left} left | {step}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    // A signal may end the process before it can show the cursor, or wrap lines, again. The bar is cut to the width instead.
    hideCursor: false,
    linewrap: true,
    clearOnComplete: true,
    // stop() ends the bar, also after a signal.
    gracefulExit: false,
  })
  const begin = performance.now()
  bar.start(1, 0, { step: '', left: '…' })
  return {
    update: (step, share) => {
      // Estimated from the share: cli-progress uses only the last steps, whose durations differ a lot.
      const left = ((performance.now() - begin) / 1000) * (1 / share - 1)
      bar.update(share, { step: printable(step), left: share > 0.02 ? timeText(left) : '…' })
    },
    stop: () => bar.stop(),
  }
}

/** What {@link startProgress} calls without a bar: it prints a line whenever the text before the colon of a step changes. */
export function noteEachPart(): (step: string) => void {
  let last = ''
  return (step) => {
    const [part] = step.split(':')
    if (part !== last) note(part)
    last = part
  }
}

function timeText(seconds: number): string {
  const whole = Math.round(seconds)
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`
}
