/** The options of the programs. */
import { parseArgs } from 'node:util'
import { CommandError } from '../../report/failure.js'

const SIZES = { sentences: { type: 'string', default: '1000' }, epochs: { type: 'string', default: '2' } } as const

/** Those of a job. */
export type TrainOptions = ReturnType<typeof readTrainOptions>

export function readTrainOptions() {
  const output = { type: 'string', default: 'build/distributed/adapter' } as const
  const json = { type: 'boolean', default: false } as const
  return read('--sentences N, --epochs N, --output FOLDER and --json', () => {
    const { values } = parseArgs({ options: { ...SIZES, output, json } })
    return { ...values, ...readSizes(values) }
  })
}

/** Those of the comparison of several jobs. */
export function readOptions() {
  const output = { type: 'string', default: 'build/distributed' } as const
  const ranks = { type: 'string', default: '1,2,4' } as const
  const mpirun = { type: 'string' } as const
  return read('--ranks N,N,..., --sentences N, --epochs N, --mpirun PROGRAM and --output FOLDER', () => {
    const { values } = parseArgs({ options: { ...SIZES, ranks, mpirun, output } })
    const sizes = values.ranks.split(',').map((text) => readCount('ranks', text))
    return { ...values, ...readSizes(values), ranks: [...new Set(sizes)] }
  })
}

function read<T>(names: string, parse: () => T): T {
  try {
    return parse()
  } catch (cause) {
    throw new CommandError(`${(cause as Error).message}; the options are ${names}`, { cause })
  }
}

const readSizes = (values: { readonly sentences: string; readonly epochs: string }) => ({
  sentences: readCount('sentences', values.sentences),
  epochs: readCount('epochs', values.epochs),
})

function readCount(name: string, text: string): number {
  const count = text.trim() === '' ? NaN : Number(text)
  if (Number.isInteger(count) && count > 0) return count
  throw new Error(`--${name}: expected a whole number from 1, got ${text}`)
}
