/** The nodes of an ONNX model that compute the adapted layers. */
import type { GraphProto, NodeProto } from 'onnx-buf'

/** The sizes of an adapted layer, and its name. */
export interface SoughtLayer {
  readonly name: string
  /** d_in */
  readonly inFeatures: number
  /** d_out */
  readonly outFeatures: number
}

/** A node that computes an adapted layer: y = x W. */
export interface Site {
  readonly layer: string
  /** The graph that has the node: the model's graph, or a subgraph. */
  readonly graph: GraphProto
  /** The node that writes y. New nodes follow it. */
  readonly node: NodeProto
  /** The name of the input [..., d_in]. */
  readonly x: string
  /** The name of the output [..., d_out], to which the adapter adds. */
  readonly y: string
  /** The type of x and y, a TensorProto_DataType: FLOAT, FLOAT16, BFLOAT16 or DOUBLE. */
  readonly type: number
  /** The number of dimensions of x; null if the model does not say it. */
  readonly rank: number | null
}
