/** The names that exporters give to nodes and weights, and the paths of modules that these tell. */
import type { NodeProto } from 'onnx-buf'

/** Longer names of nodes and weights, and longer lists of modules, tell nothing. */
const MAX_NAME = 1024
const MAX_SCOPES = 16_384

/**
 * What stands behind the path of a module: the weight's own name, and the operator. Tools that quantise append to both:
 * MatMul_Q4, weight_quantized.
 */
const END =
  /^(?:q?weight(?:_(?:Q\d\w*|DQ\w*|quantized|transposed))?|kernel|(?:onnx::)?(?:MatMul|Gemm|Transpose|Cast|Identity|Constant|DequantizeLinear)\w*|base_layer)$/

/** The path of the module that a name of a weight or a node tells: 'model.layers.0.mlp.up_proj', or ''. */
export function moduleOf(name: string): string {
  if (name.length > MAX_NAME) return ''
  const parts = name.split(/[./]/).filter((part) => part !== '')
  while (parts.length > 0 && END.test(parts[parts.length - 1])) parts.pop()
  return normal(parts.join('.'))
}

/** Builders of onnxruntime-genai name 'self_attn' of Transformers 'attn'. */
export function normal(path: string): string {
  return path.replace(/(?<=^|\.)self_attn(?=\.|$)/g, 'attn')
}

/** PyTorch's exporter writes the paths of the modules around a node into it, outermost first, and then its own name. */
const SCOPES = 'pkg.torch.onnx.name_scopes'

/** The path of the innermost module around a node, if the exporter wrote it. */
export function scopeNameOf(node: NodeProto): string[] {
  const text = node.metadataProps.find(({ key }) => key === SCOPES)?.value ?? ''
  // A list as Python writes it.
  const scopes = text.length > MAX_SCOPES ? null : text.match(/'[^']*'/g)
  return (scopes ?? []).slice(-2, -1).map((scope) => normal(scope.slice(1, -1)))
}

/** PyTorch's other exporter appends a number to the name of a module that is called again. */
export const firstCall = (path: string): string => path.replace(/_\d+(?=\.|$)/g, '')

/**
 * How much of two paths is equal if one is the end of the other, as 'layer.0.query' is of 'bert.layer.0.query': the number of
 * components, and half of one more for equal paths. 0 for others.
 */
export function commonEnd(first: string, second: string): number {
  const [short, long] = first.length < second.length ? [first, second] : [second, first]
  if (short === '' || !(short === long || long.endsWith(`.${short}`))) return 0
  return short.split('.').length + (short === long ? 0.5 : 0)
}
