/** A frozen linear layer on a device, once by itself and once in a graph; a module for child processes. */
import { captureGraph, LilyError, linearForward, tensor } from '../../lib/index.js'
import { pack } from './dtypes.js'
import { answer } from './fork.js'
import { gaussian, randomFrom } from './random.js'

export interface GraphJob {
  readonly tokens: number
  readonly dIn: number
  readonly dOut: number
  readonly replays: number
}

export interface GraphReport {
  /** y of the call by itself. */
  readonly first: Uint16Array
  /** y after each replay. */
  readonly replays: readonly Uint16Array[]
  /** Code and message, instead of results. */
  readonly error?: string
}

answer(async ({ tokens, dIn, dOut, replays }: GraphJob): Promise<GraphReport> => {
  const random = randomFrom(1)
  const place = (rows: number, columns: number) =>
    tensor(pack('bfloat16', gaussian(random, rows * columns)), [rows, columns], 'bfloat16').to({ type: 'cuda', id: 0 })
  const [x, weight, y] = [place(tokens, dIn), place(dOut, dIn), place(tokens, dOut)]
  const contents = async () => Uint16Array.from((await y.toHost()).data as Uint16Array)
  const call = () => {
    linearForward({ x, weight, y }, { accumulate: false })
  }
  try {
    call()
    const first = await contents()
    const graph = captureGraph(call)
    const results: Uint16Array[] = []
    for (let replay = 0; replay < replays; replay++) {
      graph.replay()
      results.push(await contents())
    }
    graph.dispose()
    return { first, replays: results }
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    return { first: new Uint16Array(), replays: [], error: `${error.code}: ${error.message}` }
  }
})
