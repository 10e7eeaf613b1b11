/** PEFT's adapter_config.json. */
import { isUtf8 } from 'node:buffer'
import { readFile, stat } from 'node:fs/promises'
import { describe, LilyError } from '../base/errors.js'
import { type LilyConfig, readConfig } from '../model/config.js'
import type { LilyModel } from '../model/model.js'
import { checkpointError, DAMAGED, fileSystemError, quote, quoteSome } from './errors.js'
import { isObject, parseJson } from './json.js'

/** A file of this name in an adapter's folder says what the adapter is. */
export const CONFIG_FILE = 'adapter_config.json'

/** PEFT's names of what a LilyConfig has. */
const FIELDS: Readonly<Record<keyof LilyConfig, string>> = {
  r: 'r',
  strideA: 'stride_A',
  numB: 'num_B',
  scaling: 'scaling',
  targetModules: 'target_modules',
  excludeModules: 'exclude_modules',
  layersToTransform: 'layers_to_transform',
  layersPattern: 'layers_pattern',
  initWeights: 'init_weights',
}

/** Fields that say nothing about what the adapter computes: PEFT's value of them in a new file. */
const DESCRIPTION = {
  auto_mapping: null,
  base_model_name_or_path: null,
  inference_mode: true,
  modules_to_save: null,
  peft_version: null,
  revision: null,
  task_type: null,
}

const KNOWN: ReadonlySet<string> = new Set([...Object.values(FIELDS), ...Object.keys(DESCRIPTION), 'peft_type'])

/** Names of all the modules of a large model take less. */
const MAX_BYTES = 16 * 1024 * 1024

/** No field is deeper: auto_mapping is an object. Other tuners nest a little more, and are named in an error. */
const MAX_DEPTH = 8

export interface AdapterConfig {
  readonly config: LilyConfig
  /** The file, to be written again as it was. */
  readonly text: string
  readonly fields: Readonly<Record<string, unknown>>
}

/**
 * Reads an adapter_config.json.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT, which names the field
 */
export async function readAdapterConfig(path: string): Promise<AdapterConfig> {
  const text = await readText(path)
  const fields = parseJson(path, 'the configuration', text, MAX_DEPTH)
  if (!isObject(fields)) throw checkpointError(path, 'expected a JSON object; save the adapter with PEFT again')
  checkFields(path, fields)
  return { config: toConfig(path, fields), text, fields }
}

async function readText(path: string): Promise<string> {
  try {
    const stats = await stat(path)
    if (!stats.isFile() || stats.size > MAX_BYTES) {
      throw checkpointError(path, `expected a file of at most ${MAX_BYTES} bytes, got ${stats.size}; ${DAMAGED}`)
    }
    const bytes = await readFile(path)
    if (isUtf8(bytes)) return bytes.toString('utf8')
    throw checkpointError(path, `the configuration is not UTF-8; ${DAMAGED}`)
  } catch (cause) {
    throw fileSystemError(path, 'cannot be read', cause)
  }
}

/** Fields that are not known may change what the adapter computes, unless they are off. */
function checkFields(path: string, fields: Readonly<Record<string, unknown>>): void {
  const type = fields.peft_type
  if (type !== 'LILY') {
    const got = typeof type === 'string' ? quote(type) : describe(type)
    throw checkpointError(path, `expected peft_type 'LILY', got ${got}; only Lily adapters can be loaded`)
  }
  const unknown = Object.keys(fields).filter(
    (name) => !KNOWN.has(name) && fields[name] !== null && fields[name] !== false,
  )
  if (unknown.length > 0) {
    throw checkpointError(
      path,
      `expected the fields of PEFT's LilyConfig, got also ${quoteSome(unknown)}, which may change what the ` +
        `adapter computes; remove what does not`,
    )
  }
}

function toConfig(path: string, fields: Readonly<Record<string, unknown>>): LilyConfig {
  const names = Object.entries(FIELDS)
  try {
    return readConfig(
      Object.fromEntries(
        names.filter(([, field]) => isSet(fields[field])).map(([name, field]) => [name, fields[field]]),
      ),
    )
  } catch (cause) {
    if (!(cause instanceof LilyError) || cause.argument === undefined) throw cause
    const { argument, message } = cause
    const field = Object.hasOwn(FIELDS, argument) ? FIELDS[argument as keyof LilyConfig] : argument
    throw checkpointError(
      path,
      message.replace(argument, () => field),
      cause,
    )
  }
}

/** To PEFT an empty list is none. */
function isSet(value: unknown): boolean {
  return value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0)
}

/** An adapter_config.json as PEFT writes it, for a model that comes from none. */
export function writeAdapterConfig(model: LilyModel): string {
  const fields = Object.entries(FIELDS).map(([name, field]) => [field, model.config[name as keyof LilyConfig]])
  return toText({
    ...DESCRIPTION,
    ...(Object.fromEntries(fields) as object),
    peft_type: 'LILY',
    target_modules: targetsOf(model),
  })
}

/** The configuration of LoRA on the same layers. With alpha = scaling * r PEFT's scaling, alpha / r, is Lily's. */
export function writeLoraConfig(model: LilyModel): string {
  const description = Object.keys(DESCRIPTION).map((name) => [name, model.adapterConfig?.[name] ?? null])
  const { r, scaling, excludeModules, layersToTransform, layersPattern } = model.config
  return toText({
    ...(Object.fromEntries(description) as object),
    bias: 'none',
    exclude_modules: excludeModules,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: layersPattern,
    layers_to_transform: layersToTransform,
    lora_alpha: scaling * r,
    lora_dropout: 0,
    peft_type: 'LORA',
    r,
    target_modules: targetsOf(model),
    use_dora: false,
    use_rslora: false,
  })
}

/** PEFT has no name for "all the layers given": their last parts name them. */
function targetsOf({ config, layers }: LilyModel): readonly string[] | string {
  return config.targetModules ?? [...new Set(Array.from(layers.values(), ({ shape }) => shape.target))].sort()
}

/** As Python's json.dumps with sorted keys: ASCII, no newline at the end. */
function toText(fields: object): string {
  const sorted = Object.fromEntries(Object.entries(fields).sort(([left], [right]) => (left < right ? -1 : 1)))
  const escape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return JSON.stringify(sorted, null, 2).replace(/[\u007f-\uffff]/g, escape)
}
