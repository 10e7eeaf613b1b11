/**
 * The weights that layers are frozen with. The compact form has them in the metadata of its file. PEFT's files have no
 * place for them: a file beside those holds them, with a digest of the parameters that they were saved with.
 */
import { fail } from '../base/errors.js'
import { digestOf, hexOf, type Valued } from './digest.js'
import { checkpointError, quote } from './errors.js'
import { FROZEN_FILE } from './files.js'
import { isObject, parseJson } from './json.js'
import { MAX_BYTES } from './read-text.js'

/** Weights [E] by the names of the frozen layers. */
export type Frozen = ReadonlyMap<string, Float32Array>

/** The key in the metadata of a compact file. */
export const FROZEN = 'lily_frozen'

/** Bytes of the file beside the weights: the names of its fields, and the digest. */
const REST_BYTES = 200

/**
 * The frozen ones of these layers as JSON: { name: [w_0, ...] }; null if none is frozen. JSON keeps every bit of a float32
 * number but the sign of zero.
 */
export function frozenText(
  layers: Iterable<{ readonly name: string; readonly frozenWeights?: ArrayLike<number> | undefined }>,
): string | null {
  const frozen = [...layers].flatMap(({ name, frozenWeights }) =>
    frozenWeights === undefined ? [] : [[name, Array.from(frozenWeights)] as const],
  )
  if (frozen.length === 0) return null
  const text = JSON.stringify(Object.fromEntries(frozen))
  const { length } = new TextEncoder().encode(text)
  if (length + REST_BYTES <= MAX_BYTES) return text
  return fail(
    'ERR_LILY_CHECKPOINT',
    FROZEN_FILE,
    `expected at most ${MAX_BYTES} bytes of frozen weights, got ${length}`,
  )
}

/** The content of the file beside PEFT's. */
export async function frozenFile(text: string, parameters: Iterable<Valued>): Promise<string> {
  return `{"frozen_weights":${text},"parameters_sha256":"${hexOf(await digestOf(FROZEN_FILE, parameters))}"}\n`
}

/**
 * Reads the file beside PEFT's.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT also if the parameters are not those that the weights were saved with
 */
export async function readFrozenFile(
  path: string,
  text: string,
  parameters: Iterable<Valued>,
  experts: number,
): Promise<Frozen> {
  const fields = parseJson(path, 'the file', text)
  if (!isObject(fields)) throw checkpointError(path, 'expected a JSON object; remove the file')
  const valued = [...parameters]
  if (fields.parameters_sha256 !== hexOf(await digestOf(FROZEN_FILE, valued))) {
    throw checkpointError(
      path,
      `its weights belong to other parameters than the folder has, as when another program saved the adapter again; ` +
        `remove ${FROZEN_FILE}, and freeze the layers again`,
    )
  }
  return toFrozen(path, fields.frozen_weights, new Set(valued.flatMap(({ layers }) => layers)), experts)
}

/** Reads the metadata of a compact file. */
export function readFrozenMetadata(path: string, text: string, layers: ReadonlySet<string>, experts: number): Frozen {
  return toFrozen(path, parseJson(path, `its metadata ${FROZEN}`, text), layers, experts)
}

function toFrozen(path: string, value: unknown, layers: ReadonlySet<string>, experts: number): Frozen {
  if (!isObject(value)) throw checkpointError(path, 'expected frozen weights by the names of layers; save them again')
  const frozen = new Map<string, Float32Array>()
  for (const [name, weights] of Object.entries(value)) {
    if (!layers.has(name))
      throw checkpointError(path, `has weights of ${quote(name)}, which is no layer of the adapter`)
    const isRow =
      Array.isArray(weights) &&
      weights.length === experts &&
      weights.every((weight) => typeof weight === 'number' && Number.isFinite(Math.fround(weight)))
    if (!isRow) throw checkpointError(path, `expected ${experts} finite weights of layer ${quote(name)}`)
    frozen.set(name, Float32Array.from(weights as number[]))
  }
  return frozen
}
