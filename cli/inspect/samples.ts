/** Reads the file of `--samples`: sample inputs of layers, and masks that say which of their tokens are padding. */
import { shapeText } from '../../lib/base/shape.js'
import { checkpointError, quote } from '../../lib/checkpoint/errors.js'
import { type LilyModel, SafetensorsFile, type StoredTensor } from '../../lib/index.js'

/** The mask of all layers that have none of their own. */
const MASK = 'mask'
const maskName = (layer: string): string => `${layer}.${MASK}`

/** Masks, by the format's name of their data type. */
const readers: Readonly<Record<string, (bytes: DataView, index: number) => number>> = {
  BOOL: (bytes, i) => bytes.getUint8(i),
  U8: (bytes, i) => bytes.getUint8(i),
  I8: (bytes, i) => bytes.getInt8(i),
  I32: (bytes, i) => bytes.getInt32(4 * i, true),
  I64: (bytes, i) => Number(bytes.getBigInt64(8 * i, true)),
  F32: (bytes, i) => bytes.getFloat32(4 * i, true),
}

/**
 * Reads the samples of each layer [..., d_in], without the tokens that a mask [...] drops. The mask of a layer is the
 * tensor `<layer>.mask` or else `mask`. With a mask and routing 'sequence' each sequence is a sample of its own.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if the file cannot be read, a tensor has another name, or a mask has another shape or
 *   other values than 0 and 1
 */
export async function readSamples(path: string, { layers, config }: LilyModel): Promise<Map<string, StoredTensor[]>> {
  const file = await SafetensorsFile.open(path)
  try {
    // A layer may have such a name itself.
    const masks = new Set([MASK, ...[...layers.keys()].map(maskName)].filter((name) => !layers.has(name)))
    const samples = new Map<string, StoredTensor[]>()
    for (const name of file.tensors.keys()) {
      if (masks.has(name)) continue
      if (!layers.has(name)) {
        const [first] = layers.keys()
        const expected = `expected the name of an adapted layer, such as ${quote(first)}, or of a mask`
        throw checkpointError(file.path, `tensor ${quote(name)}: ${expected}`)
      }
      const x = await file.read(name)
      const mask = [maskName(name), MASK].find((each) => masks.has(each) && file.tensors.has(each))
      const flags = mask === undefined ? null : await readMask(file, mask, name, x.shape)
      const hasSequences = config.routing === 'sequence' && x.shape.length === 3
      samples.set(name, flags === null ? [x] : withoutMasked(x, flags, hasSequences))
    }
    return samples
  } finally {
    await file.close()
  }
}

/** The flag of each token of a layer's samples. */
async function readMask(
  file: SafetensorsFile,
  name: string,
  layer: string,
  xShape: readonly number[],
): Promise<boolean[]> {
  const refuse = (message: string): never => {
    throw checkpointError(file.path, `mask ${quote(name)}: ${message}`)
  }
  const bytes = await file.readBytes(name)
  const { dtype = '', shape = [] } = file.tensors.get(name) ?? {}
  const expected = shapeText(xShape.slice(0, -1))
  if (shapeText(shape) !== expected) {
    refuse(
      `expected ${expected}, a flag for each token of ${quote(layer)}, got ${shapeText(shape)}; ` +
        `a layer with other tokens has a mask of its own, ${quote(maskName(layer))}`,
    )
  }
  if (!Object.hasOwn(readers, dtype)) {
    refuse(`expected data type ${Object.keys(readers).join(', ')}, got ${dtype}; convert it before saving`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const flags = Array.from({ length: shape.reduce((all, size) => all * size, 1) }, (_, t) => readers[dtype](view, t))
  const wrong = flags.findIndex((flag) => flag !== 0 && flag !== 1)
  if (wrong >= 0) refuse(`element ${wrong} is ${flags[wrong]}; expected 0 for padding or 1 for a token that counts`)
  if (!flags.includes(1)) refuse(`drops all tokens of ${quote(layer)}; keep at least one, or leave the layer out`)
  return flags.map((flag) => flag === 1)
}

/** The rows of x whose flag is set: [kept, d_in], or [1, kept, d_in] of each sequence that has one. */
function withoutMasked(
  { dtype, shape, data }: StoredTensor,
  flags: readonly boolean[],
  hasSequences: boolean,
): StoredTensor[] {
  const width = shape[shape.length - 1]
  const length = hasSequences ? shape[1] : flags.length
  const parts: StoredTensor[] = []
  for (let begin = 0; begin < flags.length; begin += length) {
    const kept = flags.slice(begin, begin + length).flatMap((flag, t) => (flag ? [begin + t] : []))
    if (kept.length === 0) continue
    const rows =
      data instanceof Float32Array ? new Float32Array(kept.length * width) : new Uint16Array(kept.length * width)
    kept.forEach((t, row) => rows.set(data.subarray(t * width, (t + 1) * width), width * row))
    parts.push({ dtype, shape: hasSequences ? [1, kept.length, width] : [kept.length, width], data: rows })
  }
  return parts
}
