/** A reader of GGUF files of the kinds of values that adapters have, independent of lib/gguf. */

export interface Decoded {
  readonly metadata: Map<string, string | number>
  /** Shapes are outermost first. */
  readonly tensors: Map<string, { shape: number[]; values: number[] }>
}

function halfToNumber(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

export function decodeGguf(buffer: ArrayBuffer): Decoded {
  const bytes = Buffer.from(buffer)
  let at = 0
  const u32 = () => bytes.readUInt32LE((at += 4) - 4)
  const u64 = () => Number(bytes.readBigUInt64LE((at += 8) - 8))
  const text = () => {
    const length = u64()
    return bytes.toString('utf8', at, (at += length))
  }
  if (bytes.toString('latin1', 0, 4) !== 'GGUF') throw new Error('no GGUF')
  at = 4
  if (u32() !== 3) throw new Error('another version')
  const [tensorCount, entryCount] = [u64(), u64()]
  const metadata = new Map<string, string | number>()
  for (let i = 0; i < entryCount; i++) {
    const key = text()
    const type = u32()
    if (type === 8) metadata.set(key, text())
    else if (type === 4) metadata.set(key, u32())
    else if (type === 6) metadata.set(key, bytes.readFloatLE((at += 4) - 4))
    else throw new Error(`a value of type ${type}`)
  }
  const entries = Array.from({ length: tensorCount }, () => {
    const name = text()
    const shape = Array.from({ length: u32() }, u64).reverse()
    return { name, shape, type: u32(), offset: u64() }
  })
  const start = Math.ceil(at / 32) * 32
  const tensors = new Map(
    entries.map(({ name, shape, type, offset }) => {
      if (offset % 32 !== 0) throw new Error('an offset that is not aligned')
      const count = shape.reduce((product, size) => product * size, 1)
      const value = (i: number) =>
        type === 0
          ? bytes.readFloatLE(start + offset + 4 * i)
          : halfToNumber(bytes.readUInt16LE(start + offset + 2 * i))
      return [name, { shape, values: Array.from({ length: count }, (_, i) => value(i)) }] as const
    }),
  )
  return { metadata, tensors }
}
