/**
 * The passes of forward.
 *
 *     batch      shrink, in segments | route, pooled partial sums | expand, which combines B
 *                shrink and route | combine | expand              with many tokens, or E r large; see splitsShrink
 *     uniform, fixed, learned, LoRA    shrink, in segments | route (adds them), combine | expand
 *     token      shrink, in segments | route | expand of u
 *     sequence   shrink and route | pool | expand of u
 *     fixed, with offsets          shrink, in segments | route (adds them), pool | expand of u
 */
import type { ForwardCall } from '../../binding/gpu-call.js'
import {
  ceilDiv,
  dense,
  type Operand,
  output,
  type Part,
  type Pass,
  type Plan,
  Workspace,
  written,
} from '../../binding/gpu-pass.js'
import { combine, combined } from '../wgsl/combine.js'
import { type Expand, expand } from '../wgsl/expand.js'
import { ascend } from '../wgsl/groups.js'
import { pool } from '../wgsl/pool.js'
import { rowsAreOuter } from '../wgsl/product.js'
import { phi, route, routeAfterShrink, type Router, ROUTE_TOKENS } from '../wgsl/route.js'
import { type Shrink, rowShrink, tiledShrink } from '../wgsl/shrink.js'
import { prepareWeights, type WeightSource } from '../wgsl/weights.js'
import { Problem, u, uView } from './problem.js'
import { shrinkSegments, splitsShrink, tileFor, type TileLimits, TILES } from './tiles.js'

export function planForward(call: ForwardCall, limits: TileLimits): Plan {
  const problem = new Problem(call)
  const { tokens, rank, experts, routing } = call
  const workspace = new Workspace()
  const { buffer, ...unkept } = call.hidden
  // Its type, and with it the rounding, is the same if it is not kept.
  const hidden =
    buffer === null ? written(workspace.take(tokens, rank, unkept.dtype)) : output({ ...unkept, buffer }, tokens, rank)
  const isGrouped = problem.offsets !== null
  // A group's weights depend on all of its tokens, so after split shrinks the routes of groups would need a pass more.
  const isSplit = !(problem.isPooled && (isGrouped || !splitsShrink(tokens, experts * rank)))
  const tile = tileFor(isSplit ? TILES.SHRINK : TILES.ROW_SHRINK, tokens, rank, limits)
  const shrink: Shrink = {
    name: 'shrink',
    tile,
    columns: rank,
    lhs: ['x', problem.x],
    lhsView: problem.viewOfX(rowsAreOuter('x')),
    rhs: ['a', problem.a],
    rhsView: rowsAreOuter('a'),
  }
  const routeTiles = ceilDiv(tokens, isSplit ? ROUTE_TOKENS : tile.blockM)
  const router = routerOf(problem, call, hidden, workspace, routeTiles)
  const source = sourceOf(problem, router)

  const passes: Pass[] = []
  const second: Part[] = []
  if (isSplit) {
    const count = shrinkSegments(tile, tokens, rank, call.dIn)
    const segments = workspace.take(count * tokens, rank)
    passes.push([problem.dropping(tiledShrink(shrink, count, ['segments', written(segments)]))])
    const part = route(segments, hidden, router, problem.afterDropout('sum'))
    second.push(problem.dropping(part))
  } else {
    const finish = router === null ? undefined : routeAfterShrink(router)
    const store = `hidden_put4(m, n, phi(${problem.afterDropout('v')}));`
    const part = problem.dropping(rowShrink(shrink, ['hidden', hidden], store, finish))
    passes.push([{ ...part, helpers: [phi, ...(part.helpers ?? [])] }])
  }
  if (call.uncheckedOffsets !== null && problem.offsets !== null) {
    const unchecked = dense(call.uncheckedOffsets, 1, call.groups + 1, 'int32')
    passes[0] = [...passes[0], ascend(unchecked, written(problem.offsets))]
  }

  if (problem.isPerToken) {
    const isToken = routing === 'token'
    const tokenWeights = isToken ? (router?.values as Operand) : workspace.take(tokens, experts)
    if (!isToken) second.push(poolPart(problem, call, router, tokenWeights))
    passes.push(second, [perTokenExpand(problem, call, hidden, tokenWeights, limits)])
    return { passes, workspaceBytes: workspace.bytes }
  }

  const mixes = problem.isPooled && isSplit
  const c = problem.isLora || mixes ? null : workspace.take(rank, call.dOut)
  if (c !== null) second.push(combine(problem.b, written(c), prepareWeights(source, experts, keptBy(call))))
  passes.push(second, [combinedExpand(problem, call, hidden, c, source, limits)])
  return { passes, workspaceBytes: workspace.bytes }
}

