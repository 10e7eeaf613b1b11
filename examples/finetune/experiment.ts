/** Trains the head alone, LoRA and Lily on the same sentences, and evaluates them. */
import { analyse, LilyModel, LoraModel, type ModelRouting } from 'lily-kernels'
import { join } from 'node:path'
import { type Review, shuffled } from './batches.js'
import { readReviews } from './data.js'
import { loadEncoder } from './pretrained.js'
import { nameOf, type Reload, type Results, type Run } from './results.js'
import { accuracyOf, Classifier, type Setup, stepsOf, train, type Variant } from './train.js'

export interface Plan {
  /** Too small to compare methods: what is learnt shows on the training sentences. */
  readonly isQuick: boolean
  /** Sentences to train on; as many others are held out, and as many are of the other domain. */
  readonly sentences: number
  readonly epochs: number
  readonly seeds: readonly number[]
  /** Those of Lily. */
  readonly routings: readonly ModelRouting[]
  readonly dropout: number
  /** The size that all seeds have: as many parameters as LoRA of this rank. */
  readonly loraRank: number
  /** Sizes of the first seed, and of the first routing, only. */
  readonly otherRanks: readonly number[]
  /** How often the accuracy is measured during training, on how many of the held-out sentences. */
  readonly curve: { readonly points: number; readonly sentences: number }
}

/** Held-out sentences on which the routers are analysed. */
const ANALYSED_SENTENCES = 100

/** One seed after the other: after an interrupt all methods have the same seeds, or nearly so. */
function setupsOf({ seeds, routings, dropout, loraRank, otherRanks }: Plan): Setup[] {
  const [head, lora]: Variant[] = [{ method: 'head' }, { method: 'lora' }]
  const lily = routings.map((routing): Variant => ({ method: 'lily', routing }))
  return [
    ...seeds.flatMap((seed) => [head, lora, ...lily].map((variant) => ({ ...variant, dropout, loraRank, seed }))),
    ...otherRanks.flatMap((rank) =>
      [lora, lily[0]].map((variant) => ({ ...variant, dropout, loraRank: rank, seed: seeds[0] })),
    ),
  ]
}

interface Sentences {
  readonly training: readonly Review[]
  readonly heldOut: readonly Review[]
  readonly otherDomain: readonly Review[]
}

/** Reviews of products and restaurants, divided by the seed; those of films are the other domain. */
async function readSentences(count: number): Promise<(seed: number) => Sentences> {
  const known = await readReviews('amazon', 'yelp')
  const otherDomain = (await readReviews('imdb')).slice(0, count)
  return (seed) => {
    const order = shuffled(known, seed)
    return { training: order.slice(0, count), heldOut: order.slice(count, 2 * count), otherDomain }
  }
}

/**
 * Runs the comparison. An abort ends it after the current step; the result has the runs that are complete.
 *
 * @param folder for the adapters of the first seed
 * @param onProgress called with what runs, and the share of the whole that is done
 */
