/** An inspection of a LoRA adapter as one HTML file. */
import { median } from 'd3-array'
import { type Element, h, htmlPage } from '../../report/document.js'
import { charts, columnHeader, definitions, rowHeader, scrollable, tableOf, tiles } from '../../report/elements.js'
import { percent, threeDigits } from '../../report/format.js'
import { style } from '../../report/style.js'
import { loraCharts } from './charts.js'
import { layerLabels } from './inspection.js'
import {
  loraConfigText,
  type LoraInspection,
  loraParameterCount,
  type LoraTarget,
  loraTargets,
} from './lora-inspection.js'

/**
 * @param inspection with printable strings
 * @param data the inspection as it is, for the machine-readable part
 */
export function loraPage({ folder, version, analysis }: LoraInspection, data: LoraInspection): string {
  const medianOf = (value: (layer: (typeof analysis.layers)[number]) => number) => median(analysis.layers, value) ?? 0
  const body = [
    h(
      'header',
      {},
      h('h1', {}, 'LoRA adapter'),
      h('p', {}, h('code', {}, folder), `: ${loraConfigText(analysis)}.`),
      h('p', { class: 'muted' }, `lily-kernels ${version}`),
    ),
    tiles([
      { value: loraParameterCount(analysis).toLocaleString('en'), text: 'parameters' },
      {
        value: medianOf(({ update }) => update.effectiveRank).toFixed(1),
        text: 'effective rank of an update, median over the layers',
      },
      {
        value: percent(medianOf(({ update, r }) => update.effectiveRank / r)),
        text: 'of r: the effective rank, median',
      },
    ]),
    ...loraTargets(analysis).flatMap((target) => [
      h('h2', {}, target.title),
      charts(loraCharts(target.layers)),
      h('h3', {}, 'Layers'),
      layerTable(target),
    ]),
    h('h2', {}, 'Definitions'),
    definitions([
      ['|dW|', 'Frobenius norm of the update of the layer, scaling * B A.'],
      [
        'effective rank',
        'exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007): the number of ' +
          'directions of the update, at most r.',
      ],
    ]),
  ]
  return htmlPage(`LoRA adapter ${folder}`, style, body, data)
}

function layerTable({ title, layers }: LoraTarget): Element {
  const labels = layerLabels(layers)
  const body = layers.map(({ name, r, scaling, update }, l) => {
    const cells = [
      String(r),
      threeDigits(scaling),
      threeDigits(update.norm),
      threeDigits(update.spectralNorm),
      update.effectiveRank.toFixed(1),
    ]
    return h('tr', {}, rowHeader(labels[l], { title: name }), ...cells.map((cell) => h('td', {}, cell)))
  })
  const titles = ['layer', 'r', 'scaling', '|dW|', 'largest singular value', 'effective rank']
  const table = tableOf(
    titles.map((each) => columnHeader(each)),
    body,
  )
  return scrollable(title, table)
}
