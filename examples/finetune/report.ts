/** The results as one HTML file. */
import * as Plot from '@observablehq/plot'
import { max, mean, min } from 'd3-array'
import type { ModelRouting } from 'lily-kernels'
import { cellChart, cosineScale, weightScale } from '../../report/cell-chart.js'
import { figure, integerTicks, labelled, plot, ranksFromZero } from '../../report/chart.js'
import { type Element, h, htmlPage } from '../../report/document.js'
import {
  charts,
  columnHeader,
  definitions,
  rowHeader,
  scrollable,
  tableOf,
  type Tile,
  tiles,
} from '../../report/elements.js'
import { legend } from '../../report/legend.js'
import { style } from '../../report/style.js'
import {
  COMPARISON,
  differenceLines,
  differencesOf,
  type Group,
  groupsOf,
  nameOf,
  percentText,
  quickText,
  reloadText,
  type Results,
  type Run,
  tableHead,
  tableRows,
  variantsOf,
} from './results.js'
import { type Method, PARTS, type Variant } from './train.js'

/** By method, and for Lily by routing. */
const COLORS = {
  head: 'var(--muted)',
  lora: 'var(--lora)',
  lily: 'var(--lily)',
  sequence: 'var(--lily)',
  batch: 'var(--equal)',
  token: 'var(--memory)',
  uniform: 'var(--alert)',
  learned: 'var(--text)',
} as const satisfies Record<Method | ModelRouting, string>

const colorOf = ({ method, routing }: Variant) => COLORS[routing ?? method]
const keysOf = (variants: readonly Variant[]) =>
  variants.map((variant) => ({ text: nameOf(variant), color: colorOf(variant) }))

export function reportPage(results: Results): string {
  const { sentences, epochs, routings, dropout, loraRank, isComplete } = results
  const body = [
    h(
      'header',
      {},
      h('h1', {}, 'Fine-tuning a sentence encoder'),
      ...(results.isQuick ? [h('p', { class: 'alert' }, quickText(results), ' ', h('code', {}, COMPARISON))] : []),
      h(
        'p',
        {},
        'Praise or complaint? The encoder of Universal Sentence Encoder Lite is frozen, and a linear head is trained: ' +
          `alone, and with LoRA and Lily on the q, k and v of both blocks. Lily has as many parameters as LoRA; routing: ` +
          `${routings.join(', ')}.${dropout > 0 ? ` Rate of dropout: ${dropout}.` : ''}`,
      ),
      h(
        'p',
        { class: 'muted' },
        `${sentences.training} sentences of product and restaurant reviews for ${epochs} epochs, ${sentences.heldOut} ` +
          `others held out, ${sentences.otherDomain} of film reviews (imdb) as another domain. The seed decides which ` +
          `sentences are held out, their order and the initial values. Sizes other than LoRA rank ${loraRank} have one seed.`,
      ),
      ...(isComplete ? [] : [h('p', { class: 'alert' }, 'Interrupted: some runs are missing.')]),
    ),
    tiles(summary(results)),
    h('h2', {}, results.isQuick ? 'Learnt on the training sentences' : 'Accuracy'),
    resultsTable(results),
    ...differenceLines(results).map((line) => h('p', {}, line)),
    ...results.reloads.map((reload) => h('p', { class: reload.isEqual ? 'muted' : 'alert' }, reloadText(reload))),
    charts(results.isQuick ? [losses(results)] : [losses(results), accuracyByStep(results), accuracyBySize(results)]),
    h('h2', {}, 'What the adapters have learnt'),
    charts([...results.routings.flatMap((routing) => lilyCharts(results, routing)), ...rankChart(results)]),
    h('h2', {}, 'Time'),
    charts([timeChart(results)]),
    h('h2', {}, 'Definitions'),
    terms(),
  ]
  return htmlPage('Fine-tuning a sentence encoder', style, body, results)
}

