/** Small ONNX models. */
import { constant, encodeOnnx, node, value } from '../../bench/workload/onnx.js'

/** y = x W for x [M, rows] and W [rows, columns]. */
export function matrixProduct(w: Float32Array, rows: number, columns: number): Uint8Array {
  return encodeOnnx({
    nodes: [node('MatMul', ['x', 'W'], 'y')],
    constants: [constant('W', w, [rows, columns])],
    inputs: [value('x', 'float32', ['M', rows])],
    outputs: [value('y', 'float32', ['M', columns])],
  })
}

/** An encoder that looks up the rows of a table [tokens, columns]. It has the inputs of BERT, and ignores the mask. */
export function embedding(table: Float32Array, tokens: number, columns: number): Uint8Array {
  return encodeOnnx({
    nodes: [node('Gather', ['table', 'input_ids'], 'last_hidden_state')],
    constants: [constant('table', table, [tokens, columns])],
    inputs: ['input_ids', 'attention_mask'].map((name) => value(name, 'int64', ['B', 'T'])),
    outputs: [value('last_hidden_state', 'float32', ['B', 'T', columns])],
  })
}
