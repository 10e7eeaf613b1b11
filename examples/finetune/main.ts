/**
 * Fine-tunes a pretrained sentence encoder to tell praise from complaints: the head alone, and with LoRA and Lily of the
 * same size. It prints a table, and writes a report and the trained adapters.
 *
 *     npm run example:finetune -- [--routing NAME] [--dropout RATE] [--quick] [--output FOLDER]
 *
 * --routing is that of Lily: batch, sequence (the default), token, uniform or learned. Several, such as --routing
 * sequence,learned, are compared. --dropout drops a share of the inputs of the adapters in training. --quick trains on a tenth of the
 * sentences, to see that everything works: it compares nothing.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { ModelRouting } from 'lily-kernels'
import { accelerate } from 'lily-kernels/tfjs'
import { CommandError, reportFailure } from '../../report/failure.js'
import { interruptSignal, SIGNALS } from '../../report/interrupt.js'
import { note, print, watchOutput } from '../../report/print.js'
import { noteEachPart, startProgress } from '../../report/progress.js'
import { compare, type Plan } from './experiment.js'
import { reportPage } from './report.js'
import { resultsText } from './results.js'

const ROUTINGS: readonly ModelRouting[] = ['batch', 'sequence', 'token', 'uniform', 'learned']

type Size = Omit<Plan, 'routings' | 'dropout'>
const FULL: Size = {
  isQuick: false,
  sentences: 1000,
  epochs: 2,
  seeds: [1, 2, 3],
  loraRank: 4,
  otherRanks: [1, 16],
  curve: { points: 6, sentences: 250 },
}
const QUICK: Size = {
  isQuick: true,
  sentences: 96,
  epochs: 8,
  seeds: [1, 2],
  loraRank: 2,
  otherRanks: [1],
  curve: { points: 2, sentences: 32 },
}

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        routing: { type: 'string', multiple: true, default: ['sequence'] },
        dropout: { type: 'string', default: '0' },
        quick: { type: 'boolean', default: false },
        output: { type: 'string', default: 'build/finetune' },
      },
    })
    return { ...values, routings: readRoutings(values.routing), dropout: readRate(values.dropout) }
  } catch (cause) {
    const options = 'the options are --routing NAME, --dropout RATE, --quick and --output FOLDER'
    throw new CommandError(`${(cause as Error).message}; ${options}`, { cause })
  }
}

/** @param texts names, or several with commas between them */
function readRoutings(texts: readonly string[]): ModelRouting[] {
  const names = texts.flatMap((text) => text.split(',')) as ModelRouting[]
  const unknown = names.find((name) => !ROUTINGS.includes(name))
  if (unknown !== undefined) throw new Error(`--routing: expected some of ${ROUTINGS.join(', ')}, got ${unknown}`)
  return [...new Set(names)]
}

function readRate(text: string): number {
  const rate = text.trim() === '' ? NaN : Number(text)
  if (rate >= 0 && rate < 1) return rate
  throw new Error(`--dropout: expected a number from 0 to less than 1, got ${text}`)
}

async function main(): Promise<void> {
  const { routings, dropout, quick, output } = readOptions()
  await mkdir(output, { recursive: true })
  await tf.setBackend('wasm')
  accelerate()

  const signal = interruptSignal()
  const progress = startProgress(noteEachPart())
  const results = await compare(
    { ...(quick ? QUICK : FULL), routings, dropout },
    output,
    signal,
    progress.update,
  ).finally(progress.stop)
  if (signal.aborted) {
    note('interrupted: the report has the runs that were complete')
    process.exitCode = SIGNALS[signal.reason as keyof typeof SIGNALS]
  }
  if (results.runs.length === 0) return
  print(resultsText(results))
  const file = join(output, 'report.html')
  await writeFile(file, reportPage(results))
  note(`report: ${file}`)
}

watchOutput()
await main().catch(reportFailure)
