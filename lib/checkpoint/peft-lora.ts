/** PEFT's LoraConfig and the tensors of a LoRA adapter. Every field is honoured, refused or ignored for a reason. */
import { type LoraConfig, readLoraConfig } from '../model/lora-config.js'
import { layOutLora, LORA_SUFFIX, ranksOf } from '../model/lora-layout.js'
import { quoteAny } from './errors.js'
import type { Fields, PeftMethod } from './peft-method.js'

/** Fields that have no effect on what the adapter computes here. */
const IGNORED = [
  // Parameters of initialisations. What they led to is in the tensors; init_lora_weights tells which one it was.
  'loftq_config',
  'eva_config',
  'corda_config',
  'lora_ga_config',
  // These have an effect only together with a field that is refused.
  'megatron_core',
  'qalora_group_size',
  // Ties the adapter of an embedding, or modules_to_save. The former is refused by its tensors.
  'ensure_weight_tying',
  // Where PEFT computes the initial values of DoRA. Newer versions do not save it.
  'runtime_config',
] as const

/** Fields that change what the adapter computes or what it consists of, and what they are for. */
const VARIANTS: Readonly<Record<string, string>> = {
  use_dora: 'DoRA',
  lora_bias: 'a bias beside B',
  use_qalora: 'QA-LoRA',
  use_bdlora: 'BD-LoRA, with matrices of blocks',
  alora_invocation_tokens: 'aLoRA, which depends on the tokens',
  arrow_config: 'Arrow, which routes between adapters',
  kasa_config: 'KaSA, which changes the base weights',
  velora_config: 'VeLoRA, with other gradients',
  monteclora_config: 'MonteCLoRA, with random weights',
  layer_replication: 'replication of layers',
  megatron_config: 'parallel layers of Megatron',
  target_parameters: 'adapters of parameters outside linear layers',
  trainable_token_indices: 'trained rows of an embedding',
}

/**
 * Initialisations that leave the base weights as they are, and that train as usual. The others change the base weights
 * (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ), to which the adapter then belongs, or freeze B (MiCA).
 */
const INITIALISATIONS: readonly unknown[] = [true, false, 'gaussian', 'eva', 'orthogonal']

/** Initialisations whose adapters PEFT converts to such that belong to the weights before. */
const CONVERTED = /^(?:pissa|olora$|corda|lora_ga$)/

export const LORA: PeftMethod<LoraConfig> = {
  type: 'LORA',
  name: 'LoRA',
  fields: {
    r: 'r',
    loraAlpha: 'lora_alpha',
    useRslora: 'use_rslora',
    rankPattern: 'rank_pattern',
    alphaPattern: 'alpha_pattern',
    fanInFanOut: 'fan_in_fan_out',
    targetModules: 'target_modules',
    excludeModules: 'exclude_modules',
    layersToTransform: 'layers_to_transform',
    layersPattern: 'layers_pattern',
    initLoraWeights: 'init_lora_weights',
    loraDropout: 'lora_dropout',
  },
  extensions: {},
  readConfig: readLoraConfig,
  accepted: new Set([...IGNORED, ...Object.keys(VARIANTS), 'bias']),
  refusal,
  notForPeft: () => null,
  // The result of the other initialisations is in the tensors.
  toOption: (field, value) => {
    if (field !== 'init_lora_weights' || typeof value !== 'string') return value
    return value.toLowerCase() === 'gaussian' ? 'gaussian' : true
  },
  constants: { bias: 'none', use_dora: false },
  suffixes: LORA_SUFFIX,
  marker: 'lora_',
  variantOf,
  shapes: (config) => {
    const rankOf = ranksOf(config)
    return (layer) => {
      const other = rankOf(layer)
      return { a: { axis: 1, other }, b: { axis: 0, other } }
    }
  },
  layOut: layOutLora,
  isShared: false,
}

function refusal(fields: Fields): readonly [string, string] | null {
  for (const [name, variant] of Object.entries(VARIANTS)) {
    const value = fields[name]
    if (!isOff(name, value))
      return [name, `expected null or false, got ${quoteAny(value)}: ${variant} is not supported`]
  }
  const { bias = 'none', init_lora_weights: initialisation = true } = fields
  if (bias !== 'none' && bias !== null) {
    return ['bias', `expected 'none', got ${quoteAny(bias)}: trained biases of base layers are not supported`]
  }
  const known = typeof initialisation === 'string' ? initialisation.toLowerCase() : initialisation
  if (initialisation === null || INITIALISATIONS.includes(known)) return null
  return [
    'init_lora_weights',
    `expected true, false, 'gaussian', 'eva' or 'orthogonal', got ${quoteAny(initialisation)}: ${whyNot(known)}`,
  ]
}

/** Why an initialisation is refused, and what to do. */
function whyNot(initialisation: unknown): string {
  const belongs = 'the adapter may belong to other base weights'
  if (typeof initialisation !== 'string') return belongs
  if (initialisation === 'mica')
    return 'such adapters train otherwise, with B frozen; set it to true, and do not train B'
  if (initialisation === 'loftq') return `${belongs}, those that LoftQ has quantized; merge it into these with PEFT`
  if (!CONVERTED.test(initialisation)) return `${belongs}, or train otherwise`
  return `${belongs}; convert it with PEFT's path_initial_model_for_weight_conversion`
}

/** Fields for which PEFT takes an empty object as the defaults. */
const HAVE_DEFAULTS = ['kasa_config', 'velora_config', 'monteclora_config']

function isOff(name: string, value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true
  if (HAVE_DEFAULTS.includes(name)) return false
  return typeof value === 'object' && Object.keys(value).length === 0
}

function variantOf(key: string): string | null {
  if (/\.lora_magnitude_vector(?:\.|$)/.test(key)) return 'DoRA'
  if (/\.lora_embedding_[AB](?:\.|$)/.test(key)) return 'the adapter of an embedding'
  if (/\.lora_B\.bias$/.test(key)) return 'a bias beside B'
  return null
}
