/** The numbers of the documents: their tables and sentences about times have those of the reports in bench/results. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { LARGEST_PIECE } from '../../bench/distributed/network.js'
import { backwardSeconds, DEFAULTS, tablesOf as modelled } from '../../bench/distributed/tables.js'
import { packageRoot } from '../../lib/binding/root.js'

interface Shape {
  readonly tokens: number
  readonly d: number
  readonly rank: number
  readonly experts: number
}

/** A row of a report of `npm run bench`. */
interface Result {
  readonly shape: Shape
  readonly dtype: string
  readonly routing: string
  readonly pass: string
  readonly method: string
  readonly median: number
  readonly floor: number
  readonly ratioToLora: number
  readonly ratioToLayer: number
}

/** A row of a report of `npm run bench:peers`. */
interface Row {
  readonly shape: Shape
  readonly dtype: string
  readonly adapter: string
  readonly pass: string
  readonly results: readonly { readonly contender: string; readonly median: number; readonly ratioToOurs: number }[]
}

const TYPES = ['float32', 'bfloat16']
const PASSES = ['forward', 'forward+backward']

const read = (file: string) => readFileSync(join(packageRoot, file), 'utf8')
const bench = (name: string) => {
  const [{ results }] = JSON.parse(read(`bench/results/${name}.json`)) as [{ results: Result[] }]
  return results.filter(({ routing }) => routing === 'batch')
}
const peers = (name: string) => (JSON.parse(read(`bench/results/${name}.json`)) as { rows: Row[] }).rows

/** The cells of all tables, without the headers. */
function tablesOf(document: string): string[][][] {
  return tablesIn(read(document))
}

function tablesIn(text: string): string[][][] {
  const tables = text.match(/(?:^\|.*\n)+/gm) ?? []
  return tables.map((table) =>
    table
      .trimEnd()
      .split('\n')
      .slice(2)
      .map((line) => Array.from(line.matchAll(/[^|]+/g), ([cell]) => cell.trim())),
  )
}

const nameOf = ({ tokens, d, rank, experts }: Shape) => `${tokens}, ${d}, ${rank}, ${experts}`

/** The number with the digits of a cell; zero has no sign. */
const as = (cell: string, value: number) => value.toFixed(/\.(\d+)/.exec(cell)?.[1].length ?? 0).replace(/^-0$/, '0')

/** Compares the cells of a row with numbers, of which percentages are shares of 1. */
function expectCells(cells: string[], values: number[]): void {
  const expected = cells.map((cell, i) => {
    const [number] = /-?[\d.]+/.exec(cell)!
    return cell.replace(number, as(number, cell.includes('%') ? values[i] * 100 : values[i]))
  })
  expect(cells).toEqual(expected)
  expect(cells).toHaveLength(values.length)
}

/** The ratio of the PyTorch that is faster: eager or compiled. */
function toPyTorch({ results }: Row): number {
  return Math.min(...results.filter(({ contender }) => /PyTorch/.test(contender)).map((result) => result.ratioToOurs))
}

describe('docs/performance.md', () => {
  const tables = tablesOf('docs/performance.md')

  test('has the numbers of the Zen 5', () => {
    const results = bench('cpu-zen5-avx512bf16-2-threads')
    expect(tables[0].length).toBe(8)
    for (const [shape, ...cells] of tables[0]) {
      const values = TYPES.flatMap((type) => {
        const [forward, both] = PASSES.map((pass) =>
          results.find(
            (result) =>
              nameOf(result.shape) === shape &&
              result.dtype === type &&
              result.pass === pass &&
              result.method === 'lily',
          )!,
        )
        const times = [forward, both].flatMap(({ median, floor }) => [median * 1000, floor / median])
        return [...times, both.ratioToLora]
      })
      expectCells(cells, values)
    }
  })

  test('has the ratios to PyTorch', () => {
    const rows = peers('peers-zen5-avx512bf16-2-threads')
    expect(tables[1].length).toBe(8)
    for (const [shape, ...cells] of tables[1]) {
      const values = TYPES.flatMap((type) =>
        ['lily', 'lora'].flatMap((adapter) =>
          PASSES.map((pass) =>
            toPyTorch(
              rows.find(
                (row) =>
                  nameOf(row.shape) === shape && row.dtype === type && row.adapter === adapter && row.pass === pass,
              )!,
            ),
          ),
        ),
      )
      expectCells(cells, values)
    }
  })

  test('has the times of training steps', () => {
    const { rows } = JSON.parse(read('bench/results/step-xeon-avx512-2-threads.json')) as { rows: StepRow[] }
    expect(tables[2]).toHaveLength(rows.length)
    for (const [i, [model, adapter, ...cells]] of tables[2].entries()) {
      expect([model.startsWith('4 blocks'), adapter.toLowerCase()]).toEqual([
        rows[i].encoder === 'blocks',
        rows[i].adapter,
      ])
      const contenders = ['lily-kernels', 'PyTorch', 'TensorFlow.js']
      expectCells(
        cells,
        contenders.map((name) => rows[i].results.find(({ contender }) => contender === name)!.median * 1000),
      )
    }
  })

  test('has, in bench/README.md, the cost of dropout', () => {
    const { results } = JSON.parse(read('bench/results/dropout-xeon-2-threads.json')) as { results: DropoutRow[] }
    const names: Readonly<Record<string, string>> = {
      SSE2: 'portable',
      AVX2: 'avx2',
      'AVX-512': 'avx512',
      AVX512_BF16: 'avx512bf16',
    }
    const table = tablesOf('bench/README.md').at(-1)!
    expect(table.map(([set]) => set)).toEqual(Object.keys(names))
    for (const [set, ...cells] of table) {
      const values = TYPES.map(
        (type) =>
          results.find(
            ({ instructionSet, dtype, adapter }) =>
              instructionSet === names[set] && dtype === type && adapter === 'lily',
          )!.ratio,
      )
      expectCells(cells, values)
    }
  })
})

