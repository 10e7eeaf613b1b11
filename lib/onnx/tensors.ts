/** Checks the weights of an ONNX model. */
import { type TensorProto, TensorProto_DataLocation as DataLocation, TensorProto_DataType as DataType } from 'onnx-buf'
import { cut } from '../base/errors.js'
import { checkpointError, DAMAGED, quote } from '../checkpoint/errors.js'

/** Bits of an element. Numbers of 2 and 4 bits are packed. Strings have no raw data. */
const BITS: ReadonlyMap<number, number> = new Map<DataType, number>([
  [DataType.UINT2, 2],
  [DataType.INT2, 2],
  [DataType.UINT4, 4],
  [DataType.INT4, 4],
  [DataType.FLOAT4E2M1, 4],
  [DataType.BOOL, 8],
  [DataType.UINT8, 8],
  [DataType.INT8, 8],
  [DataType.FLOAT8E4M3FN, 8],
  [DataType.FLOAT8E4M3FNUZ, 8],
  [DataType.FLOAT8E5M2, 8],
  [DataType.FLOAT8E5M2FNUZ, 8],
  [DataType.FLOAT8E8M0, 8],
  [DataType.UINT16, 16],
  [DataType.INT16, 16],
  [DataType.FLOAT16, 16],
  [DataType.BFLOAT16, 16],
  [DataType.UINT32, 32],
  [DataType.INT32, 32],
  [DataType.FLOAT, 32],
  [DataType.UINT64, 64],
  [DataType.INT64, 64],
  [DataType.DOUBLE, 64],
  [DataType.COMPLEX64, 64],
  [DataType.COMPLEX128, 128],
])

/**
 * Checks that a tensor has as many numbers as its dimensions say. Numbers in other files are not checked.
 *
 * @param path of the model
 * @param name of the tensor in messages
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function checkTensor(path: string, name: string, tensor: TensorProto): void {
  const wrong = (expected: string, got: string) =>
    checkpointError(path, `tensor ${quote(name)}: expected ${expected}, got ${got}; ${DAMAGED}`)
  const count = countOf(tensor)
  const dims = cut(tensor.dims.join(', '))
  if (count === null) throw wrong('dimensions of at least 0 and below 2^53 elements', `[${dims}]`)
  if (tensor.dataLocation === DataLocation.EXTERNAL) return
  const bits = BITS.get(tensor.dataType)
  if (bits === undefined && tensor.dataType !== (DataType.STRING as number)) {
    throw wrong('a type of ONNX 1.20', `type ${tensor.dataType}`)
  }
  const [expected, got, unit] =
    tensor.rawData.length > 0 && bits !== undefined
      ? [Math.ceil((count * bits) / 8), tensor.rawData.length, 'bytes']
      : [lengthOfList(tensor.dataType, count, bits), listed(tensor), 'values']
  if (expected !== got) throw wrong(`${expected} ${unit} for the dimensions [${dims}]`, String(got))
}

/** The number of elements; null if there is none. */
function countOf({ dims }: TensorProto): number | null {
  let count = 1
  for (const dim of dims) {
    count *= Number(dim)
    if (dim < 0n || !Number.isSafeInteger(Number(dim))) return null
  }
  return Number.isSafeInteger(count) ? count : null
}

/** The length of the list of numbers that a tensor has in the place of raw data. */
function lengthOfList(type: number, count: number, bits = 8): number {
  const isComplex = type === (DataType.COMPLEX64 as number) || type === (DataType.COMPLEX128 as number)
  if (isComplex) return 2 * count
  return bits < 8 ? Math.ceil((count * bits) / 8) : count
}

function listed({ floatData, int32Data, int64Data, doubleData, uint64Data, stringData }: TensorProto): number {
  const lists: readonly unknown[][] = [floatData, int32Data, int64Data, doubleData, uint64Data, stringData]
  return lists.reduce((total, { length }) => total + length, 0)
}
