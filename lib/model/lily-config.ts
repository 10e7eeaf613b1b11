/** The configuration of a Lily adapter: the fields of PEFT's LilyConfig in camelCase. */
import { fail } from '../base/errors.js'
import { MAX_EXPERTS, MAX_RANK } from '../base/limits.js'
import { type Known, readChoice, readCount, readFlag, readFloat32, readProperties } from '../base/options.js'
import { checkPool } from '../operations/check-routing.js'
import type { Activation, Pool, Routing } from '../operations/problem.js'
import { ACTIVATIONS, DEFAULT_MODES, POOLS } from '../operations/read.js'
import { readRate } from './dropout.js'
import { type Filled, readTargets, TARGETS, type TargetOptions, type Targets } from './targets.js'

/** A routing that a model is trained with. Frozen layers use 'fixed'. */
export type ModelRouting = Exclude<Routing, 'fixed'>

const MODEL_ROUTINGS: readonly ModelRouting[] = ['batch', 'sequence', 'token', 'uniform', 'learned']

/** Configuration for {@link LilyModel.create}, with the names (in camelCase), defaults and formulas of PEFT's LilyConfig. */
export interface LilyConfigOptions extends TargetOptions {
  /** Rank r, from 1 to 4096. Default 32. */
  readonly r?: number | undefined
  /** Number of consecutive layers of one target that share an A. Default 1. */
  readonly strideA?: number | undefined
  /**
   * Number of experts E, from 2 to 64: the high-dimension projectors B_e that all layers of a target share. Default 2.
   */
  readonly numB?: number | undefined
  /** Factor s on the adapter's output; unlike LoRA's alpha it is not divided by r. Default 1. */
  readonly scaling?: number | undefined
  /**
   * Initialise B to zero, so that a new adapter does not change the output. Default true; false initialises B like A.
   */
  readonly initWeights?: boolean | undefined
  /**
   * Tokens that share one mixture of the experts: 'batch', 'sequence', 'token', 'uniform' or 'learned'; see docs/routing.md.
   * PEFT has no such field, and computes 'batch'. Default 'batch'.
   */
  readonly routing?: ModelRouting | undefined
  /** Pooling statistic of batch and sequence routing. PEFT computes the default. Default 'probabilities'. */
  readonly pool?: Pool | undefined
  /** Function on the hidden state, 'none' or 'relu'. PEFT computes the default. Default 'none'. */
  readonly activation?: Activation | undefined
  /**
   * Probability, from 0 to below 1, with which an element of x counts as zero in a forward call of a model that trains; see
   * {@link AdapterModel.train}. Calls round it to a multiple of 1/65536. PEFT has no such field, and no dropout. Default 0.
   */
  readonly dropout?: number | undefined
}

/** A checked configuration with all defaults filled in, and the fields of {@link LilyConfigOptions}. */
export interface LilyConfig extends Targets, Filled<Omit<LilyConfigOptions, keyof TargetOptions>> {}

const KNOWN: Known = new Set<keyof LilyConfig>([
  'r',
  'strideA',
  'numB',
  'scaling',
  ...TARGETS,
  'initWeights',
  'routing',
  'pool',
  'activation',
  'dropout',
])

/**
 * Checks a configuration and fills in the defaults.
 *
 * @param isStored whether it belongs to an adapter in a file; see {@link readTargets}
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readConfig(options: unknown, isStored = false): LilyConfig {
  const config = readProperties('config', options, KNOWN, (given) => ({
    r: readCount('r', given.r, 32, 1, MAX_RANK),
    strideA: readCount('strideA', given.strideA, 1, 1, Number.MAX_SAFE_INTEGER),
    numB: readCount('numB', given.numB, 2, 2, MAX_EXPERTS),
    scaling: readFloat32('scaling', given.scaling, 1),
    ...readTargets(given, isStored),
    initWeights: readFlag('initWeights', given.initWeights, true),
    routing: readRouting(given.routing),
    pool: readChoice('pool', given.pool, POOLS, DEFAULT_MODES.pool),
    activation: readChoice('activation', given.activation, ACTIVATIONS, DEFAULT_MODES.activation),
    dropout: readRate('dropout', given.dropout),
  }))
  checkPool(config.routing, config.pool)
  return Object.freeze(config)
}

/**
 * Checks that the update of a layer is a matrix.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function checkLinear(argument: string, { activation }: LilyConfig): void {
  if (activation === 'none') return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a model with activation 'none', got '${activation}', with which the update of a layer is no matrix; run ` +
      'forward beside the base layer instead',
  )
}

/** The end of an error about a layer with a router where constant weights are required. Commands read a folder. */
export const FREEZE_FIRST =
  "freeze it first: model.freeze('uniform'), or model.freeze((await model.calibrate(samples)).weights); then " +
  'savePretrained, if a command reads the adapter'

function readRouting(value: unknown): ModelRouting {
  if (value !== 'fixed') return readChoice('routing', value, MODEL_ROUTINGS, DEFAULT_MODES.routing)
  return fail(
    'ERR_LILY_ARGUMENT',
    'routing',
    "expected one of 'batch', 'sequence', 'token', 'uniform', 'learned', got 'fixed', whose weights are no part of a configuration; " +
      'create the model with another routing, and freeze it with the weights',
  )
}