/** A row of the report of `npm run bench:step`. */
interface StepRow {
  readonly encoder: string
  readonly adapter: string
  readonly results: readonly { readonly contender: string; readonly median: number }[]
}

/** A row of the report of `npm run bench:dropout`. */
interface DropoutRow {
  readonly instructionSet: string
  readonly dtype: string
  readonly adapter: string
  readonly ratio: number
}

/** A row of the report of `npm run bench:rows`. */
interface RowsRow {
  readonly adapter: string
  readonly sequences: number
  readonly length: number
  readonly adapters: number
  readonly order: string
  readonly results: readonly { readonly contender: string; readonly method: string; readonly median: number }[]
}

test('docs/performance.md has the times of many adapters', () => {
  const { rows } = JSON.parse(read('bench/results/rows-xeon-avx512-2-threads.json')) as { rows: RowsRow[] }
  const names = { LoRA: 'lora', 'Lily, batch': 'lily', 'Lily, token': 'lily-token' } as Record<string, string>
  const table = tablesOf('docs/performance.md')[3]
  const microseconds = (row: RowsRow, contender: string, method: string) =>
    row.results.find((each) => each.contender === contender && each.method === method)!.median * 1e6
  expect(table.length).toBeGreaterThan(3)
  for (const [adapter, batch, adapters, order, ...cells] of table) {
    const row = rows.find(
      (each) =>
        each.adapter === names[adapter] &&
        `${each.sequences} x ${each.length}` === batch &&
        String(each.adapters) === adapters &&
        each.order === order,
    )!
    const ours = ['one', 'call', 'loop'].map((method) => microseconds(row, 'lily-kernels', method))
    expectCells(cells, [...ours, microseconds(row, 'PyTorch', 'loop')])
  }
})

/** A row of the report of `npm run bench:distributed`. */
interface DistributedRow {
  readonly library: string
  readonly bytes: number
  readonly results: readonly { readonly way: string; readonly median: number; readonly ratioToC: number }[]
}

/** A row of the report of `npm run bench:onnx`. */
interface OnnxRow {
  readonly adapter: string
  readonly tokens: number
  readonly results: readonly { readonly way: string; readonly median: number; readonly ratioToBase: number }[]
}

test('docs/performance.md has the ratios in ONNX Runtime', () => {
  const { rows } = JSON.parse(read('bench/results/onnx-zen5-avx512bf16-2-threads.json')) as { rows: OnnxRow[] }
  const table = tablesOf('docs/performance.md')[4]
  expect(table.map(([tokens]) => Number(tokens))).toEqual([...new Set(rows.map(({ tokens }) => tokens))])
  for (const [tokens, ...cells] of table) {
    const range = (of: string, to: string, factor: number, digits: number) => {
      const those = rows.filter((row) => String(row.tokens) === tokens)
      const ratioOf = ({ results }: OnnxRow, name: string) => results.find(({ way }) => way === name)!.ratioToBase
      const shares = those.map((row) => (ratioOf(row, to) / ratioOf(row, of)) * factor)
      return `${Math.min(...shares).toFixed(digits)} to ${Math.max(...shares).toFixed(digits)}`
    }
    expect(cells).toEqual([
      `${range('injected', 'base', 100, 0)} %`,
      `${range('injected', 'baked', 100, 0)} %`,
      range('lily-kernels', 'injected', 1, 2),
    ])
  }
})

describe('docs/linear.md', () => {
  const tables = tablesOf('docs/linear.md')

  test('has the ratios to OpenBLAS', () => {
    const reports = ['zen4-avx512bf16', 'xeon-avx512'].map((machine) => {
      const [rows] = tablesOf(`bench/results/linear-${machine}-2-threads.md`)
      return rows
    })
    expect(tables[0].length * 2).toBe(reports[0].length)
    for (const [row, [shape, ...cells]] of tables[0].entries()) {
      // A report has a row for each direction.
      const values = reports.flatMap((report) =>
        ['forward', 'backward'].flatMap((direction, i) => {
          const [name, ofRow, ...numbers] = report[2 * row + i]
          expect([name.replaceAll(' x ', ', '), ofRow]).toEqual([shape, direction])
          return numbers.slice(3, 5).map(Number)
        }),
      )
      expectCells(cells, values)
    }
  })

  test('has what Lily adds to the layer', () => {
    const results = bench('cpu-zen4-avx512bf16-2-threads-layer')
    expect(tables[1].length).toBeGreaterThan(4)
    for (const [shape, ...cells] of tables[1]) {
      const values = TYPES.flatMap((type) =>
        PASSES.flatMap((pass) => {
          const [layer, lily] = ['layer', 'lily-layer'].map((method) =>
            results.find(
              (result) =>
                nameOf(result.shape) === shape &&
                result.dtype === type &&
                result.pass === pass &&
                result.method === method,
            )!,
          )
          return [layer.median * 1000, lily.ratioToLayer - 1]
        }),
      )
      expectCells(cells, values)
    }
  })
})

