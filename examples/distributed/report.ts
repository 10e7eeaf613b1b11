/** The results as one HTML file. */
import * as Plot from '@observablehq/plot'
import { figure, fromZero, logarithmic, plot } from '../../report/chart.js'
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
import { type Key, legend } from '../../report/legend.js'
import { style } from '../../report/style.js'
import {
  differenceText,
  equalText,
  type Job,
  largestDifference,
  listText,
  ranksText,
  type Results,
  shareText,
  stepMilliseconds,
  tableHead,
  tableRow,
  tokensPerSecond,
} from './results.js'

/** By job: each line lies on those of the jobs before it, and is narrower. */
const STROKES = [
  { color: 'var(--muted)', width: 8 },
  { color: 'var(--lora)', width: 4 },
  { color: 'var(--lily)', width: 1.5 },
  { color: 'var(--equal)', width: 1 },
] as const
const strokeOf = (i: number) => STROKES[Math.min(i, STROKES.length - 1)]

export function reportPage(results: Results): string {
  const { sentences, epochs, machine, jobs } = results
  const title = `Training on ${listText(jobs.map(({ ranks }) => ranks))} ranks`
  const body = [
    h(
      'header',
      {},
      h('h1', {}, title),
      h(
        'p',
        {},
        'The fine-tune example with data parallelism over MPI: the ranks divide each batch of 32 sentences among them, ' +
          'average the gradients, and take the same step. So the losses do not depend on the number of ranks, but for rounding.',
      ),
      h(
        'p',
        { class: 'muted' },
        `Lily with sequence routing; ${sentences} sentences, ${epochs} ${epochs === 1 ? 'epoch' : 'epochs'}. ${machine}. ` +
          `${[...new Set(jobs.map(({ library }) => library ?? 'without mpirun'))].join('; ')}. All ranks share the cores of ` +
          'one machine.',
      ),
    ),
    tiles(summary(results)),
    h('h2', {}, 'Losses'),
    ...(jobs.length > 1 ? [h('p', {}, differenceText(results))] : []),
    h('p', { class: jobs.every(({ isEqual }) => isEqual) ? '' : 'alert' }, equalText(results)),
    charts([losses(jobs), ...differences(jobs)]),
    h('h2', {}, 'Time'),
    scrollable('Results', table(jobs)),
    charts([rates(jobs), times(jobs)]),
    h('h2', {}, 'Definitions'),
    terms(),
  ]
  return htmlPage(title, style, body, results)
}

function summary(results: Results): Tile[] {
  const { jobs } = results
  return [
    ...(jobs.length > 1
      ? [{ value: largestDifference(results).difference.toExponential(1), text: 'largest difference of two losses' }]
      : []),
    ...jobs.map((job) => ({ value: tokensPerSecond(job), text: `tokens per second: ${ranksText(job)}` })),
    ...jobs
      .filter(({ ranks }) => ranks > 1)
      .map((job) => ({
        value: shareText(job.averaging, job),
        text: `of a step averages gradients: ${ranksText(job)}`,
      })),
  ]
}

function table(jobs: readonly Job[]): Element {
  const rows = jobs
    .map(tableRow)
    .map(([ranks, ...cells]) => h('tr', {}, rowHeader(ranks), ...cells.map((cell) => h('td', {}, cell))))
  return tableOf(
    tableHead.map((title) => columnHeader(title)),
    rows,
  )
}

const keysOf = (jobs: readonly Job[], first = 0): Key[] =>
  jobs.map((job, i) => ({ text: ranksText(job), color: strokeOf(first + i).color }))

const losses = (jobs: readonly Job[]): Element =>
  figure(
    'Loss',
    'Of the whole batch, by step. The narrower lines lie on the wider ones.',
    legend('line', keysOf(jobs)),
    plot('Loss by step, for each number of ranks', {
      x: { label: 'step', ticks: 6 },
      y: { label: null, grid: true, zero: true },
      marks: [
        ...jobs.map(({ losses }, i) =>
          Plot.line(losses, {
            x: (_, step: number) => step + 1,
            y: (loss: number) => loss,
            stroke: strokeOf(i).color,
            strokeWidth: strokeOf(i).width,
          }),
        ),
        Plot.ruleY([0]),
      ],
    }),
  )

