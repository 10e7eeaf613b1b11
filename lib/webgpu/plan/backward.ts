/**
 * The passes of backward. Symbols as in docs/math.md.
 *
 *     one group, router:   D, count kept tokens | fold: C, dB, dw | q | dl, dh | dx, dA, dR | sums of dA, dR
 *     one group:           combine C | q, D | fold: dB, dw; dh | dx, dA, dw or dz | sums
 *     per token, u:        pool | v, dB | gather: q, dw; sum of dB | dl, dh | dx, dA, dR or dw | sums
 *
 * With a router the fold loads B for dw, and forms C from the same loads. LoRA has no C to combine, and token routing nothing
 * to pool; passes without work are left out.
 */
import type { BackwardCall, Output } from '../../binding/gpu-call.js'
import {
  dense,
  input,
  type Operand,
  output,
  type Part,
  type Pass,
  type Plan,
  rowsOf,
  Workspace,
  written,
} from '../../binding/gpu-pass.js'
import { combine } from '../wgsl/combine.js'
import { weightGradient } from '../wgsl/d_weights.js'
import { dHidden, type LogitGradient } from '../wgsl/d_hidden.js'
import { expand, type Prepare } from '../wgsl/expand.js'
import { fold, foldWorkgroups } from '../wgsl/fold.js'
import { gather } from '../wgsl/gather.js'
import { keeps } from '../wgsl/groups.js'
import { countKept, hasGradient } from '../wgsl/kept.js'
import { outer, type Outer } from '../wgsl/outer.js'
import { pool } from '../wgsl/pool.js'
import { rowsAreDepth, rowsAreOuter, type View } from '../wgsl/product.js'
import { tiledShrink } from '../wgsl/shrink.js'
import { sumPartials } from '../wgsl/sum_partials.js'
import { prepareWeights } from '../wgsl/weights.js'
import { onlyTokens, Problem, u, uView, where } from './problem.js'
import { outerSplits, shrinkSegments, tileFor, TILES } from './tiles.js'

export function planBackward(call: BackwardCall, limits: GPUSupportedLimits): Plan {
  return new Backward(call, limits).plan()
}

/** A condition on token k in a sum over tokens, and what it requires. */
interface Condition {
  readonly condition: string | null
  readonly operands: Readonly<Record<string, Operand>>
  readonly helpers: readonly string[]
}

const NO_CONDITION: Condition = { condition: null, operands: {}, helpers: [] }

class Backward {
  readonly #problem: Problem
  readonly #workspace = new Workspace()
  readonly #dy: Operand
  readonly #hidden: Operand
  /** Whether dh and dl are required. */
  readonly #needsDHidden: boolean
  readonly #needsLogits: boolean
  /** dWeights, or the dz of a learned mixture. */
  readonly #ofWeights: Output | null
  readonly #needsDb: boolean
  /** Whether tokens may have no gradient, because the mask keeps none of their group, or no group contains them. */
  readonly #leavesOut: boolean
  /** [1] or [1, M]: number of kept tokens of each token's group; null without groups and pooling. */
  readonly #kept: Operand | null
  readonly #q: Operand
  readonly #dHidden: Operand
  readonly #dLogits: Operand
  /** dw, whose rows a later pass adds. */
  #dWeights: Operand | null = null

  constructor(
    readonly call: BackwardCall,
    readonly limits: GPUSupportedLimits,
  ) {
    const { tokens, dOut, rank, experts, dx, da, dRouter, db, deferredDb } = call
    const problem = new Problem(call)
    this.#problem = problem
    this.#dy = problem.inList(input(call.dy, tokens, dOut), problem.scale)
    this.#hidden = input(call.hidden, tokens, rank)
    this.#needsDHidden = dx !== null || da !== null
    this.#needsLogits = problem.router !== null && (this.#needsDHidden || dRouter !== null)
    this.#ofWeights = problem.mixture === null ? call.dWeights : dRouter
    this.#needsDb = db !== null || deferredDb !== null
    this.#leavesOut = problem.offsets !== null || (problem.isPooled && problem.mask !== null)
    this.#kept =
      problem.offsets !== null || problem.isPooled ? this.#workspace.take(1, problem.isPerToken ? tokens : 1) : null
    this.#dLogits = this.#workspace.take(this.#needsLogits ? tokens : 0, experts)
    this.#dHidden = this.#workspace.take(this.#needsDHidden ? tokens : 0, rank)
    const segments = problem.isPerToken ? 1 : this.#segments(tokens)
    this.#q = this.#workspace.take(this.#needsDHidden ? segments * tokens : 0, rank)
  }

