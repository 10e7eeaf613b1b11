/** The configuration of a LoRA adapter: the fields of PEFT's LoraConfig in camelCase. */
import { describe, fail } from '../base/errors.js'
import { MAX_RANK } from '../base/limits.js'
import {
  checkCount,
  checkFloat32,
  type Known,
  readCount,
  readFlag,
  readFloat32,
  readProperties,
} from '../base/options.js'
import { readRate } from './dropout.js'
import { type PatternValues, readPatternValues } from './pattern-values.js'
import { type Filled, readTargets, TARGETS, type TargetOptions, type Targets } from './targets.js'

/** Initial values of LoRA: PEFT's names of those that this package draws. */
export type InitLoraWeights = boolean | 'gaussian'

/** Configuration for {@link LoraModel.create}, with the names (in camelCase) and defaults of PEFT's LoraConfig. */
export interface LoraConfigOptions extends TargetOptions {
  /** Rank r, from 1 to 4096. Default 8. */
  readonly r?: number | undefined
  /** Alpha: the factor on the adapter's output is alpha / r, or alpha / sqrt(r) with `useRslora`. Default 8. */
  readonly loraAlpha?: number | undefined
  /** Rank-stabilised LoRA (arXiv 2312.03732): divide alpha by sqrt(r). Default false. */
  readonly useRslora?: boolean | undefined
  /**
   * Ranks of layers that have another one, by patterns: names, ends of names, or regular expressions for ends of names,
   * from a dot on. The first pattern that matches counts.
   */
  readonly rankPattern?: PatternValues | ReadonlyMap<string, number> | null | undefined
  /** Alphas of layers that have another one, likewise. */
  readonly alphaPattern?: PatternValues | ReadonlyMap<string, number> | null | undefined
  /**
   * Whether the base layers store their weights as [d_in, d_out], as GPT-2's do. Only `merge` and `unmerge` depend on it.
   * Default false.
   */
  readonly fanInFanOut?: boolean | undefined
  /**
   * Initial values. True: A is uniform as in torch.nn.Linear, and B is zero, so that a new adapter does not change the
   * output. 'gaussian': A is normal with the standard deviation 1/r, and B is zero. False: both are as in torch.nn.Linear.
   * Default true.
   */
  readonly initLoraWeights?: InitLoraWeights | undefined
  /**
   * Probability, from 0 to below 1, with which an element of x counts as zero in a forward call of a model that trains; see
   * {@link AdapterModel.train}. Calls round it to a multiple of 1/65536. Default 0.
   */
  readonly loraDropout?: number | undefined
}

/** A checked configuration with all defaults filled in, and the fields of {@link LoraConfigOptions}. */
export interface LoraConfig extends Targets, Filled<Omit<LoraConfigOptions, keyof TargetOptions>> {
  /** Ranks by patterns of names. */
  readonly rankPattern: PatternValues
  /** Alphas by patterns of names. */
  readonly alphaPattern: PatternValues
}

const KNOWN: Known = new Set<keyof LoraConfig>([
  'r',
  'loraAlpha',
  'useRslora',
  'rankPattern',
  'alphaPattern',
  'fanInFanOut',
  ...TARGETS,
  'initLoraWeights',
  'loraDropout',
])

/**
 * Checks a configuration and fills in the defaults.
 *
 * @param isStored whether it belongs to an adapter in a file; see {@link readTargets}
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readLoraConfig(options: unknown, isStored = false): LoraConfig {
  const config = readProperties('config', options, KNOWN, (given) => ({
    r: readCount('r', given.r, 8, 1, MAX_RANK),
    loraAlpha: readFloat32('loraAlpha', given.loraAlpha, 8),
    useRslora: readFlag('useRslora', given.useRslora, false),
    rankPattern: readPatternValues(given, 'rankPattern', (argument, value) => checkCount(argument, value, 1, MAX_RANK)),
    alphaPattern: readPatternValues(given, 'alphaPattern', checkFloat32),
    fanInFanOut: readFlag('fanInFanOut', given.fanInFanOut, false),
    ...readTargets(given, isStored),
    initLoraWeights: readInitLoraWeights(given.initLoraWeights),
    loraDropout: readRate('loraDropout', given.loraDropout),
  }))
  return Object.freeze(config)
}

function readInitLoraWeights(value: unknown): InitLoraWeights {
  if (value === undefined) return true
  if (typeof value === 'boolean' || value === 'gaussian') return value
  return fail('ERR_LILY_ARGUMENT', 'initLoraWeights', `expected a boolean or 'gaussian', got ${describe(value)}`)
}