/** The groups with all seeds. */
const mainGroups = (results: Results): Group[] =>
  groupsOf(results).filter(({ loraRank }) => loraRank === results.loraRank)

/** What a quick run has learnt. */
const quickSummary = (results: Results): Tile[] =>
  mainGroups(results).map(({ runs, ...variant }) => ({
    value: percentText(runs.map(({ training }) => training!)),
    text: `% right of the training sentences: ${nameOf(variant)}`,
  }))

function summary(results: Results): Tile[] {
  if (results.isQuick) return quickSummary(results)
  const differences = results.routings.map((routing) => ({
    name: nameOf({ method: 'lily', routing }),
    values: differencesOf(results, routing, 'heldOut'),
  }))
  return [
    ...mainGroups(results).map(({ parameters, runs, ...variant }) => ({
      value: percentText(runs.map(({ heldOut }) => heldOut)),
      text: `% right, held out: ${nameOf(variant)}${variant.method === 'head' ? '' : `, ${parameters.toLocaleString('en')} parameters`}`,
    })),
    ...differences
      .filter(({ values }) => values.length > 0)
      .map(({ name, values }) => ({
        value: percentText(values),
        text: `points: ${name} minus LoRA, seed by seed, held out`,
      })),
  ]
}

/** Columns of the table that a phone has no room for. */
const OPTIONAL = new Set(['seeds', 's / epoch'])

function resultsTable(results: Results): Element {
  const titles = tableHead(results)
  const attributes = titles.map((title): Record<string, string> => (OPTIONAL.has(title) ? { class: 'optional' } : {}))
  const rows = tableRows(results).map(([name, ...cells]) =>
    h('tr', {}, rowHeader(name), ...cells.map((cell, i) => h('td', attributes[i + 1], cell))),
  )
  const head = titles.map((title, i) => columnHeader(title, attributes[i]))
  return scrollable('Results', tableOf(head, rows))
}

const stepTicks = (points: readonly { readonly step: number }[]) =>
  integerTicks(min(points, ({ step }) => step) ?? 0, max(points, ({ step }) => step) ?? 0, 6)

/** Steps whose mean a curve shows. */
const WINDOW = 8

function losses(results: Results): Element {
  const points = mainGroups(results).flatMap(({ method, routing, runs }) =>
    runs[0].losses.map((_, step) => ({
      method,
      routing,
      step: step + 1,
      loss: mean(runs, (run) => mean(run.losses.slice(Math.max(0, step + 1 - WINDOW), step + 1))),
    })),
  )
  return figure(
    'Loss',
    `Of the training batches by step: mean over the seeds and the last ${WINDOW} steps.`,
    legend('line', keysOf(variantsOf(results))),
    plot('Loss by step', {
      x: { label: 'step', ...stepTicks(points) },
      y: { label: null, grid: true, zero: true },
      marks: [
        Plot.line(points, {
          x: 'step',
          y: 'loss',
          z: nameOf,
          stroke: colorOf,
          strokeWidth: 1.8,
        }),
        Plot.ruleY([0]),
      ],
    }),
  )
}

function accuracyByStep(results: Results): Element {
  const groups = mainGroups(results)
  const seeds = groups.flatMap(({ runs }) =>
    runs.flatMap(({ method, routing, curve }) =>
      curve.map(({ step, accuracy }) => ({ method, routing, step, accuracy: 100 * accuracy })),
    ),
  )
  const means = groups.flatMap(({ method, routing, runs }) =>
    runs[0].curve.map(({ step }, i) => ({
      method,
      routing,
      step,
      accuracy: 100 * (mean(runs, ({ curve }) => curve[i].accuracy) ?? NaN),
    })),
  )
  return figure(
    'Accuracy during training',
    `On ${results.sentences.curve} held-out sentences, in percent: each seed, and the mean.`,
    legend('line', keysOf(variantsOf(results))),
    plot('Accuracy by step', {
      x: { label: 'step', ...stepTicks(means) },
      y: { label: null, grid: true },
      marks: [
        Plot.line(means, { x: 'step', y: 'accuracy', z: nameOf, stroke: colorOf, strokeWidth: 1.8 }),
        Plot.dot(seeds, { x: 'step', y: 'accuracy', r: 2.5, fill: colorOf }),
      ],
    }),
  )
}

