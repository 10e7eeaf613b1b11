/** The pass of a frozen linear layer: one product in tiles, which loads y if it adds to it. */
import type { LinearCall } from '../../binding/gpu-call.js'
import { input, output, type Plan } from '../../binding/gpu-pass.js'
import { expand } from '../wgsl/expand.js'
import { rowsAreDepth, rowsAreOuter } from '../wgsl/product.js'
import { tileFor, type TileLimits, TILES } from './tiles.js'

export function planLinear(call: LinearCall, limits: TileLimits): Plan {
  const { tokens, dIn, dOut, transposed } = call
  const [depth, width] = transposed ? [dOut, dIn] : [dIn, dOut]
  // As the operations call them, for errors.
  const [x, y] = transposed ? ['dy', 'dx'] : ['x', 'y']
  const part = expand({
    name: 'linear',
    tile: tileFor(TILES.EXPAND, tokens, width, limits),
    lhs: rowsAreOuter(x),
    rhs: transposed ? rowsAreDepth('weight') : rowsAreOuter('weight'),
    operands: {
      [x]: input(call.x, tokens, depth),
      weight: input(call.weight, dOut, dIn),
      bias: call.bias && input(call.bias, 1, width),
    },
    depth,
    out: [y, output(call.y, tokens, width)],
    value: call.bias === null ? 'v' : 'v + bias4(0u, n)',
  })
  return { passes: [[part]], workspaceBytes: 0 }
}
