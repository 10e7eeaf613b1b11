/** A writer of GGUF files, independent of lib/gguf: base models for llama.cpp, and adapters that are wrong. */

/** Numbers are float32; objects name another type. Lists are of strings, float32 or int32. */
export type Value =
  | string
  | number
  | { readonly uint32: number }
  | readonly string[]
  | { readonly float32s: readonly number[] }
  | { readonly int32s: readonly number[] }

/** A tensor in float32; its shape is outermost first. */
export interface Matrix {
  readonly shape: readonly number[]
  readonly values: ArrayLike<number>
}

export function encodeGguf(metadata: Readonly<Record<string, Value>>, tensors: ReadonlyMap<string, Matrix>): Buffer {
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.size),
    u64(Object.keys(metadata).length),
    ...Object.entries(metadata).map(([key, value]) => Buffer.concat([text(key), valueOf(value)])),
    ...infosOf(tensors),
  ])
  const data = Array.from(tensors.values(), ({ values }) => padded(Buffer.from(Float32Array.from(values).buffer)))
  return Buffer.concat([padded(header), ...data])
}

function infosOf(tensors: ReadonlyMap<string, Matrix>): Buffer[] {
  let offset = 0
  return Array.from(tensors, ([name, { shape, values }]) => {
    const info = [text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(0), u64(offset)]
    offset += Math.ceil((4 * values.length) / 32) * 32
    return Buffer.concat(info)
  })
}

const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32)])
const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const f32 = (value: number) => Buffer.from(Float32Array.of(value).buffer)

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.length), bytes])
}

function valueOf(value: Value): Buffer {
  if (typeof value === 'string') return Buffer.concat([u32(8), text(value)])
  if (typeof value === 'number') return Buffer.concat([u32(6), f32(value)])
  if ('uint32' in value) return Buffer.concat([u32(4), u32(value.uint32)])
  const list = (type: number, parts: Buffer[]) => Buffer.concat([u32(9), u32(type), u64(parts.length), ...parts])
  if ('float32s' in value) return list(6, value.float32s.map(f32))
  if ('int32s' in value) return list(5, value.int32s.map(u32))
  return list(8, value.map(text))
}
