/** PEFT's LilyConfig and the tensors of a Lily adapter. */
import { type LilyConfig, readConfig } from '../model/lily-config.js'
import { LILY_SUFFIX, shareLayers } from '../model/sharing.js'
import { DEFAULT_MODES } from '../operations/read.js'
import type { PeftMethod } from './peft-method.js'

export const LILY: PeftMethod<LilyConfig> = {
  type: 'LILY',
  name: 'Lily',
  fields: {
    r: 'r',
    strideA: 'stride_A',
    numB: 'num_B',
    scaling: 'scaling',
    targetModules: 'target_modules',
    excludeModules: 'exclude_modules',
    layersToTransform: 'layers_to_transform',
    layersPattern: 'layers_pattern',
    initWeights: 'init_weights',
    routing: 'lily_routing',
    pool: 'lily_pool',
    activation: 'lily_activation',
    dropout: 'lily_dropout',
  },
  extensions: { ...DEFAULT_MODES, dropout: 0 },
  readConfig,
  accepted: new Set(),
  refusal: () => null,
  notForPeft: ({ routing }) =>
    routing === 'learned'
      ? "expected routers, as PEFT has, got routing 'learned'; export the adapter as LoRA with saveLora, which is exact, or " +
        "save it in the format 'compact'"
      : null,
  toOption: (_, value) => value,
  constants: {},
  suffixes: LILY_SUFFIX,
  marker: 'lily_',
  variantOf: () => null,
  shapes:
    ({ r, numB }) =>
    () => ({ a: { axis: 1, other: r }, b: { axis: 1, other: numB * r } }),
  layOut: shareLayers,
  isShared: true,
}
