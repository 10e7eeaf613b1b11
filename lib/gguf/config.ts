/** The option `base`: the configuration of the base model, as an object or in a file. */
import { describe, fail } from '../base/errors.js'
import { openFile, readPath } from '../checkpoint/disk/disk.js'
import { isObject, parseJson } from '../checkpoint/json.js'
import { readText } from '../checkpoint/read-text.js'
import { type Base, baseOf } from './architectures.js'

/**
 * Reads the base model.
 *
 * @param base the path of its config.json, or the fields
 * @throws LilyError ERR_LILY_ARGUMENT as {@link baseOf}; ERR_LILY_CHECKPOINT for a file that cannot be read
 */
export async function readBase(base: unknown): Promise<Base> {
  if (typeof base !== 'string' && !(base instanceof URL)) {
    if (isObject(base)) return baseOf(base)
    return fail(
      'ERR_LILY_ARGUMENT',
      'base',
      "expected the path of the base model's config.json or its fields, such as { model_type: 'llama', " +
        `num_attention_heads: 32, num_key_value_heads: 8 }, got ${describe(base)}`,
    )
  }
  const path = readPath('base', base)
  return baseOf(parseJson(path, 'the configuration', await readText(await openFile(path), 'the configuration')))
}
