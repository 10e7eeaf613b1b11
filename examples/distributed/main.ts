/**
 * Trains on 1, 2 and 4 ranks of this machine, compares the losses, and writes a page.
 *
 *     npm run example:distributed -- [--ranks N,N,...] [--sentences N] [--epochs N] [--mpirun PROGRAM] [--output FOLDER]
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { backends } from 'lily-kernels'
import { reportFailure } from '../../report/failure.js'
import { interruptSignal, SIGNALS } from '../../report/interrupt.js'
import { note, print, watchOutput } from '../../report/print.js'
import { printableLines } from '../../report/printable.js'
import { noteEachPart, startProgress } from '../../report/progress.js'
import { findLauncher, JobError, runJob } from './launcher.js'
import { readOptions } from './options.js'
import { reportPage } from './report.js'
import { type Results, resultsText } from './results.js'

async function main(): Promise<void> {
  const { ranks, sentences, epochs, mpirun, output } = readOptions()
  const launcher = findLauncher(mpirun)
  await mkdir(output, { recursive: true })
  const [{ name, simd, threads: cores = 1 }] = backends()[0].devices
  const results: Results = {
    sentences,
    epochs,
    machine: `${name}, instruction set ${simd}, ${cores} threads; Node.js ${process.version}`,
    jobs: [],
  }

  const signal = interruptSignal()
  const progress = startProgress(noteEachPart())
  try {
    for (const [i, size] of ranks.entries()) {
      const name = `${size} ${size === 1 ? 'rank' : 'ranks'}`
      progress.update(`${name}: starting`, i / ranks.length)
      const job = await runJob(launcher, {
        ranks: size,
        threads: Math.max(1, Math.floor(cores / size)),
        options: [
          ...['--sentences', String(sentences)],
          ...['--epochs', String(epochs)],
          ...['--output', join(output, `adapter-of-${size}`)],
        ],
        signal,
        onStep: ({ step, steps, loss }) =>
          progress.update(
            `${name}: step ${step} of ${steps}, loss ${loss.toFixed(3)}`,
            (i + step / steps) / ranks.length,
          ),
      })
      results.jobs.push(job)
    }
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    progress.stop()
  }
  if (signal.aborted) {
    note(results.jobs.length > 0 ? 'interrupted: the page has the jobs that were complete' : 'interrupted')
    process.exitCode = SIGNALS[signal.reason as keyof typeof SIGNALS]
  }
  if (results.jobs.length === 0) return
  print(resultsText(results))
  const file = join(output, 'report.html')
  await writeFile(file, reportPage(results))
  note(`report: ${file}`)
}

watchOutput()
await main().catch((error: unknown) => {
  if (error instanceof JobError) note(printableLines(error.messages))
  reportFailure(error)
})
