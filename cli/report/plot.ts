/** What all charts have in common. */
import * as Plot from '@observablehq/plot'
import { document, type Element, h } from './document.js'

/** Of a phone's column, which a wider screen enlarges a little: the text then reads well on both. */
const WIDTH = 360
export const HEIGHT = 250
/** Stands before the labels of rows. */
export const LABEL_MARGIN = 112

/** A chart. Logarithmic axes label all of their ticks, of which Plot by itself would leave out some. */
export function plot(label: string, options: Plot.PlotOptions): Element {
  const chart: unknown = Plot.plot({
    document,
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 44,
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
  })
  return chart as Element
}

/** A chart with its title, what it shows, and its legend. */
export function figure(title: string, text: string, key: Element, chart: Element): Element {
  const caption = h('figcaption', {}, h('h3', {}, title), h('p', {}, text))
  return h('figure', { class: 'chart' }, caption, key, chart)
}

/** A logarithmic scale over values, with as many round ticks as have room. */
export function logarithmic(values: readonly number[]): Plot.ScaleOptions {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  const span = Math.log10(most / least)
  const steps = span > 2.5 ? [1] : span > 1.5 ? [1, 3] : span > 0.6 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 3, 5, 7]
  const decades = Array.from({ length: 31 }, (_, i) => i - 15)
  const ticks = decades
    .flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)))
    .filter((tick) => tick >= least / 1.001 && tick <= most * 1.001)
  return { type: 'log', grid: true, domain: [least, most], ticks }
}

/** Of text over marks. */
export const halo = { fill: 'var(--text)', stroke: 'var(--surface)', strokeWidth: 4, fontSize: 11 } as const