/** Where forward keeps the weights; with fixed routing they are given. */
const keptBy = ({ routing, weights }: ForwardCall) => (routing === 'fixed' ? null : weights)

function routerOf(
  problem: Problem,
  call: ForwardCall,
  hidden: Operand,
  workspace: Workspace,
  tiles: number,
): Router | null {
  const { router, mask } = problem
  if (router === null) return null
  const { tokens, experts, probabilities, routing } = call
  const isGrouped = problem.offsets !== null
  const kept = probabilities === null || problem.poolsLogits ? null : dense(probabilities, tokens, experts)
  const isRead = isGrouped || routing === 'token'
  const values = kept ?? (isRead ? workspace.take(tokens, experts) : null)
  const pooled = isRead ? null : workspace.take(tiles, experts + 1)
  return {
    router,
    hidden,
    mask,
    hasSoftmax: !problem.poolsLogits,
    values: values && written(values),
    pooled: pooled && written(pooled),
  }
}

function sourceOf({ call, mixture }: Problem, router: Router | null): WeightSource {
  if (mixture !== null) return { kind: 'learned', logits: mixture }
  if (router?.pooled) return { kind: 'pooled', partials: read(router.pooled) }
  if (call.routing === 'fixed' && call.weights !== null) return { kind: 'given', weights: call.weights }
  return { kind: 'uniform' }
}

function poolPart(problem: Problem, call: ForwardCall, router: Router | null, tokenWeights: Operand): Part {
  const { groups, experts, weights } = call
  const values = router?.values ?? null
  return pool({
    groups,
    experts,
    offsets: problem.offsets as Operand,
    mask: problem.mask,
    weights,
    kept: null,
    values: values && read(values),
    tokenWeights: written(tokenWeights),
  })
}

const read = (operand: Operand): Operand => ({ ...operand, isWritten: false })

/** y of an expand. */
const resultOf = (problem: Problem, { y, tokens, dOut }: ForwardCall): Pick<Expand, 'out' | 'value'> => ({
  out: ['y', problem.inList(output(y, tokens, dOut))],
  value: problem.scale === null ? 'v * P.scaling' : 'v * P.scaling * scale1(0u, m)',
})

function perTokenExpand(
  problem: Problem,
  call: ForwardCall,
  hidden: Operand,
  tokenWeights: Operand,
  limits: TileLimits,
): Part {
  const { tokens, dOut } = call
  const part = expand({
    name: 'expand',
    tile: tileFor(TILES.EXPAND, tokens, dOut, limits),
    lhs: uView('k'),
    rhs: problem.expandView,
    operands: { hidden: read(hidden), token_weights: read(tokenWeights), b: problem.b, scale: problem.scale },
    depth: problem.products,
    ...resultOf(problem, call),
  })
  return { ...part, helpers: [u] }
}

function combinedExpand(
  problem: Problem,
  call: ForwardCall,
  hidden: Operand,
  c: Operand | null,
  source: WeightSource,
  limits: TileLimits,
): Part {
  const { tokens, dOut, rank, experts } = call
  const mixes = c === null && !problem.isLora
  const prepare = mixes ? prepareWeights(source, experts, keptBy(call)) : undefined
  const part = expand({
    name: 'expand',
    tile: tileFor(mixes ? TILES.MIXING_EXPAND : TILES.EXPAND, tokens, dOut, limits),
    prepare,
    lhs: rowsAreOuter('hidden'),
    rhs: mixes ? { four: 'combined(k, o)', along: 'outer' } : problem.expandView,
    operands: { hidden: read(hidden), ...(c === null ? { b: problem.b } : { c }), scale: problem.scale },
    depth: rank,
    ...resultOf(problem, call),
  })
  return mixes ? { ...part, helpers: [...(part.helpers ?? []), combined] } : part
}