describe('docs/distributed.md', () => {
  const [measured, ...tables] = tablesOf('docs/distributed.md').slice(-3)

  test('has the times of the report', () => {
    const { rows } = JSON.parse(read('bench/results/distributed-zen3-2-ranks.json')) as { rows: DistributedRow[] }
    expect(measured.map(([library, size]) => [library, size])).toEqual(
      rows.map(({ library, bytes }) => [library, String(bytes / 2 ** 20)]),
    )
    for (const [i, [, , ...cells]] of measured.entries()) {
      const [c, array, model] = rows[i].results
      expectCells(cells, [...[c, array, model].map(({ median }) => median * 1000), array.ratioToC, model.ratioToC])
    }
  })

  test('has the numbers of the model', () => {
    expect(tables).toEqual(modelled(DEFAULTS).flatMap(({ lines }) => tablesIn(`${lines.join('\n')}\n`)))
    const [[{ 4: moments }]] = tables
    expect(read('docs/distributed.md').replace(/\s+/g, ' ')).toMatch(
      new RegExp(
        `backward of ${(backwardSeconds(DEFAULTS) * 1e3).toFixed(0)} ms .*` +
          `${(Number(moments) / 8).toFixed(0)} MB in place of ${Number(moments).toFixed(0)} for LoRA on 8`,
      ),
    )
  })
})

test('docs/distributed.md and its model have the size of messages', () => {
  const [, size] = /kPieceBytes = size_t\{(\d+)\} << 10/.exec(read('native/mpi/exchange.cc'))!
  expect(LARGEST_PIECE).toBe(Number(size) * 1024)
  expect(read('docs/distributed.md')).toContain(`messages of at most ${size} KiB`)
})

test('docs/platforms.md has the times of WebAssembly', () => {
  const contenders = [
    ['wasm', 'lily-kernels'],
    ['portable', 'lily-kernels'],
    ['wasm', 'TensorFlow.js wasm'],
    ['wasm', 'PyTorch eager'],
  ]
  const times = contenders.map(([set, name]) =>
    peers(`peers-xeon-${set}-1-thread`)
      .filter(({ adapter }) => adapter === 'lily')
      .map(({ results }) => results.find(({ contender }) => contender === name)!.median * 1000),
  )
  const table = tablesOf('docs/platforms.md')[3]
  expect(table).toHaveLength(contenders.length)
  for (const [i, [, ...cells]] of table.entries()) expectCells(cells, times[i])
})

describe.each(['README.md', 'docs/index.md'])('%s', (document) => {
  const text = read(document).replace(/\s+/g, ' ')
  const range = (values: number[]) => `${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)}`

  test('has the times of Lily relative to LoRA on the Zen 5', () => {
    const ratios = TYPES.map((type) =>
      bench('cpu-zen5-avx512bf16-2-threads')
        .filter(({ dtype, pass, method }) => dtype === type && pass !== 'forward' && method === 'lily')
        .map(({ ratioToLora }) => ratioToLora),
    )
    expect(ratios.map(({ length }) => length)).toEqual([8, 8])
    const [float32, bfloat16] = ratios.map(range)
    expect(text).toMatch(
      new RegExp(`${float32} times as long as .*LoRA .*in float32, and ${bfloat16} times in bfloat16`),
    )
  })

  test('has the times of PyTorch on the Zen 5', () => {
    const rows = peers('peers-zen5-avx512bf16-2-threads').filter(({ adapter }) => adapter === 'lily')
    const both = rows.filter(({ pass }) => pass !== 'forward')
    const [float32, bfloat16] = TYPES.map((type) => range(both.filter(({ dtype }) => dtype === type).map(toPyTorch)))
    expect(both).toHaveLength(16)
    expect(text).toMatch(
      new RegExp(`PyTorch 2.6, .* takes ${float32} times as long .*in float32, and ${bfloat16} times in bfloat16`),
    )
    const slowest = both.reduce((most, row) => (toPyTorch(row) > toPyTorch(most) ? row : most))
    expect(slowest.shape.tokens, 'the most at one token').toBe(1)
    const slower = rows.filter((row) => toPyTorch(row) < 1)
    expect(slower.map((row) => [row.pass, toPyTorch(row).toFixed(2)])).toEqual([['forward', '0.95']])
    if (document === 'README.md') expect(text).toContain('Forward alone takes PyTorch less time in one case, 0.95 ')
  })
})
