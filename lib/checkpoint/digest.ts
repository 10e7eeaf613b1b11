/** A digest of an adapter, by which a file beside it tells the adapter that it was saved with from others. */
import { checkAttached } from '../memory/operand.js'
import type { ParameterShape } from '../model/layout.js'
import type { Tensor } from '../tensor/tensor.js'
import { checkpointError } from './errors.js'
import { unshared } from './file-data.js'
import { keysOf } from './layer-names.js'
import { sourceOf, type TensorSource } from './safetensors-write.js'

export type Valued = Pick<ParameterShape, 'name' | 'layers'> & { readonly value: Tensor }

/**
 * The SHA-256 of all tensors by PEFT's names, whatever the order of the layers.
 *
 * @param file that needs it, for errors
 * @param others tensors that are not parameters
 */
export async function digestOf(
  file: string,
  parameters: Iterable<Valued>,
  others: ReadonlyMap<string, TensorSource> = new Map(),
): Promise<Uint8Array> {
  const lines: string[] = []
  const add = async (name: string, keys: readonly string[], { bytes: bytesOfValue }: TensorSource) => {
    const bytes = await bytesOfValue()
    checkAttached(name, bytes)
    const digest = hexOf(await sha256(file, bytes))
    for (const key of keys) lines.push(`${key} ${digest}\n`)
  }
  for (const { name, layers, value } of parameters) await add(name, keysOf({ name, layers }), sourceOf(value, name))
  for (const [key, source] of others) await add(key, [key], source)
  return sha256(file, new TextEncoder().encode(lines.sort().join('')))
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

async function sha256(file: string, bytes: Uint8Array): Promise<Uint8Array> {
  const subtle = globalThis.crypto?.subtle
  if (subtle !== undefined) return new Uint8Array(await subtle.digest('SHA-256', unshared(bytes)))
  throw checkpointError(
    file,
    'its digest needs crypto.subtle, which browsers have in pages of HTTPS and of localhost only; load such a page, or ' +
      "save with { format: 'compact' } and without { optimiser }",
  )
}
