/** The progress bar, on standard error: standard output may be a file. */
import { SingleBar } from 'cli-progress'

export interface Progress {
  readonly update: (what: string, share: number) => void
  readonly stop: () => void
}

/** A bar in a terminal; elsewhere, in a log, a line for each thing that is measured. */
export function startProgress(): Progress {
  if (!process.stderr.isTTY) return { update: (what) => console.error(`measuring ${what}`), stop: () => undefined }
  const bar = new SingleBar({
    stream: process.stderr,
    format: '{bar} {percentage}% | {left} left | {what}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    clearOnComplete: true,
    linewrap: false,
    // The run ends by its signal, and this bar by stop().
    gracefulExit: false,
  })
  const begin = performance.now()
  bar.start(1, 0, { what: '', left: '…' })
  return {
    update: (what, share) => {
      // Of the whole run so far: the bar's own estimate looks at the last steps alone, which differ a lot.
      const left = ((performance.now() - begin) / 1000) * (1 / share - 1)
      bar.update(share, { what, left: share > 0.02 ? timeText(left) : '…' })
    },
    stop: () => bar.stop(),
  }
}

function timeText(seconds: number): string {
  const whole = Math.round(seconds)
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`
}
