/** The second phase of a Lily call: which operands its routing takes, and how many experts and groups there are. */
import {
  checkA,
  checkActivations,
  checkExperts,
  checkExpertStack,
  checkType,
  checkTypeOrFloat32,
} from '../base/checks.js'
import { fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { CPU } from '../memory/device.js'
import type { Operand, Part } from '../memory/operand.js'
import { NOTHING_SMALL, type Pool, Problem, type Routing } from './problem.js'
import type { ForwardInputs, ProblemSettings } from './read.js'
import { checkMask, checkOffsets, checkWeights, onDevice } from './small-operands.js'

/** The problem of a Lily call; throws if a shape or a type is wrong, or an operand does not go with the routing. */
export function lilyProblem({ x, a, router, b }: ForwardInputs, settings: ProblemSettings): Problem {
  checkPresence(router, settings)
  checkActivations(x)
  checkA(a, x.columns)
  checkTypeOrFloat32('a', a, x.dtype)
  const { routing, pool, activation, precision, scaling, mask, weights, dropout } = settings
  const experts = router === null ? expertsOf(b, a.rows) : checkRouter(router, a.rows, routing)
  checkExpertStack('b', b, experts, a.rows)
  checkType('b', b, a.dtype)
  if (router !== null) checkType('router', router, a.dtype)

  const { offsets, groups } = offsetsOf(x, settings)
  const small =
    mask === null && offsets === null && weights === null
      ? NOTHING_SMALL
      : {
          mask: mask === null ? null : checkMask(mask, x.rows, x.shape),
          sequenceOffsets: offsets,
          weights: weights === null ? null : checkWeights(weights, groups, experts),
          deviceSources: x.device === CPU ? NOTHING_SMALL.deviceSources : deviceSources(settings),
        }
  const drops = dropout === null ? 0 : dropout.threshold
  const sizes = [b.columns, experts, groups] as const
  return new Problem(routing, pool, activation, precision, scaling, x, a, router, b, ...sizes, small, drops)
}

/** The operands and options that each routing requires, allows and refuses. */
export function checkPresence(
  router: Operand | null,
  { routing, pool, mask, sequenceOffsets, weights }: ProblemSettings,
): void {
  const pools = poolsTokens(routing)
  const grouped = routing === 'sequence' || routing === 'fixed'
  if (pools || routing === 'token' || routing === 'learned') {
    if (router === null) fail('ERR_LILY_ARGUMENT', 'router', `is required by routing '${routing}', got undefined`)
  } else if (router !== null) {
    refuse('router', routing, `its weights are ${routing === 'fixed' ? 'given' : 'equal'}`)
  }
  if (mask !== null && !pools) refuse('mask', routing, 'it pools no tokens')
  if (pool === 'logits' && !pools) refusePool(routing)
  if (sequenceOffsets !== null && !grouped) refuse('sequenceOffsets', routing, 'it has no sequences')
  if (routing === 'fixed') {
    if (weights === null) fail('ERR_LILY_ARGUMENT', 'weights', "is required by routing 'fixed', got undefined")
    if (weights.shape.length === 1 && sequenceOffsets !== null) {
      fail(
        'ERR_LILY_ARGUMENT',
        'sequenceOffsets',
        'weights [E] are the weights of one group with all tokens; leave it out, or pass weights [G, E]',
      )
    }
  } else if (weights !== null) {
    refuse('weights', routing, "only routing 'fixed' takes weights")
  }
}

/** Whether a routing pools the tokens of a group. */
export function poolsTokens(routing: Routing): boolean {
  return routing === 'batch' || routing === 'sequence'
}

/** @throws LilyError ERR_LILY_ARGUMENT if a routing that pools no tokens is given a pool */
export function checkPool(routing: Routing, pool: Pool): void {
  if (pool === 'logits' && !poolsTokens(routing)) refusePool(routing)
}

const refusePool = (routing: string): never => refuse('pool', routing, 'it pools no tokens')

function refuse(argument: string, routing: string, why: string): never {
  fail('ERR_LILY_ARGUMENT', argument, `does not go with routing '${routing}': ${why}; leave it out`)
}

/** router: [E, r], or the logits of a learned mixture. Returns E. */
function checkRouter(router: Operand, rank: number, routing: Routing): number {
  if (routing === 'learned') return checkLogits('router', router)
  if (router.shape.length !== 2 || router.columns !== rank) {
    fail('ERR_LILY_SHAPE', 'router', `expected [E, ${rank}] (a has r ${rank}), got ${shapeText(router.shape)}`)
  }
  checkExperts('router', router.rows)
  return router.rows
}

/** Checks the logits of a learned mixture, or their gradient: [E], or [E, 1], as layers have them. Returns E. */
export function checkLogits(argument: string, { shape }: Operand, experts = shape[0]): number {
  if (shape.length > 2 || (shape.length === 2 && shape[1] !== 1) || shape[0] !== experts) {
    const name = argument === 'router' ? 'E' : experts
    fail('ERR_LILY_SHAPE', argument, `expected the logits [${name}], or [${name}, 1], got ${shapeText(shape)}`)
  }
  checkExperts(argument, experts)
  return experts
}

/** E of a routing without a router. */
export function expertsOf(b: Operand, rank: number): number {
  const experts = b.shape.length === 3 ? b.shape[0] : b.rows / rank
  if (!Number.isInteger(experts)) {
    fail('ERR_LILY_SHAPE', 'b', `expected [E*r, d_out] with r ${rank}, as a has, got ${shapeText(b.shape)}`)
  }
  checkExperts('b', experts)
  return experts
}

/** The small operands in device memory. */
function deviceSources({ mask, sequenceOffsets, weights }: ProblemSettings): Operand[] {
  const sources = [mask, sequenceOffsets, weights].map((operand) => operand && onDevice(operand))
  return sources.filter((source) => source !== null)
}

interface Groups {
  /** Null: one group of all tokens. */
  readonly offsets: Part | null
  readonly groups: number
}

const ONE_GROUP: Groups = { offsets: null, groups: 1 }

/** The groups of sequence and fixed routing: from the offsets, or from the rows of a 3-D x. */
function offsetsOf(x: Operand, { routing, sequenceOffsets, weights }: ProblemSettings): Groups {
  if (routing !== 'sequence' && routing !== 'fixed') return ONE_GROUP
  if (sequenceOffsets !== null) {
    return { offsets: checkOffsets(sequenceOffsets, x.rows), groups: sequenceOffsets.shape[0] - 1 }
  }
  if (weights !== null && (weights.shape.length === 1 || weights.shape[0] === 1)) return ONE_GROUP
  const [sequences = 0, length = 0] = x.shape
  if (x.shape.length !== 3) failWithoutSequences(routing, x)
  const offsets = new Int32Array(sequences + 1)
  for (let sequence = 1; sequence <= sequences; sequence++) offsets[sequence] = sequence * length
  return { offsets: { memory: offsets, byteOffset: 0 }, groups: sequences }
}

export function failWithoutSequences(routing: Routing, { shape, rows, columns }: Operand): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'sequenceOffsets',
    `is required by routing '${routing}' with an x of shape ${shapeText(shape)}; ` +
      `pass G + 1 cumulative offsets from 0 to ${rows}, or x as [B, N, ${columns}]`,
  )
}
