import * as Plot from '@observablehq/plot'
import type { Report, Result } from '../../../bench/harness/report.js'
import type { MemoryRoof } from '../../../bench/roofs/roofs.js'
import type { Method } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, logarithmic, plot } from '../../../report/chart.js'
import { type Element, h } from '../../../report/document.js'
import { giga, size } from '../../../report/format.js'
import { legend } from '../../../report/legend.js'
import type { Row } from '../rows.js'
import { methodStyles, passText } from './method-styles.js'
import { disturbedKey, disturbedMark } from './noise.js'

interface Roof {
  readonly text: string
  readonly color: string
  readonly dash?: string
  /** GFLOP/s at an intensity. */
  readonly at: (intensity: number) => number
}

/** The arithmetic roofs, and the memory roofs of the smallest and the largest buffer. */
function roofsOf({ flops, bfloat16Flops, memory }: NonNullable<Report['roofs']>): Roof[] {
  const flat = (type: string, rate: number): Roof => ({
    text: `${type}, ${giga(rate)} GFLOP/s`,
    color: 'var(--muted)',
    at: () => rate / 1e9,
  })
  const slope = ({ bytes, read }: MemoryRoof): Roof => ({
    text: `${size(bytes)}, ${giga(read)} GB/s`,
    color: 'var(--memory)',
    at: (intensity) => (intensity * read) / 1e9,
  })
  const dash = '6 4'
  return [
    flat('float32', flops),
    ...(bfloat16Flops > 1.2 * flops ? [{ ...flat('bfloat16', bfloat16Flops), dash }] : []),
    slope(memory.at(-1)!),
    { ...slope(memory[0]), dash },
  ]
}

const disturbance = ({ doubts }: Result) => ({ isDisturbed: doubts.length > 0 })

/** Attained FLOP/s by arithmetic intensity, below the memory and arithmetic roofs. */
export function rooflineChart(rows: readonly Row[], { roofs }: Report, height: number): Element | null {
  if (roofs === null) return null
  const shown: readonly Method[] = ['lily', 'lora', 'lily-composed']
  const marks = rows.flatMap(({ by }) => shown.flatMap((method) => by.get(method) ?? []))
  const intensity = ({ flops, bytes }: Result): number => flops / bytes
  const gigaflops = ({ flops, median }: Result): number => flops / median / 1e9

  // The frame has all marks, all arithmetic roofs, and the points where the memory roofs reach the roof of float32.
  const ridges = [roofs.memory[0], roofs.memory.at(-1)!].map(({ read }) => roofs.flops / read)
  const rates = [...marks.map(gigaflops), roofs.flops / 1e9, roofs.bfloat16Flops / 1e9]
  const xs = [...marks.map(intensity), ...ridges]
  const [left, right] = [Math.min(...xs) / 1.5, Math.max(...xs) * 1.5]
  const [bottom, top] = [Math.min(...rates) / 1.5, Math.max(...rates) * 1.2]
  const lines = roofsOf(roofs)
  const points = lines.flatMap(({ text, color, dash, at }) =>
    endsInFrame(at, [left, right], [bottom, top]).map((x) => ({ x, y: at(x), text, color, dash })),
  )
  return figure(
    'Roofline',
    'Attained GFLOP/s by FLOPs per byte of the minimum traffic, with the roofs of this machine.',
    h(
      'div',
      {},
      legend('dot', [
        { text: 'Lily', color: methodStyles.lily.color },
        { text: 'Lily, unfused', color: methodStyles.lily.color, hollow: true },
        { text: 'LoRA of the same rank', color: methodStyles.lora.color },
        ...disturbedKey(marks.map(disturbance)),
      ]),
      legend('line', lines),
    ),
    plot('Roofline: GFLOP/s by arithmetic intensity', {
      x: { ...logarithmic([left, right]), label: 'FLOP / byte' },
      y: { ...logarithmic([bottom, top]), label: 'GFLOP/s' },
      height,
      marginTop: 32,
      marks: [
        ...lines.map(({ text, color, dash }) =>
          Plot.line(points, {
            filter: (point: { text: string }) => point.text === text,
            x: 'x',
            y: 'y',
            stroke: color,
            strokeDasharray: dash,
          }),
        ),
        Plot.dot(marks, {
          x: intensity,
          y: gigaflops,
          stroke: ({ method }: Result) => methodStyles[method].color,
          fill: ({ method }: Result) => (method === 'lily-composed' ? 'none' : methodStyles[method].color),
          fillOpacity: 0.55,
          r: 3,
          title: (result: Result) =>
            `${methodStyles[result.method].text}, ${shapeText(result.shape)}, ${result.dtype}, ${result.routing}, ` +
            `${passText(result.pass)}: ${gigaflops(result).toFixed(0)} GFLOP/s`,
        }),
        disturbedMark(
          marks.map((result) => ({ ...disturbance(result), x: intensity(result), y: gigaflops(result) })),
          { x: 'x', y: 'y', dy: -8 },
        ),
      ],
    }),
  )
}

/** The intensities between which a roof, whose logarithm is linear, lies in the frame; none if it does not. */
function endsInFrame(at: Roof['at'], [left, right]: number[], [bottom, top]: number[]): number[] {
  const rate = at(1)
  if (at(2) === rate) return [left, right]
  const [begin, end] = [Math.max(left, bottom / rate), Math.min(right, top / rate)]
  return begin < end ? [begin, end] : []
}
