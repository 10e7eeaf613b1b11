/** Charts drawn by Observable Plot into SVG, so that the page contains no scripts. */
import * as Plot from '@observablehq/plot'
import { max, ticks } from 'd3-array'
import { document, type Element, h } from './document.js'

/** The column width of a phone. Wider screens scale the chart up slightly, so text is legible on both. */
const WIDTH = 360
export const HEIGHT = 250
const MARGIN_LEFT = 44

/** Characters of a row's label; of a longer one its end is shown. */
const MAX_LABEL = 22

/** The height of a chart with a row for each label. */
export const heightOfRows = (rows: number): number => Math.max(HEIGHT, 60 + 15 * rows)

/** Options of charts whose rows have text labels: a left margin as wide as they are. */
export function labelled(labels: readonly string[]): { readonly marginLeft: number; readonly y: Plot.ScaleOptions } {
  const longest = Math.min(MAX_LABEL, max(labels, (label) => label.length) ?? 0)
  return {
    marginLeft: Math.max(MARGIN_LEFT, 16 + 6.5 * longest),
    y: {
      domain: labels,
      label: null,
      tickFormat: (label: string) => (label.length > MAX_LABEL ? `…${label.slice(1 - MAX_LABEL)}` : label),
    },
  }
}

/**
 * A chart. Logarithmic axes label all of their ticks; Plot omits some by default.
 *
 * @param label what the chart shows, for readers who do not see it
 */
export function plot(label: string, options: Plot.PlotOptions): Element {
  const chart = Plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: MARGIN_LEFT,
    marginRight: 14,
    marginBottom: 38,
    className: 'plot',
    style: { fontSize: '12px' },
    ariaLabel: label,
    ...options,
    marks: [
      ...(options.x?.type === 'log' ? [Plot.axisX({ ticks: options.x.ticks, text: String })] : []),
      ...(options.y?.type === 'log' ? [Plot.axisY({ ticks: options.y.ticks, text: String })] : []),
      ...(options.marks ?? []),
    ],
  }) as unknown as Element
  // For assistive technology a chart is one image: the names of its groups of marks would be read without their values.
  for (const part of chart.querySelectorAll('[aria-label]')) part.removeAttribute('aria-label')
  chart.setAttribute('role', 'img')
  return chart
}

/** A chart with its title, caption and legend. */
export function figure(title: string, text: string, legend: Element, chart: Element): Element {
  const caption = h('figcaption', {}, h('h3', {}, title), h('p', {}, text))
  return h('figure', { class: 'chart' }, caption, legend, chart)
}

/** A linear scale from 0 over values. From 0 to 0, as of an adapter that is not trained, bars would fill the chart. */
export const fromZero = (values: readonly number[]): Plot.ScaleOptions => ({
  domain: [0, max(values) || 1],
  label: null,
  grid: true,
  ticks: 5,
})

/** About `count` ticks between two values of a quantity that is an integer, such as a step. */
export const integerTicks = (from: number, to: number, count: number): Plot.ScaleOptions => ({
  ticks: ticks(from, to, count).filter(Number.isInteger),
  tickFormat: String,
})

/** {@link fromZero} for ranks. It ends at an integer, as the rank of a matrix does; effective ranks lie between. */
export function ranksFromZero(values: readonly number[]): Plot.ScaleOptions {
  const end = Math.ceil(max(values) || 1)
  return { ...fromZero([end]), ...integerTicks(0, end, 5) }
}

/** A logarithmic scale over values, with as many round ticks as fit. */
export function logarithmic(values: readonly number[]): Plot.ScaleOptions {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  const span = Math.log10(most / least)
  const steps = span > 2.5 ? [1] : span > 1.5 ? [1, 3] : span > 0.6 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 3, 5, 7]
  const decades = Array.from({ length: 31 }, (_, i) => i - 15)
  const round = decades
    .flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)))
    .filter((tick) => tick >= least / 1.001 && tick <= most * 1.001)
  // Between values that are close there may be none of these.
  return { type: 'log', grid: true, domain: [least, most], ticks: round.length > 1 ? round : ticks(least, most, 4) }
}