export async function compare(
  plan: Plan,
  folder: string,
  signal: AbortSignal,
  onProgress: (step: string, share: number) => void,
): Promise<Results> {
  const begin = performance.now()
  const encoder = await loadEncoder()
  const sentencesOf = await readSentences(plan.sentences)
  const { training, heldOut, otherDomain } = sentencesOf(plan.seeds[0])
  const sentences = {
    training: training.length,
    heldOut: heldOut.length,
    curve: plan.curve.sentences,
    otherDomain: otherDomain.length,
  }
  const { isQuick, epochs, routings, dropout, loraRank } = plan
  const results: Results = {
    isQuick,
    sentences,
    epochs,
    routings,
    dropout,
    loraRank,
    runs: [],
    reloads: [],
    analyses: { lily: {} },
    seconds: 0,
    isComplete: false,
  }

  const setups = setupsOf(plan)
  // Without an adapter the embeddings are computed once for all epochs and seeds.
  const costOf = ({ method }: Setup) => (method === 'head' ? 0.1 : 1)
  const cost = setups.reduce((sum, setup) => sum + costOf(setup), 0)
  let done = 0
  try {
    for (const setup of setups) {
      const name = `${nameOf(setup)}, rank ${setup.loraRank}, seed ${setup.seed}`
      const classifier = Classifier.create(encoder, setup)
      const onStep = (loss: number, share: number) =>
        onProgress(`${name}: loss ${loss.toFixed(3)}`, (done + share * costOf(setup)) / cost)
      results.runs.push(await runOf(classifier, setup, sentencesOf(setup.seed), { plan, signal, onStep }))
      if (setup.seed === plan.seeds[0] && setup.loraRank === loraRank) {
        await keep(classifier, setup, heldOut, folder, results)
      }
      classifier.dispose()
      done += costOf(setup)
    }
    results.isComplete = true
  } catch (error) {
    if (!signal.aborted) throw error
  }
  results.seconds = (performance.now() - begin) / 1000
  return results
}

interface RunOptions {
  readonly plan: Plan
  readonly signal: AbortSignal
  readonly onStep: (loss: number, share: number) => void
}

async function runOf(
  classifier: Classifier,
  setup: Setup,
  { training, heldOut, otherDomain }: Sentences,
  {
    plan: {
      isQuick,
      epochs,
      curve: { points, sentences },
    },
    signal,
    onStep,
  }: RunOptions,
): Promise<Run> {
  const losses: number[] = []
  const curve: { step: number; accuracy: number }[] = []
  const someHeldOut = heldOut.slice(0, sentences)
  const steps = stepsOf(training, epochs)
  const pointsUntil = (step: number) => Math.floor((step * points) / steps)
  await train(classifier, training, {
    epochs,
    seed: setup.seed,
    signal,
    onStep: (loss) => {
      const step = losses.push(loss)
      onStep(loss, step / steps)
      if (pointsUntil(step) > pointsUntil(step - 1)) {
        curve.push({ step, accuracy: accuracyOf(classifier.predict(someHeldOut), someHeldOut) })
      }
    },
  })
  return {
    ...setup,
    parameters: classifier.parameters,
    losses,
    curve,
    training: isQuick ? accuracyOf(classifier.predict(training), training) : null,
    heldOut: accuracyOf(classifier.predict(heldOut), heldOut),
    otherDomain: accuracyOf(classifier.predict(otherDomain), otherDomain),
    seconds: classifier.clock.seconds,
  }
}

/** Saves a trained adapter, compares it with what is loaded, and analyses it. */
async function keep(
  classifier: Classifier,
  { method, routing }: Setup,
  heldOut: readonly Review[],
  folder: string,
  { reloads, analyses }: Results,
): Promise<void> {
  const { adapter } = classifier
  if (method === 'head' || adapter === null) return
  const path = join(folder, routing === undefined ? method : `${method}-${routing}`)
  await classifier.save(path)
  const loaded = await Classifier.load(classifier.encoder, path)
  reloads.push(reloadOf({ method, routing }, classifier.predict(heldOut), loaded.predict(heldOut), heldOut))
  loaded.dispose()

  if (adapter instanceof LilyModel) {
    const hasRouter = routing !== 'uniform' && routing !== 'learned'
    const samples = hasRouter ? classifier.inputs(heldOut.slice(0, ANALYSED_SENTENCES)) : undefined
    analyses.lily[adapter.config.routing] = await analyse(adapter, { samples })
  }
  if (adapter instanceof LoraModel) analyses.lora = await analyse(adapter)
}

function reloadOf(variant: Variant, before: Float32Array, after: Float32Array, heldOut: readonly Review[]): Reload {
  return {
    ...variant,
    heldOutBefore: accuracyOf(before, heldOut),
    heldOut: accuracyOf(after, heldOut),
    isEqual: before.every((logit, i) => Object.is(logit, after[i])),
  }
}
