/** The files of an adapter's folder. */

/** The configuration. */
export const CONFIG_FILE = 'adapter_config.json'

/** The tensors in PEFT's format: a shared parameter is stored once per layer. */
export const PEFT_FILE = 'adapter_model.safetensors'

/**
 * The tensors in the compact format: a shared parameter is stored once. PEFT does not know this file name, so loading
 * such a folder with PEFT fails with "no weights found" instead of loading a part of them.
 */
export const COMPACT_FILE = 'adapter_model.compact.safetensors'

/**
 * The tensors as older versions of PEFT have saved them. PEFT loads this file where the folder has no
 * adapter_model.safetensors.
 */
export const PICKLE_FILE = 'adapter_model.bin'

/** The weights that layers are frozen with, which PEFT's files cannot hold. PEFT ignores this file. */
export const FROZEN_FILE = 'adapter_frozen.json'

/** The state of the optimiser that trains the adapter. PEFT ignores this file. */
export const OPTIMISER_FILE = 'optimiser.safetensors'