function accuracyBySize(results: Results): Element {
  const groups = groupsOf(results)
  const sized = groups.filter(({ method }) => method !== 'head')
  const head = groups.filter(({ method }) => method === 'head')
  const accuracyOf = (runs: readonly Run[]) => 100 * (mean(runs, ({ heldOut }) => heldOut) ?? NaN)
  const lines = sized.map(({ runs, ...group }) => ({ ...group, accuracy: accuracyOf(runs) }))
  const dots = sized.flatMap(({ runs }) => runs.map(({ heldOut, ...run }) => ({ ...run, accuracy: 100 * heldOut })))
  return figure(
    'Accuracy by size',
    'Held out, in percent, by the number of parameters of the adapter: each seed, and the mean.',
    legend('line', keysOf(variantsOf(results))),
    plot('Accuracy by number of parameters', {
      x: {
        type: 'log',
        label: 'parameters',
        ticks: [...new Set(dots.map(({ parameters }) => parameters))].filter((_, i) => i % 2 === 0),
        inset: 14,
      },
      y: { label: null, grid: true },
      marks: [
        Plot.ruleY(head, { y: ({ runs }: Group) => accuracyOf(runs), stroke: COLORS.head, strokeDasharray: '4 3' }),
        Plot.line(lines, { x: 'parameters', y: 'accuracy', z: nameOf, stroke: colorOf, strokeWidth: 1.8 }),
        Plot.dot(dots, { x: 'parameters', y: 'accuracy', r: 2.5, fill: colorOf }),
      ],
    }),
  )
}

function lilyCharts({ analyses }: Results, routing: ModelRouting): Element[] {
  const lily = analyses.lily[routing]
  if (lily === undefined) return []
  const name = nameOf({ method: 'lily', routing })
  const layers = lily.targets.flatMap((target) => target.layers)
  const weights = layers.flatMap(({ name, router }) => router.weights.map((value, x) => ({ x, y: name, value })))
  const cosines = lily.targets.flatMap(({ layers: [{ name }], experts }) =>
    experts.cosines.flatMap((row, e) => row.map((value, x) => ({ x, y: expertName(name, e), value }))),
  )
  return [
    cellChart({
      title: `Weights of ${name}`,
      text: 'Weight of each expert, by layer; that of a router is the mean on held-out sentences.',
      cells: weights,
      rows: layers.map(({ name }) => name),
      scale: weightScale(lily.numB),
    }),
    cellChart({
      title: `Experts of ${name}`,
      text: 'Cosine similarity of the experts of each block, as vectors.',
      cells: cosines,
      rows: [...new Set(cosines.map(({ y }) => y))],
      scale: cosineScale,
    }),
  ]
}

/** '0.attention.q', 1 -> 'block 0, expert 1' */
const expertName = (layer: string, expert: number) => `block ${layer.split('.')[0]}, expert ${expert}`

