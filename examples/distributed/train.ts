/**
 * Trains the classifier of examples/finetune with Lily on the ranks of an MPI job: each rank computes the gradients of its
 * part of a batch, and all take the same step. One process without mpirun is a job of one rank.
 *
 *     mpirun -n 2 node --import tsx examples/distributed/train.ts [--sentences N] [--epochs N] [--output FOLDER] [--json]
 *
 * Rank 0 saves the adapter in the folder, by default build/distributed/adapter. --json prints each step and the results as
 * lines of JSON to stdout.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { createHash } from 'node:crypto'
import { backends, type Distributed } from 'lily-kernels'
import * as mpi from 'lily-kernels/mpi'
import { accelerate, fromTf, toTf } from 'lily-kernels/tfjs'
import { CommandError, reportFailure } from '../../report/failure.js'
import { startProgress } from '../../report/progress.js'
import { note, print, watchOutput } from '../../report/print.js'
import { lengthOf, type Review, shuffled } from '../finetune/batches.js'
import { readReviews } from '../finetune/data.js'
import { loadEncoder } from '../finetune/pretrained.js'
import { accuracyOf, batchesOf, Classifier, gradientsOf, optimiserOf, stepsOf } from '../finetune/train.js'
import { readTrainOptions, type TrainOptions } from './options.js'
import { type Job, jobText, type Line } from './results.js'

const SEED = 1

/** The engine, with a clock. A barrier separates the time of the exchange from the time until the slowest rank is ready. */
class TimedEngine implements Distributed {
  readonly seconds = { waiting: 0, averaging: 0 }

  async averageGradients(...args: Parameters<typeof mpi.averageGradients>): Promise<void> {
    await this.#measure('waiting', mpi.barrier())
    await this.#measure('averaging', mpi.averageGradients(...args))
  }

  async #measure(part: 'waiting' | 'averaging', work: Promise<void>): Promise<void> {
    const begin = performance.now()
    await work
    this.seconds[part] += (performance.now() - begin) / 1000
  }
}

/** Values of rank 0 for the adapter and the head of all ranks. */
async function broadcast({ adapter, variables }: Classifier): Promise<void> {
  if (adapter !== null) await mpi.broadcast(adapter)
  const head = new Map(variables.map((each) => [each.name, { value: fromTf(each), grad: fromTf(tf.zerosLike(each)) }]))
  await mpi.broadcast(head)
  for (const each of variables) each.assign(toTf(head.get(each.name)!.value))
}

/** The gradients of a rank without a sentence. Its weight is 0. */
const noGradients = ({ variables }: Classifier) => ({
  value: tf.scalar(0),
  grads: Object.fromEntries(variables.map((each) => [each.name, tf.zerosLike(each)])),
})

/** The bits of all trained values, in a few characters. */
function hashOf({ adapter, variables }: Classifier): string {
  const hash = createHash('sha256')
  for (const { value } of adapter?.parameters().values() ?? []) hash.update(value.data as Float32Array)
  for (const each of variables) hash.update(each.dataSync())
  return hash.digest('hex')
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

async function main(): Promise<void> {
  const world = await mpi.init()
  try {
    await trainOn(world, readTrainOptions())
  } catch (error) {
    // All ranks have the same wrong option. Any other error of one rank ends the job, which names the rank.
    if (!(error instanceof CommandError)) throw error
    if (world.rank === 0) reportFailure(error)
    process.exitCode = 1
  }
  await mpi.finalize()
}

async function trainOn({ rank, size, library }: mpi.World, options: TrainOptions): Promise<void> {
  const { sentences, epochs, output, json } = options
  await tf.setBackend('wasm')
  accelerate()

  /** Each rank takes every size-th sentence. */
  const ownOf = (reviews: readonly Review[]) => reviews.filter((_, i) => i % size === rank)
  const known = shuffled(await readReviews('amazon', 'yelp'), SEED)
  const [training, heldOut] = [known.slice(0, sentences), known.slice(sentences, 2 * sentences)]
  const steps = stepsOf(training, epochs)
  if (steps < 2) {
    throw new CommandError(
      'expected two steps or more, of which the first is not timed, got one; pass --sentences 33 or more, or --epochs 2 or more',
    )
  }
  if (heldOut.length === 0) {
    throw new CommandError(
      `expected fewer sentences than the ${known.length} that there are, some of which are held out; pass a smaller --sentences`,
    )
  }
  const setup = { method: 'lily', routing: 'sequence', loraRank: 4, seed: SEED, dropout: 0 } as const
  const classifier = Classifier.create(await loadEncoder(), setup)
  await broadcast(classifier)

  const engine = new TimedEngine()
  const optimiser = optimiserOf(classifier, engine)
  const write = (line: Line) => print(JSON.stringify(line))
  const progress = rank === 0 && !json ? startProgress(noteSometimes()) : undefined
  const losses: number[] = []
  let [begin, tokens] = [0, 0]
  for (const { batch, lrScale } of batchesOf(training, epochs, SEED)) {
    const own = ownOf(batch)
    // The padding of the whole batch, so that one rank and several compute with the same matrices.
    const { value, grads } = own.length > 0 ? gradientsOf(classifier, own, lengthOf(batch)) : noGradients(classifier)
    optimiser.lrScale = lrScale
    // The loss is a mean over sentences.
    optimiser.weight = own.length
    await optimiser.applyGradients(grads)
    const parts = await mpi.allGather({ loss: value.dataSync()[0], weight: own.length })
    tf.dispose({ value, grads })

    const loss = sum(parts.map((part) => part.loss * part.weight)) / batch.length
    const step = losses.push(loss)
    progress?.update(`step ${step} of ${steps}: loss ${loss.toFixed(3)}`, step / steps)
    if (rank === 0 && json) write({ step, steps, loss })
    if (step === 1) {
      // The first step compiles, and connects the ranks.
      begin = performance.now()
      engine.seconds.waiting = engine.seconds.averaging = 0
    } else {
      tokens += sum(batch.map((review) => review.tokens.length))
    }
  }
  const seconds = (performance.now() - begin) / 1000
  progress?.stop()
  optimiser.dispose()

  const own = ownOf(heldOut)
  const right = own.length === 0 ? 0 : accuracyOf(classifier.predict(own), own) * own.length
  const ranks = await mpi.allGather({ right, ...engine.seconds, hash: hashOf(classifier) })
  const meanOf = (part: 'waiting' | 'averaging') => sum(ranks.map((each) => each[part])) / size
  if (rank === 0) {
    await classifier.save(output)
    const job: Job = {
      ranks: size,
      library,
      threads: backends()[0].devices[0].threads!,
      losses,
      tokens,
      seconds,
      waiting: meanOf('waiting'),
      averaging: meanOf('averaging'),
      heldOut: sum(ranks.map((each) => each.right)) / heldOut.length,
      isEqual: ranks.every(({ hash }) => hash === ranks[0].hash),
    }
    if (json) write({ job })
    else print(`${jobText(job)}\nadapter: ${output}`)
  }
}

/** mpirun gives its ranks no terminal, so there is no bar: a line at each tenth of the steps. */
function noteSometimes(): (step: string) => void {
  let next = 1
  return (step) => {
    const [, done, of] = /^step (\d+) of (\d+)/.exec(step)!.map(Number)
    if (done < next && done < of) return
    note(step)
    next = done + of / 10
  }
}

watchOutput()
await main()
