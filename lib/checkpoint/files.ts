/** The files of an adapter's folder. */

/** Says what the adapter is. */
export const CONFIG_FILE = 'adapter_config.json'

/** Tensors as PEFT stores them: shared ones once per layer. */
export const PEFT_FILE = 'adapter_model.safetensors'

/** Shared tensors once. PEFT does not know this name, and so reports that weights are missing, not that some are. */
export const COMPACT_FILE = 'adapter_model.compact.safetensors'

/** What PEFT's files have no place for: the weights that layers are frozen with. PEFT ignores it. */
export const FROZEN_FILE = 'adapter_frozen.json'
