/** Reads and writes PEFT's adapter_config.json. */
import { LilyError } from '../base/errors.js'
import { checkListed, TARGETS, type Targets } from '../model/targets.js'
import { checkpointError, quoteAny, quoteSome } from './errors.js'
import { isObject, parseJson } from './json.js'
import { listedBy } from './modules-to-save.js'
import type { OpenFile } from './open-file.js'
import type { Fields, PeftMethod } from './peft-method.js'
import { readText } from './read-text.js'

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

/** Fields that are accepted for every method. */
const EVERYWHERE = [...Object.keys(DESCRIPTION), 'peft_type']

const MODELS = { LILY: 'LilyModel', LORA: 'LoraModel' } as const

/** A model, as far as its configuration describes it. */
interface Configured<C extends Targets> {
  readonly config: C
  /** What the field target_modules says. */
  readonly targets: readonly string[] | string
}

export interface AdapterConfig<C = unknown> {
  readonly config: C
  /** Text of the file, which saving the model writes again. */
  readonly text: string
  readonly fields: Fields
}

/**
 * Reads an adapter_config.json.
 *
 * @param methods the methods among which peft_type chooses
 * @throws LilyError ERR_LILY_CHECKPOINT, with the name of the invalid field
 */
export async function readAdapterConfig<C extends Targets>(
  methods: readonly PeftMethod<C>[],
  file: OpenFile,
): Promise<AdapterConfig<C> & { readonly method: PeftMethod<C> }> {
  const { path } = file
  const text = await readText(file, 'the configuration')
  const fields = parseJson(path, 'the configuration', text)
  if (!isObject(fields)) {
    throw checkpointError(path, 'expected a JSON object, got another JSON value; save the adapter with PEFT again')
  }
  const method = chooseMethod(methods, path, fields.peft_type)
  checkFields(method, path, fields)
  return { method, config: toConfig(method, path, fields), text, fields }
}

function chooseMethod<C extends Targets>(
  methods: readonly PeftMethod<C>[],
  path: string,
  type: unknown,
): PeftMethod<C> {
  const method = methods.find((each) => each.type === type)
  if (method !== undefined) return method
  const advice =
    type === 'LILY' || type === 'LORA' ? `load it with ${MODELS[type]}` : 'only adapters of Lily and LoRA can be loaded'
  const expected = methods.map((each) => `'${each.type}'`).join(' or ')
  throw checkpointError(path, `expected peft_type ${expected}, got ${quoteAny(type)}; ${advice}`)
}

/** Rejects unknown fields, which may affect what the adapter computes, unless they are null or false. */
function checkFields<C extends Targets>(method: PeftMethod<C>, path: string, fields: Fields): void {
  const refused = method.refusal(fields)
  if (refused !== null) throw checkpointError(path, refused.join(': '))
  const known = new Set<string>([...Object.values<string>(method.fields), ...method.accepted, ...EVERYWHERE])
  const unknown = Object.keys(fields).filter(
    (name) => !known.has(name) && fields[name] !== null && fields[name] !== false,
  )
  if (unknown.length > 0) {
    throw checkpointError(
      path,
      `expected only fields of PEFT's ${method.type === 'LILY' ? 'LilyConfig' : 'LoraConfig'}, got ` +
        `${quoteSome(unknown)}; remove the fields that do not affect what the adapter computes`,
    )
  }
}

function toConfig<C extends Targets>(
  { fields: names, readConfig, toOption }: PeftMethod<C>,
  path: string,
  fields: Fields,
): C {
  const entries = Object.entries<string>(names)
  const { modules_to_save: modules } = fields
  try {
    if (Array.isArray(modules)) checkListed('modules_to_save', modules)
    return readConfig(
      Object.fromEntries(
        entries
          .filter(([name, field]) => isSet(name, fields[field]) && !(name === 'layersPattern' && hasNoIndices(fields)))
          .map(([name, field]) => [name, toOption(field, fields[field])]),
      ),
      true,
    )
  } catch (cause) {
    if (!(cause instanceof LilyError) || cause.argument === undefined) throw cause
    throw checkpointError(path, withFieldName(names, cause), cause)
  }
}

/** The message of an error about an option, with the field of the file in its place. */
export function withFieldName(
  fields: PeftMethod['fields'],
  { argument = '', message }: Pick<LilyError, 'argument' | 'message'>,
): string {
  // The argument may be an element of a field, such as rankPattern['q_proj'].
  const [name] = /^\w*/.exec(argument) as RegExpExecArray
  if (!Object.hasOwn(fields, name)) return message
  return message.replace(name, () => fields[name as keyof Targets])
}

/** Fields for which PEFT requires a number: null is none, and does not stand for the default. */
const NUMBERS = ['r', 'loraAlpha', 'loraDropout', 'strideA', 'numB', 'scaling']

/** Whether a field has a value. In the fields of targets PEFT treats an empty list and an empty string like null. */
function isSet(name: string, value: unknown): boolean {
  if (value === undefined) return false
  if (value === null) return NUMBERS.includes(name)
  const isEmpty = value === '' || (Array.isArray(value) && value.length === 0)
  return !isEmpty || !TARGETS.some((target) => target === name)
}

/** Whether the list of indices is empty, with which PEFT ignores layers_pattern; without a list it refuses that field. */
function hasNoIndices({ layers_to_transform: indices }: Fields): boolean {
  return Array.isArray(indices) && indices.length === 0
}

/**
 * The text of an adapter_config.json: that which the model was read with, or as PEFT writes it for a model that was
 * created.
 *
 * @param modules names that modules_to_save has to list beside those it lists already
 */
export function writeAdapterConfig<C extends Targets>(
  method: PeftMethod<C>,
  model: Configured<C>,
  origin: Pick<AdapterConfig, 'text' | 'fields'> | undefined,
  modules: readonly string[],
): string {
  const listed = origin?.fields.modules_to_save
  const before: unknown[] = Array.isArray(listed) ? listed : []
  const isListed = listedBy(before)
  const added = modules.filter((name) => !isListed(name))
  if (origin !== undefined && added.length === 0) return origin.text
  const modulesToSave = before.length + added.length > 0 ? [...before, ...added] : null
  if (origin !== undefined) return toText({ ...origin.fields, modules_to_save: modulesToSave })
  return configText(method, model, { modules_to_save: modulesToSave })
}

/**
 * The text of an adapter_config.json as PEFT writes it.
 *
 * @param description values of fields that do not affect what the adapter computes; the others get PEFT's defaults
 */
export function configText<C extends Targets>(
  method: PeftMethod<C>,
  { config, targets }: Configured<C>,
  description: Fields | undefined,
): string {
  const described = Object.entries(DESCRIPTION).map(([name, value]) => [name, description?.[name] ?? value])
  const fields = Object.entries<string>(method.fields)
    .filter(([name]) => config[name as keyof C] !== method.extensions[name as keyof C])
    .map(([name, field]) => [field, config[name as keyof C]])
  return toText({
    ...(Object.fromEntries(described) as object),
    ...method.constants,
    ...(Object.fromEntries(fields) as object),
    peft_type: method.type,
    target_modules: targets,
  })
}

/** The text of Python's json.dumps(fields, indent=2, sort_keys=True): ASCII, without a trailing newline. */
function toText(fields: object): string {
  const sorted = Object.fromEntries(Object.entries(fields).sort(([left], [right]) => (left < right ? -1 : 1)))
  const escape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return JSON.stringify(sorted, null, 2).replace(/[\u007f-\uffff]/g, escape)
}