  plan(): Plan {
    const passes = this.#problem.isPerToken ? this.#perToken() : this.#combined()
    const last: Part[] = []
    passes.push(this.#xPass(last), last)
    return { passes: passes.filter(({ length }) => length > 0), workspaceBytes: this.#workspace.bytes }
  }

  #tile(tokens: number) {
    return tileFor(TILES.BACKWARD_SHRINK, tokens, this.#problem.products, this.limits)
  }

  #segments(tokens: number): number {
    const { products } = this.#problem
    return shrinkSegments(this.#tile(tokens), tokens, products, this.call.dOut)
  }

  /** Whether token k has a gradient. */
  get #condition(): Condition {
    if (!this.#leavesOut || this.#kept === null) return NO_CONDITION
    return { condition: 'has_gradient(k)', operands: { kept: this.#kept }, helpers: [hasGradient] }
  }

  #combined(): Pass[] {
    const { call } = this
    const { tokens, rank, experts, dOut, db } = call
    const problem = this.#problem
    const workspace = this.#workspace
    const [first, dyPass, foldPass, qPass]: Part[][] = [[], [], [], []]
    const c = this.#needsDHidden && !problem.isLora ? workspace.take(rank, dOut) : null
    const dWeights = this.#takeDWeights(foldWorkgroups(rank, dOut))
    // Only dl has to wait for dw: then the fold forms C from the experts that it loads.
    const cOfFold = this.#needsLogits ? c : null
    if (cOfFold === null && c !== null) first.push(combine(problem.b, written(c), this.#weights()))
    if (this.#needsDHidden) {
      const q = this.#shrink('q', tokens, this.#dy, c === null ? ['b', problem.b] : ['c', c], this.#q)
      const pass = cOfFold === null ? dyPass : qPass
      pass.push(q)
    }
    if (this.#needsDb || dWeights !== null) {
      const { partials, deferred } = this.#outerOfCombined(dyPass)
      if (problem.isLora) {
        if (db !== null) {
          foldPass.push(sumPartials('sum_b', ['partials', partials], ['db', output(db, dOut, rank)], true))
        }
      } else if (db !== null || dWeights !== null || deferred !== null) {
        foldPass.push(
          fold({
            partials,
            rank,
            deferred,
            b: problem.b,
            dWeights: dWeights && written(dWeights),
            db: db === null ? null : output(db, experts * rank, dOut),
            c: cOfFold && written(cOfFold),
            kept: this.#leavesOut ? this.#kept : null,
            prepare: db === null && cOfFold === null ? null : this.#weights(),
          }),
        )
      }
    }
    const dHiddenPart = this.#dHiddenPart(dWeights, 'partials', 'P.scaling')
    const separate: Part[] = []
    if (dHiddenPart !== null) (this.#needsLogits ? separate : foldPass).push(dHiddenPart)
    return [first, dyPass, foldPass, qPass, separate]
  }

  /**
   * D, as partial sums, and where a fold has to write it if it is deferred. Whether there is a kept token is known only after
   * the pass, so that the fold leaves out what has no gradient.
   */
  #outerOfCombined(dyPass: Part[]): { partials: Operand; deferred: Operand | null } {
    const { rank, dOut, deferredDb } = this.call
    if (this.#kept !== null && (this.#needsLogits || this.#leavesOut)) {
      dyPass.push(countKept(this.#problem.mask, written(this.#kept)))
    }
    const deferred = deferredDb === null ? null : written(dense(deferredDb, rank, dOut))
    const splits = this.#splits(rank, dOut)
    const isDirect = deferred !== null && splits === 1 && !this.#leavesOut
    const partials = isDirect ? deferred : this.#workspace.take(splits * rank, dOut)
    dyPass.push(this.#outerOfDy(rowsAreDepth('hidden'), ['partials', written(partials)], rank, splits))
    return { partials: { ...partials, isWritten: false }, deferred: isDirect ? null : deferred }
  }

  /** dw as partial sums, or a row for each token, if anything requires it. */
  #takeDWeights(rows: number): Operand | null {
    if (!this.#needsLogits && this.#ofWeights === null) return null
    return (this.#dWeights = this.#workspace.take(rows, this.call.experts))
  }

  /** The weights of the one group. */
  #weights(): Prepare {
    const { weights, experts } = this.call
    const source = weights === null ? ({ kind: 'uniform' } as const) : ({ kind: 'given', weights } as const)
    return prepareWeights(source, experts, null)
  }

  #perToken(): Pass[] {
    const { call } = this
    const { tokens, groups, experts, routing, probabilities, weights } = call
    const problem = this.#problem
    const workspace = this.#workspace
    const isToken = routing === 'token'
    const first: Part[] = []
    const tokenWeights =
      isToken && probabilities !== null ? dense(probabilities, tokens, experts) : workspace.take(tokens, experts)
    if (!isToken) {
      first.push(
        pool({
          groups,
          experts,
          offsets: problem.offsets as Operand,
          mask: problem.mask,
          values: null,
          weights,
          tokenWeights: written(tokenWeights),
          kept: this.#kept && written(this.#kept),
        }),
      )
    }
    const [dyPass, gatherPass]: [Part[], Part[]] = [[], []]
    if (this.#needsDb) this.#perTokenDb(tokenWeights, dyPass, gatherPass)

    const dWeights = this.#takeDWeights(tokens)
    const passes = [first, dyPass, gatherPass]
    if (this.#needsDHidden || dWeights !== null) this.#gatherRanges(tokenWeights, dWeights, passes)
    const dHiddenPart = this.#dHiddenPart(dWeights, isToken ? 'tokens' : 'groups', '1.0')
    return [...passes, dHiddenPart === null ? [] : [dHiddenPart]]
  }

  /** dB from u, or with few groups each group's D for a later fold. */
  #perTokenDb(tokenWeights: Operand, dyPass: Part[], sumPass: Part[]): void {
    const { call } = this
    const { rank, experts, groups, dOut, db, deferredDb, routing } = call
    if (deferredDb !== null && routing !== 'token' && groups <= experts) {
      const out = written(dense(deferredDb, groups * rank, dOut))
      dyPass.push(this.#outerOfDy(rowsAreDepth('hidden'), ['partials', out], rank, groups, true))
      return
    }
    const rows = experts * rank
    const out = db === null ? null : output(db, rows, dOut)
    const target = deferredDb === null ? (out as Operand) : written(dense(deferredDb, rows, dOut))
    const splits = this.#splits(rows, dOut)
    const partials = splits === 1 ? target : this.#workspace.take(splits * rows, dOut)
    const part = this.#outerOfDy(uView('outer'), ['partials', { ...partials, isWritten: true }], rows, splits)
    dyPass.push({
      ...part,
      operands: { ...part.operands, token_weights: tokenWeights },
      helpers: [...(part.helpers ?? []), u],
    })
    if (splits > 1) sumPass.push(sumPartials('sum_b', ['partials', partials], ['db', target]))
  }

  /** Computes v and gathers from it, for ranges of tokens whose v fits into the workspace. */
  #gatherRanges(tokenWeights: Operand, dWeights: Operand | null, passes: Part[][]): void {
    const { tokens, experts, rank } = this.call
    const { b, products } = this.#problem
    const most = this.limits.maxStorageBufferBindingSize / 4
    let range = tokens
    while (range > 64 && this.#segments(range) * range * products * 4 > most) range = Math.ceil(range / 2)
    const v = this.#workspace.take(this.#segments(range) * range, experts * rank)
    for (let begin = 0; begin < tokens; begin += range) {
      const count = Math.min(range, tokens - begin)
      const slice = (operand: Operand) => rowsOf(operand, begin, count)
      const ofRange = rowsOf(v, 0, this.#segments(count) * count)
      const shrink = this.#shrink('v', count, slice(this.#dy), ['b', b], ofRange)
      const part = gather({
        v: ofRange,
        tokens: count,
        hidden: slice(this.#hidden),
        tokenWeights: slice(tokenWeights),
        q: this.#needsDHidden ? written(slice(this.#q)) : null,
        tokenDWeights: dWeights && written(slice(dWeights)),
      })
      if (begin === 0 && count === tokens) {
        passes[1].push(shrink)
        passes[2].push(part)
      } else {
        passes.push([shrink], [part])
      }
    }
  }

  #shrink(name: string, tokens: number, dy: Operand, rhs: [string, Operand], out: Operand): Part {
    const tile = this.#tile(tokens)
    const { products, shrinkView } = this.#problem
    return tiledShrink(
      { name, tile, lhs: ['dy', dy], lhsView: rowsAreOuter('dy'), rhs, rhsView: shrinkView, columns: products },
      this.#segments(tokens),
      [`${name}_out`, written(out)],
    )
  }

  #splits(rows: number, columns: number, isShared = false): number {
    return outerSplits(this.#outerTile(rows, columns), rows, columns, this.call.tokens, isShared)
  }

  #outerTile(rows: number, columns: number) {
    return tileFor(TILES.OUTER, rows, columns, this.limits)
  }

  /** D or dB: a sum over tokens of lhs^T dy. */
  #outerOfDy(lhs: View, out: readonly [string, Operand], rows: number, splits: number, isGrouped = false): Part {
    // With one group the fold applies it.
    const { condition, operands, helpers } = this.#problem.isPerToken ? this.#condition : NO_CONDITION
    const { tokens, dOut } = this.call
    const part = outer({
      name: 'd',
      tile: this.#outerTile(rows, dOut),
      lhs: condition === null ? lhs : where(lhs, condition),
      rhs: onlyTokens('dy', condition),
      operands: {
        hidden: this.#hidden,
        dy: this.#dy,
        ...operands,
        offsets: isGrouped ? this.#problem.offsets : null,
      },
      out,
      rows,
      columns: dOut,
      tokens,
      splits,
      factor: 'P.scaling',
      isGrouped,
    } satisfies Outer)
    return { ...part, helpers: [...(part.helpers ?? []), ...helpers] }
  }

  #dHiddenPart(dWeights: Operand | null, source: LogitGradient['source'], factor: string): Part | null {
    if (!this.#needsDHidden && !this.#needsLogits) return null
    const { tokens, experts, groups, probabilities, weights } = this.call
    const problem = this.#problem
    const statistic = problem.poolsLogits
      ? weights && dense(weights, groups, experts)
      : probabilities && dense(probabilities, tokens, experts)
    const logits: LogitGradient | null =
      dWeights === null || problem.router === null || statistic === null
        ? null
        : {
            dWeights,
            source,
            statistic,
            poolsLogits: problem.poolsLogits,
            router: problem.router,
            dLogits: written(this.#dLogits),
            mask: problem.isPooled ? problem.mask : null,
            offsets: problem.offsets,
            groups,
          }
    const part = dHidden({
      tokens,
      experts,
      logits,
      factor,
      hidden: this.#hidden,
      kept: this.#kept,
      leavesOut: this.#leavesOut,
      q: this.#needsDHidden ? this.#q : null,
      dHidden: this.#needsDHidden ? written(this.#dHidden) : null,
      value: problem.afterDropout('dh'),
    })
    return problem.dropping(part)
  }

  /** The products that read dh and dl; `sums` gets what adds the partial sums of gradients. */
  #xPass(sums: Part[]): Part[] {
    const { call } = this
    const { tokens, dIn, rank, experts, groups, dx, da, dRouter, weights } = call
    const problem = this.#problem
    const parts: Part[] = []
    if (dx !== null) {
      const part = expand({
        name: 'dx',
        tile: tileFor(TILES.EXPAND, tokens, dIn, this.limits),
        lhs: rowsAreOuter('d_hidden'),
        rhs: rowsAreDepth('a'),
        operands: { d_hidden: this.#dHidden, a: problem.a },
        depth: rank,
        out: ['dx_out', { ...problem.inList(output(dx, tokens, dIn)), drops: call.draw !== null }],
        value: 'v',
      })
      parts.push(problem.dropping(part))
    }
    if (da !== null) {
      const { condition, operands, helpers } = this.#condition
      const part = this.#gradient('da', output(da, rank, dIn), sums, {
        lhs: rowsAreDepth('d_hidden'),
        rhs: problem.viewOfX(onlyTokens('x', condition)),
        operands: { d_hidden: this.#dHidden, x: problem.x, ...operands },
      })
      parts.push(problem.dropping({ ...part, helpers }))
    }
    if (dRouter !== null && problem.router !== null) {
      const { mask } = problem
      const { condition, operands, helpers } = problem.offsets === null ? NO_CONDITION : this.#condition
      const conditions = [mask && keeps(true, 'k'), condition].filter((each) => each !== null)
      const part = this.#gradient('dr', output(dRouter, experts, rank), sums, {
        lhs: rowsAreDepth('d_logits'),
        rhs: onlyTokens('hidden', conditions.length === 0 ? null : conditions.join(' && ')),
        operands: { d_logits: this.#dLogits, hidden: this.#hidden, mask, ...operands },
      })
      parts.push({ ...part, helpers })
    }
    const { mixture, offsets } = problem
    if (this.#ofWeights !== null && this.#dWeights !== null) {
      parts.push(
        weightGradient({
          partials: this.#dWeights,
          offsets,
          groups,
          experts,
          weights: mixture && weights && dense(weights, 1, experts),
          out: mixture ? output(this.#ofWeights, experts, 1) : output(this.#ofWeights, groups, experts),
        }),
      )
    }
    return parts
  }

  /** A gradient that is a sum over tokens: written at once, or as partial sums. */
  #gradient(name: string, out: Operand, sums: Part[], of: Pick<Outer, 'lhs' | 'rhs' | 'operands'>): Part {
    const { rows, cols } = out
    const splits = this.#splits(rows, cols, this.call.dx !== null)
    const partials = splits === 1 ? out : this.#workspace.take(splits * rows, cols)
    if (splits > 1) sums.push(sumPartials(`sum_${name}`, [`${name}_partials`, partials], [`${name}_sum`, out]))
    return outer({
      name,
      tile: this.#outerTile(rows, cols),
      ...of,
      rows,
      columns: cols,
      tokens: this.call.tokens,
      splits,
      factor: '1.0',
      out: [`${name}_partials`, written(partials)],
    })
  }
}