function rankChart({ routings, analyses: { lily, lora } }: Results): Element[] {
  if (lora === undefined) return []
  const adapters = [
    { method: 'lora', r: lora.r, layers: lora.layers } as const,
    ...routings.flatMap((routing) => {
      const { r, targets } = lily[routing] ?? { targets: [] }
      return r === undefined
        ? []
        : [{ method: 'lily', routing, r, layers: targets.flatMap(({ layers }) => layers) } as const]
    }),
  ]
  const bars = adapters.flatMap(({ layers, ...adapter }) =>
    layers.map(({ name, update }) => ({ ...adapter, name, rank: update.effectiveRank })),
  )
  const names = lora.layers.map(({ name }) => name)
  const { marginLeft } = labelled(names)
  return [
    figure(
      'Effective rank of the updates',
      `By layer. Rank r: ${adapters.map((adapter) => `${nameOf(adapter)} ${adapter.r}`).join(', ')}.`,
      legend('dot', keysOf(adapters)),
      plot('Effective rank by layer', {
        height: 52 + 17 * adapters.length * names.length,
        marginLeft,
        marginRight: 34,
        x: ranksFromZero(bars.map(({ rank }) => rank)),
        fy: { domain: names, label: null, padding: 0.25 },
        y: { domain: adapters.map(nameOf), axis: null, padding: 0.1 },
        marks: [
          Plot.barX(bars, {
            x: 'rank',
            y: nameOf,
            fy: 'name',
            fill: colorOf,
          }),
          Plot.text(bars, {
            x: 'rank',
            y: nameOf,
            fy: 'name',
            text: ({ rank }: { rank: number }) => rank.toFixed(1),
            textAnchor: 'start',
            dx: 4,
          }),
          Plot.axisFy({ anchor: 'left', label: null, fontSize: 12 }),
          Plot.ruleX([0]),
        ],
      }),
    ),
  ]
}

/** The colour of each part of the time. Backward is paler than forward. */
const PART_COLORS = [
  { color: 'var(--equal)', opacity: 1 },
  { color: 'var(--equal)', opacity: 0.5 },
  { color: 'var(--memory)', opacity: 1 },
  { color: 'var(--memory)', opacity: 0.5 },
  { color: 'var(--alert)', opacity: 1 },
  { color: 'var(--muted)', opacity: 0.5 },
] as const

function timeChart(results: Results): Element {
  const bars = mainGroups(results).flatMap(({ runs, ...variant }) =>
    PARTS.map((part, i) => ({
      name: nameOf(variant),
      seconds: (mean(runs, ({ seconds }) => seconds[part]) ?? 0) / results.epochs,
      part,
      ...PART_COLORS[i],
    })),
  )
  const names = variantsOf(results).map(nameOf)
  type Bar = (typeof bars)[number]
  return figure(
    'Seconds per epoch',
    `Of training on ${results.sentences.training} sentences, mean over the seeds. Layers: frozen, with their adapters. ` +
      'TensorFlow.js: norms, activations and the rest of the loop. The head alone needs the embeddings once, which its first seed computes.',
    legend(
      'dot',
      PARTS.map((text, i) => ({ text, color: paler(PART_COLORS[i]) })),
    ),
    plot('Seconds per epoch by part', {
      height: 60 + 40 * names.length,
      marginLeft: 106,
      x: { label: null, grid: true, ticks: 6 },
      y: { domain: names, label: null, padding: 0.3 },
      marks: [
        Plot.barX(bars, {
          x: 'seconds',
          y: 'name',
          fill: ({ color }: Bar) => color,
          fillOpacity: ({ opacity }: Bar) => opacity,
          title: ({ part, seconds }: Bar) => `${part}: ${seconds.toFixed(2)} s`,
        }),
        Plot.ruleX([0]),
      ],
    }),
  )
}

const paler = ({ color, opacity }: (typeof PART_COLORS)[number]) =>
  `color-mix(in srgb, ${color} ${100 * opacity}%, transparent)`

const terms = (): Element =>
  definitions([
    ['±', 'Standard deviation over the seeds, of n - 1 degrees of freedom. No test of significance.'],
    ['parameters', 'Trainable numbers of the adapter, without the 513 of the head.'],
    [
      'effective rank',
      'exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007), at the weights of the ' +
        'charts above.',
    ],
    [
      'q, k, v of a block',
      'One target of Lily: they share one A and two experts B, and each mixes them in its own way.',
    ],
  ])
