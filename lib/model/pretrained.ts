/** Reads an adapter of either kind, for {@link AdapterModel.fromPretrained}. */
import { loadPretrained, type Pretrained } from '../checkpoint/load.js'
import { LILY } from '../checkpoint/peft-lily.js'
import { LORA } from '../checkpoint/peft-lora.js'
import type { PeftMethod } from '../checkpoint/peft-method.js'
import { setReadPretrained } from './adapter-model.js'
import type { LilyConfig } from './lily-config.js'
import { LilyModel } from './lily-model.js'
import type { LoraConfig } from './lora-config.js'
import { LoraModel } from './lora-model.js'

type AnyConfig = LilyConfig | LoraConfig

// What a method does with a configuration is called with one of its own only.
const METHODS = [LILY, LORA] as unknown as readonly PeftMethod<AnyConfig>[]

/** Gives {@link AdapterModel.fromPretrained} the two classes, once the package is loaded. */
export function registerModels(): void {
  setReadPretrained(async (folder, options) => {
    const read = await loadPretrained(METHODS, folder, options)
    if (read.method.type === 'LORA') return LoraModel.fromParts(read as unknown as Pretrained<LoraConfig>)
    return LilyModel.fromParts(read as unknown as Pretrained<LilyConfig>)
  })
}
