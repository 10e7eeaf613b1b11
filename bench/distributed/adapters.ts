/** What adapters of a decoder exchange, and when backward has completed it. */
import { type Accounting, accountFor, type LayerShape, rankForLora } from '../../lib/index.js'
import type { ParameterShape } from '../../lib/model/layout.js'
import { readConfig } from '../../lib/model/lily-config.js'
import { readLoraConfig } from '../../lib/model/lora-config.js'
import { layOutLora } from '../../lib/model/lora-layout.js'
import { shareLayers } from '../../lib/model/sharing.js'

export const BLOCKS = 32

/** The linear layers of a block of Llama 3 8B: d_in, d_out. */
const LINEAR: Readonly<Record<string, readonly [number, number]>> = {
  'self_attn.q_proj': [4096, 4096],
  'self_attn.k_proj': [4096, 1024],
  'self_attn.v_proj': [4096, 1024],
  'self_attn.o_proj': [4096, 4096],
  'mlp.gate_proj': [4096, 14336],
  'mlp.up_proj': [4096, 14336],
  'mlp.down_proj': [14336, 4096],
}

const layers: readonly LayerShape[] = Array.from({ length: BLOCKS }, (_, block) =>
  Object.entries(LINEAR).map(([name, [inFeatures, outFeatures]]) => {
    return { name: `model.layers.${block}.${name}`, inFeatures, outFeatures }
  }),
).flat()

const targetModules = Object.keys(LINEAR).map((name) => name.split('.')[1])
const LORA_RANK = 16
export const sharing = { strideA: 4, numB: 4 } as const

export interface Adapter {
  readonly title: string
  readonly parameters: number
  /** Bytes of float32 gradients. */
  readonly gradientBytes: number
  /** Bytes of the two moments of AdamW. */
  readonly momentBytes: number
  /** Bytes of gradients by the block whose backward completes them. Backward begins with the last block. */
  readonly readyBytes: readonly number[]
}

/** The gradient of a parameter is complete after the backward of the first layer that uses it. */
function readyBytesOf(parameters: Iterable<ParameterShape>): number[] {
  const bytes = new Array<number>(BLOCKS).fill(0)
  for (const { shape, layers: users } of parameters) {
    const index = layers.findIndex(({ name }) => name === users[0])
    bytes[Math.floor(index / targetModules.length)] += 4 * shape[0] * shape[1]
  }
  return bytes
}

const lily = (title: string, r: number): Adapter & { readonly accounting: Accounting } => {
  const config = { r, ...sharing, targetModules }
  const accounting = accountFor(layers, config)
  return {
    title: `${title}, r ${r}`,
    parameters: accounting.trainable.total,
    gradientBytes: accounting.bytes.gradients,
    momentBytes: accounting.bytes.optimizer,
    readyBytes: readyBytesOf(shareLayers(layers, readConfig(config)).parameters.values()),
    accounting,
  }
}

const lora = (): Adapter => {
  const config = readLoraConfig({ r: LORA_RANK, targetModules })
  const readyBytes = readyBytesOf(layOutLora(layers, config).parameters.values())
  const gradientBytes = readyBytes.reduce((sum, bytes) => sum + bytes)
  const parameters = gradientBytes / 4
  return { title: `LoRA, r ${LORA_RANK}`, parameters, gradientBytes, momentBytes: 8 * parameters, readyBytes }
}

const equalRank = lily('Lily of equal rank', LORA_RANK)
const equalSize = lily('Lily of equal size', rankForLora(layers, { ...sharing, targetModules }, LORA_RANK))

export const adapters: readonly Adapter[] = [lora(), equalSize, equalRank]

/** Elements of the weights of the adapted layers: a backward that skips their gradients takes 2 FLOPs per element and token. */
export const { baseParameters } = equalRank.accounting
