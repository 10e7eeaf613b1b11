/** Charts drawn by Observable Plot, as wide as a phone; wider columns scale them. */
import * as Plot from '@observablehq/plot'
import { ticks } from 'd3-array'
import { h } from './dom.js'

const WIDTH = 360
const HEIGHT = 240
const MARGIN_LEFT = 44

/** Characters of a row's label; of a longer one its end is shown. */
const MAX_LABEL = 20

export const LILY = 'var(--lily)'
export const LORA = 'var(--lora)'
export const EQUAL = 'var(--equal)'

/** The height of a chart with a row for each label. */
export const heightOfRows = (rows: number): number => Math.max(120, 56 + 22 * rows)

/** Options of charts whose rows have text labels: a left margin as wide as they are. */
export function labelled(labels: readonly string[]): { readonly marginLeft: number; readonly y: Plot.ScaleOptions } {
  const longest = Math.min(MAX_LABEL, Math.max(...labels.map((label) => label.length)))
  return {
    marginLeft: Math.max(MARGIN_LEFT, 16 + 6.5 * longest),
    y: {
      domain: labels,
      label: null,
      tickSize: 0,
      tickFormat: (label: string) => (label.length > MAX_LABEL ? `…${label.slice(1 - MAX_LABEL)}` : label),
    },
  }
}

/**
 * A chart.
 *
 * @param text what it shows, for readers who do not see it
 */
export function plot(text: string, options: Plot.PlotOptions): Element {
  const chart = Plot.plot({
    width: WIDTH,
    height: HEIGHT,
    marginLeft: MARGIN_LEFT,
    marginRight: 16,
    marginBottom: 40,
    className: 'plot',
    style: { fontSize: '12px' },
    ariaLabel: text,
    ...options,
  })
  // For assistive technology the chart is one image; the names of its parts would be read without their values.
  chart.setAttribute('role', 'img')
  for (const part of chart.querySelectorAll('[aria-label]')) part.removeAttribute('aria-label')
  return chart
}

export interface Key {
  readonly text: string
  readonly color: string
  readonly isHollow?: boolean
}

function legendOf(keys: readonly Key[]): HTMLElement[] {
  if (keys.length === 0) return []
  const items = keys.map(({ text, color, isHollow }) => {
    const dot = h('span', { class: isHollow === true ? 'dot hollow' : 'dot', style: `color: ${color}` })
    return h('li', {}, dot, text)
  })
  return [h('ul', { class: 'legend' }, ...items)]
}

/** A legend with a continuous scale of colours, and a label at its beginning, in its middle and at its end. */
export function ramp(colors: readonly string[], labels: readonly [string, string, string]): HTMLElement {
  const bar = h('span', { style: `background: linear-gradient(to right, ${colors.join(', ')})` })
  return h('div', { class: 'ramp' }, bar, ...labels.map((text) => h('span', {}, text)))
}

/** A chart with its title, caption and legend. */
export function figure(title: string, text: string, legend: readonly Key[] | HTMLElement, chart: Element): HTMLElement {
  const caption = h('figcaption', {}, h('strong', {}, title), h('p', {}, text))
  return h(
    'figure',
    { class: 'chart' },
    caption,
    ...(legend instanceof HTMLElement ? [legend] : legendOf(legend)),
    chart,
  )
}

/** About five ticks from 0 to the end of an axis of integers, such as steps. */
export const integerTicks = (end: number): Plot.ScaleOptions => ({
  ticks: ticks(0, end, 5).filter(Number.isInteger),
  tickFormat: String,
})

/** A logarithmic scale over values, with as many round ticks as fit. */
export function logarithmic(values: readonly number[]): Plot.ScaleOptions {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  const span = Math.log10(most / least)
  const steps = span > 2.5 ? [1] : span > 1.5 ? [1, 3] : span > 0.6 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 3, 5, 7]
  const decades = Array.from({ length: 31 }, (_, i) => i - 15)
  const ticks = decades
    .flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)))
    .filter((tick) => tick >= least / 1.001 && tick <= most * 1.001)
  return { type: 'log', grid: true, domain: [least, most], ticks, tickFormat: String }
}
