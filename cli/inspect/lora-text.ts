/** An inspection of a LoRA adapter as text. */
import { countOf } from '../../lib/base/errors.js'
import { threeDigits } from '../../report/format.js'
import { renderTable, textTable } from '../../report/text-table.js'
import { layerLabels } from './inspection.js'
import {
  loraConfigText,
  type LoraInspection,
  loraParameterCount,
  type LoraTarget,
  loraTargets,
} from './lora-inspection.js'

/** All strings of the inspection must be printable. */
export function loraText({ folder, analysis }: LoraInspection): string {
  const count = loraParameterCount(analysis)
  return [
    `${folder}: ${loraConfigText(analysis)}; ${countOf(analysis.layers.length, 'layer')}, ${count} parameters`,
    ...loraTargets(analysis).flatMap((target) => [target.title, layerTable(target)]),
    '|dW|: Frobenius norm of the update of the layer, scaling * B A; largest: its largest singular value\n' +
      'effective rank: exp of the entropy of the singular values of the update, at most r',
  ].join('\n\n')
}

function layerTable({ layers }: LoraTarget): string {
  const columns = ['r', 'scaling', '|dW|', 'largest', 'effective rank']
  const table = textTable(['layer', ...columns], ['left', ...columns.map(() => 'right' as const)])
  const labels = layerLabels(layers)
  layers.forEach(({ r, scaling, update }, l) => {
    table.push([
      labels[l],
      String(r),
      threeDigits(scaling),
      threeDigits(update.norm),
      threeDigits(update.spectralNorm),
      update.effectiveRank.toFixed(1),
    ])
  })
  return renderTable(table)
}
