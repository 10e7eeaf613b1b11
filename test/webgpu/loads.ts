/** What the passes of batch routing load from storage, by the tiles and the operands of their plan. */
import { bytesOf, type Part, type Plan } from '../../lib/binding/gpu-pass.js'

/** How often a part loads each operand. What a store adds to comes on top. */
function timesOf({ name, workgroups, operands, params = {} }: Part): Readonly<Record<string, number>> {
  const across = params[`${name}_row_tiles`]
  const down = params[`${name}_column_tiles`] ?? (params[`${name}_tiles`] ?? workgroups) / across
  const rowsOf = (operand: string) => operands[operand]?.rows ?? 0
  if (name.startsWith('sum_')) return { [`${name.slice(4)}_partials`]: 1 }
  switch (name) {
    case 'shrink':
      return { x: down, a: across }
    case 'route': // two experts at a time
      return { segments: 1, hidden: Math.ceil(rowsOf('router') / 2), router: rowsOf('hidden') }
    case 'expand': // every workgroup forms the weights
      return { hidden: down, b: across, pooled: workgroups }
    case 'd':
      return { hidden: down, dy: across }
    case 'count_kept':
      return { mask: 1 }
    case 'fold':
      return { partials: 1, b: 1, weights: workgroups }
    case 'q':
      return { dy: down, c: across }
    case 'd_hidden': // every workgroup adds the partial sums of dw; the probabilities for their mean with dw, and then again
      return {
        q: 1,
        hidden: 1,
        d_weights: workgroups,
        statistic: 2,
        kept: 1,
        router: Math.ceil(rowsOf('hidden') / 16),
      }
    case 'dx':
      return { d_hidden: down, a: across }
    case 'da':
      return { d_hidden: down, x: across }
    case 'dr':
      return { d_logits: down, hidden: across }
    default:
      throw new Error(`nothing is known of the loads of ${name}`)
  }
}

function loadsOfPart(part: Part): number {
  const times = timesOf(part)
  return Object.entries(part.operands).reduce((sum, [name, operand]) => {
    if (operand === null) return sum
    if (!(name in times) && !operand.isWritten) throw new Error(`nothing is known of the loads of ${name}`)
    return sum + ((times[name] ?? 0) + (operand.accumulate ? 1 : 0)) * bytesOf(operand)
  }, 0)
}

/** Bytes that a plan loads, repeated loads included. */
export const loadsOf = ({ passes }: Plan) => passes.flat().reduce((sum, part) => sum + loadsOfPart(part), 0)
