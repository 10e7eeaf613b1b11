/** The result of a run in one sentence. */
import { median } from 'd3-array'
import { MAX_SPREAD } from '../../bench/harness/doubts.js'
import type { Report } from '../../bench/harness/report.js'
import { countOf } from '../../lib/base/errors.js'
import { type Ratio, ratioToEqualParameters, ratioToLora, type Row, rowsOf } from './rows.js'

/** Methods that Lily is compared with, in the words of the sentence. */
const COMPARISONS: readonly (readonly [(row: Row) => Ratio | null, string])[] = [
  [ratioToEqualParameters, 'LoRA with as many trainable parameters'],
  [ratioToLora, 'LoRA of the same rank'],
]

const UNFUSED: Readonly<Record<Report['machine']['backend'], string>> = {
  cpu: 'the same steps as separate calls take',
  // It is not measured.
  cuda: '',
  webgpu: 'the same formula as operations of TensorFlow.js takes',
}

/** The sentence compares forward and backward together. It leaves problems out whose ratios vary much from round to round. */
export function verdictOf({ machine, results }: Pick<Report, 'machine' | 'results'>): string {
  const rows = rowsOf(results).filter(({ pass }) => pass === 'forward+backward')
  const place = placeText(machine)
  if (rows.length === 0) return `${place} nothing was measured that this sentence could compare.`
  const calm = rows.filter((row) => COMPARISONS.every(([ratio]) => (ratio(row)?.spread ?? 0) <= MAX_SPREAD))
  const noisy = rows.length - calm.length
  if (2 * noisy >= rows.length) {
    return (
      `${place} the measurements were too noisy to compare Lily with LoRA: the ratios of ${noisy} of ` +
      `${countOf(rows.length, 'problem')} vary by more than ±${100 * MAX_SPREAD}% from round to round; run it again on an ` +
      'idle machine or with more --seconds.'
    )
  }
  const comparisons = COMPARISONS.flatMap(([ratio, name]) => {
    const ratios = calm.map(ratio).filter((each) => each !== null)
    return ratios.length === 0 ? [] : [comparisonText(ratios, name)]
  })
  const medians = calm.length === 1 ? 'one problem' : `medians of ${calm.length} problems`
  const leftOut = noisy === 0 ? '' : `; ${noisy} more ${noisy === 1 ? 'was' : 'were'} too noisy`
  const sentence = `${place} a fused Lily adapter takes ${comparisons.join(', and ')}, forward and backward together (${medians}${leftOut})`
  const unfused = median(calm, ({ by }) => by.get('lily-composed')?.ratioToFused ?? NaN)
  return `${sentence}${unfused === undefined ? '' : `; ${UNFUSED[machine.backend]} ${timesText(unfused)}`}.`
}

function placeText({ backend, detail }: Report['machine']): string {
  if (detail === 'software adapter') return 'On this software adapter, whose times say nothing about a GPU,'
  return backend === 'cpu' ? 'On this machine' : 'On this GPU'
}

const timesText = (ratio: number): string => `${ratio.toFixed(2)} times as long`

/** A difference that is smaller than the ratios vary from round to round is none. */
function comparisonText(ratios: readonly Ratio[], name: string): string {
  const ratio = median(ratios, (each) => each.median) ?? NaN
  const spread = median(ratios, (each) => each.spread ?? NaN)
  return spread !== undefined && Math.abs(ratio - 1) <= spread
    ? `as long as ${name} within the noise (${ratio.toFixed(2)} times)`
    : `${timesText(ratio)} as ${name}`
}
