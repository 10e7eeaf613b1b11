/** The configuration of a Lily adapter: the fields of PEFT's LilyConfig in camelCase. */
import { MAX_EXPERTS, MAX_RANK } from '../base/limits.js'
import { type Known, readCount, readFlag, readFloat32, readProperties } from '../base/options.js'
import { readTargets, TARGETS, type TargetOptions, type Targets } from './targets.js'

/** Configuration for {@link LilyModel.create}. Names (in camelCase) and defaults are those of PEFT's LilyConfig. */
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
}

/** A checked configuration with all defaults filled in. The fields are those of {@link LilyConfigOptions}. */
export interface LilyConfig extends Targets {
  /** Rank r, from 1 to 4096. */
  readonly r: number
  /** Number of consecutive layers of one target that share an A. */
  readonly strideA: number
  /** Number of experts E, from 2 to 64. */
  readonly numB: number
  /** Factor s on the adapter's output. */
  readonly scaling: number
  /** Whether B is zero at first. */
  readonly initWeights: boolean
}

const KNOWN: Known = new Set<keyof LilyConfig>(['r', 'strideA', 'numB', 'scaling', ...TARGETS, 'initWeights'])

/**
 * Checks a configuration and fills in the defaults.
 *
 * @param isStored whether it is that of an adapter in a file; see {@link readTargets}
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
  }))
  return Object.freeze(config)
}
