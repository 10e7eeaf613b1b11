/** Reads and writes PEFT's adapter_config.json. */
import { describe, LilyError } from '../base/errors.js'
import { type LilyConfig, readConfig } from '../model/lily-config.js'
import type { LilyModel } from '../model/lily-model.js'
import { checkpointError, quote, quoteSome } from './errors.js'
import { isObject, parseJson } from './json.js'
import { readText } from './read-text.js'

/** PEFT's names of the fields of a LilyConfig. */
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

/** Fields that do not affect what the adapter computes, with PEFT's default values. */
const DESCRIPTION = {
  auto_mapping: null,
  base_model_name_or_path: null,
  inference_mode: true,
  modules_to_save: null,
  peft_version: null,
  revision: null,
  task_type: null,
}

/** Fields of PEFT's LilyConfig. */
const KNOWN: ReadonlySet<string> = new Set([...Object.values(FIELDS), ...Object.keys(DESCRIPTION), 'peft_type'])

/**
 * Limit of the nesting depth of objects and arrays. LilyConfig has two levels (auto_mapping is an object); the limit is
 * larger so that a configuration of another tuner is still parsed and its peft_type named in the error.
 */
const MAX_DEPTH = 8

/** The contents of an adapter_config.json. */
export interface AdapterConfig {
  readonly config: LilyConfig
  /** Text of the file, which saving the model writes again. */
  readonly text: string
  readonly fields: Readonly<Record<string, unknown>>
}

/**
 * Reads an adapter_config.json.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT, with the name of the invalid field
 */
export async function readAdapterConfig(path: string): Promise<AdapterConfig> {
  const text = await readText(path, 'the configuration')
  const fields = parseJson(path, 'the configuration', text, MAX_DEPTH)
  if (!isObject(fields)) {
    throw checkpointError(path, 'expected a JSON object, got another JSON value; save the adapter with PEFT again')
  }
  checkFields(path, fields)
  return { config: toConfig(path, fields), text, fields }
}

/** Rejects unknown fields, which may affect what the adapter computes, unless they are null or false. */
function checkFields(path: string, fields: Readonly<Record<string, unknown>>): void {
  const type = fields.peft_type
  if (type !== 'LILY') {
    const got = typeof type === 'string' ? quote(type) : describe(type)
    throw checkpointError(path, `expected peft_type 'LILY', got ${got}; load a Lily adapter`)
  }
  const unknown = Object.keys(fields).filter(
    (name) => !KNOWN.has(name) && fields[name] !== null && fields[name] !== false,
  )
  if (unknown.length > 0) {
    throw checkpointError(
      path,
      `expected only fields of PEFT's LilyConfig, got ${quoteSome(unknown)}; remove the fields that do not ` +
        `affect what the adapter computes`,
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

/** Whether a field has a value. PEFT treats an empty list like null. */
function isSet(value: unknown): boolean {
  return value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0)
}

/**
 * The text of an adapter_config.json: that which the model was read with, or as PEFT writes it for a model that was
 * created.
 *
 * @param modules names that modules_to_save has to list beside those it lists already
 */
export function writeAdapterConfig(
  model: LilyModel,
  origin: Pick<AdapterConfig, 'text' | 'fields'> | undefined,
  modules: readonly string[],
): string {
  const listed = origin?.fields.modules_to_save
  const before: unknown[] = Array.isArray(listed) ? listed : []
  const added = modules.filter((name) => !before.includes(name))
  if (origin !== undefined && added.length === 0) return origin.text
  const modulesToSave = before.length + added.length > 0 ? [...before, ...added] : null
  if (origin !== undefined) return toText({ ...origin.fields, modules_to_save: modulesToSave })
  const fields = Object.entries(FIELDS).map(([name, field]) => [field, model.config[name as keyof LilyConfig]])
  return toText({
    ...DESCRIPTION,
    ...(Object.fromEntries(fields) as object),
    modules_to_save: modulesToSave,
    peft_type: 'LILY',
    target_modules: targetsOf(model),
  })
}

/**
 * The text of adapter_config.json for LoRA on the same layers. PEFT scales LoRA by lora_alpha / r, so lora_alpha is
 * scaling * r.
 */
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

/** PEFT requires target_modules: without targetModules they are the last components of the layers' names. */
function targetsOf({ config, layers }: LilyModel): readonly string[] | string {
  return config.targetModules ?? [...new Set(Array.from(layers.values(), ({ shape }) => shape.target))].sort()
}

/** The text of Python's json.dumps(fields, indent=2, sort_keys=True): ASCII, without a trailing newline. */
function toText(fields: object): string {
  const sorted = Object.fromEntries(Object.entries(fields).sort(([left], [right]) => (left < right ? -1 : 1)))
  const escape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return JSON.stringify(sorted, null, 2).replace(/[\u007f-\uffff]/g, escape)
}
