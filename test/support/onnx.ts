/** Writes models of ONNX (https://github.com/onnx/onnx, onnx.proto), as protocol buffers. */

type Bytes = readonly number[]

/** ONNX's numbers of data types. */
const [FLOAT, INT64] = [1, 7]

function varint(value: number): Bytes {
  const bytes: number[] = []
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128)
  return [...bytes, value]
}

const integer = (field: number, value: number): Bytes => [...varint(field * 8), ...varint(value)]
const bytes = (field: number, value: Bytes): Bytes => [...varint(field * 8 + 2), ...varint(value.length), ...value]
const text = (field: number, value: string): Bytes => bytes(field, [...Buffer.from(value)])

/** ValueInfoProto; a name in the place of a size is any size. */
function valueInfo(name: string, type: number, shape: readonly (number | string)[]): Bytes {
  const sizes = shape.flatMap((size) => bytes(1, typeof size === 'number' ? integer(1, size) : text(2, size)))
  return [...text(1, name), ...bytes(2, bytes(1, [...integer(1, type), ...bytes(2, sizes)]))]
}

/** TensorProto of float32. */
function weight(name: string, data: Float32Array, shape: readonly number[]): Bytes {
  const raw = [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]
  return [...shape.flatMap((size) => integer(1, size)), ...integer(2, FLOAT), ...text(8, name), ...bytes(9, raw)]
}

/** NodeProto. */
function node(type: string, inputs: readonly string[], output: string): Bytes {
  return [...inputs.flatMap((input) => text(1, input)), ...text(2, output), ...text(4, type)]
}

function model(
  nodes: readonly Bytes[],
  weights: readonly Bytes[],
  inputs: readonly Bytes[],
  output: Bytes,
): Uint8Array {
  const graph = [
    ...nodes.flatMap((each) => bytes(1, each)),
    ...text(2, 'graph'),
    ...weights.flatMap((each) => bytes(5, each)),
    ...inputs.flatMap((each) => bytes(11, each)),
    ...bytes(12, output),
  ]
  const operators = bytes(8, [...text(1, ''), ...integer(2, 13)])
  return Uint8Array.from([...integer(1, 8), ...operators, ...bytes(7, graph)])
}

/** y = x W for x [M, rows] and W [rows, columns]. */
export function matrixProduct(w: Float32Array, rows: number, columns: number): Uint8Array {
  return model(
    [node('MatMul', ['x', 'W'], 'y')],
    [weight('W', w, [rows, columns])],
    [valueInfo('x', FLOAT, ['M', rows])],
    valueInfo('y', FLOAT, ['M', columns]),
  )
}

/** An encoder that looks up the rows of a table [tokens, columns]. It has the inputs of BERT, and ignores the mask. */
export function embedding(table: Float32Array, tokens: number, columns: number): Uint8Array {
  return model(
    [node('Gather', ['table', 'input_ids'], 'last_hidden_state')],
    [weight('table', table, [tokens, columns])],
    ['input_ids', 'attention_mask'].map((name) => valueInfo(name, INT64, ['B', 'T'])),
    valueInfo('last_hidden_state', FLOAT, ['B', 'T', columns]),
  )
}