/** None if all losses are equal to the bit. */
function differences([first, ...others]: readonly Job[]): Element[] {
  const points = others.flatMap(({ losses }, i) =>
    losses.map((loss, step) => ({
      step: step + 1,
      difference: Math.abs(loss - first.losses[step]),
      color: strokeOf(i + 1).color,
    })),
  )
  const visible = points.filter(({ difference }) => difference > 0)
  if (visible.length === 0) return []
  type Point = (typeof visible)[number]
  return [
    figure(
      'Difference of the losses',
      `From that of ${ranksText(first)}, by step. A step whose losses are equal to the bit has no dot.`,
      legend('dot', keysOf(others, 1)),
      plot('Difference of the losses by step', {
        marginLeft: 52,
        x: { label: 'step', ticks: 6, domain: [1, first.losses.length] },
        y: { ...logarithmic(visible.map(({ difference }) => difference)), label: null },
        marks: [Plot.dot(visible, { x: 'step', y: 'difference', r: 2, fill: ({ color }: Point) => color })],
      }),
    ),
  ]
}

function rates(jobs: readonly Job[]): Element {
  const bars = jobs.map((job) => ({ name: ranksText(job), rate: job.tokens / job.seconds, text: tokensPerSecond(job) }))
  return figure(
    'Tokens per second',
    'Of all ranks together, without padding.',
    legend('dot', [{ text: 'training', color: 'var(--lily)' }]),
    plot('Tokens per second by number of ranks', {
      height: 60 + 40 * jobs.length,
      marginLeft: 66,
      marginRight: 50,
      x: fromZero(bars.map(({ rate }) => rate)),
      y: { domain: bars.map(({ name }) => name), label: null, padding: 0.3 },
      marks: [
        Plot.barX(bars, { x: 'rate', y: 'name', fill: 'var(--lily)' }),
        Plot.text(bars, { x: 'rate', y: 'name', text: 'text', textAnchor: 'start', dx: 4 }),
        Plot.ruleX([0]),
      ],
    }),
  )
}

const PARTS = [
  { text: 'computing', color: 'var(--equal)' },
  { text: 'waiting', color: 'var(--muted)' },
  { text: 'averaging', color: 'var(--alert)' },
] as const

function times(jobs: readonly Job[]): Element {
  const bars = jobs.flatMap((job) => {
    const { seconds, waiting, averaging } = job
    const shares = [seconds - waiting - averaging, waiting, averaging].map((part) => part / seconds)
    return PARTS.map((part, i) => ({ ...part, name: ranksText(job), time: shares[i] * stepMilliseconds(job) }))
  })
  type Bar = (typeof bars)[number]
  return figure(
    'Milliseconds per step',
    'Mean over the ranks.',
    legend('dot', PARTS),
    plot('Milliseconds per step by part', {
      height: 60 + 40 * jobs.length,
      marginLeft: 66,
      x: fromZero(jobs.map(stepMilliseconds)),
      y: { domain: jobs.map(ranksText), label: null, padding: 0.3 },
      marks: [
        Plot.barX(bars, {
          x: 'time',
          y: 'name',
          fill: ({ color }: Bar) => color,
          title: ({ text, time }: Bar) => `${text}: ${time.toFixed(1)} ms`,
        }),
        Plot.ruleX([0]),
      ],
    }),
  )
}

const terms = (): Element =>
  definitions([
    ['averaging', 'The exchange of the gradients: each rank sends and receives them once, and adds a slice of them.'],
    ['waiting', 'From the time that a rank has its gradients until the slowest rank has them.'],
    ['last loss', 'That of the last batch, before its step.'],
    ['held out', 'Share of other sentences that the trained classifier judges right, in percent.'],
    ['Times', 'Without the first step, which compiles and connects the ranks.'],
  ])
