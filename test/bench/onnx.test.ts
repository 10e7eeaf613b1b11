/** The table of `bench:onnx`, and which outputs it refuses; test/interop/bench-onnx.test.ts runs it. */
import { expect, test } from 'vitest'
import { onnxMarkdown, type OnnxReport, onnxSummary } from '../../bench/onnx/report.js'
import { type Bound, checkAgreement, type Way } from '../../bench/onnx/ways.js'

const timing = { spread: 0, samples: 3 }
const report: OnnxReport = {
  version: '1.2.3',
  measuredAt: '2000-01-02T03:04:05Z',
  command: 'npm run bench:onnx',
  complete: false,
  machine: { device: 'Some CPU', instructionSet: 'avx2', threads: 2, platform: 'linux-x64' },
  versions: { 'ONNX Runtime': '9.9' },
  sizes: { d: 64, rank: 8, experts: 3 },
  rows: [
    {
      adapter: 'lily-token',
      tokens: 128,
      difference: 1e-7,
      results: [
        { ...timing, way: 'base', median: 0.1, ratioToBase: 1 },
        { ...timing, way: 'baked', median: 0.125, ratioToBase: 1.25 },
        { ...timing, way: 'injected', median: 0.16, ratioToBase: 1.6 },
        { ...timing, way: 'lily-kernels', spread: 0.3, median: 2, ratioToBase: 20 },
      ],
    },
  ],
}

test('the table has tokens per second', () => {
  const text = onnxMarkdown(report)
  expect(text).toContain('## In ONNX Runtime on Some CPU, avx2, 2 threads')
  expect(text).toContain('`npm run bench:onnx`, lily-kernels 1.2.3, 2000-01-02, linux-x64. ONNX Runtime 9.9.')
  expect(text).toContain('4 linear layers of 64 x 64 in float32, with adapters of rank 8; Lily has 3 experts')
  expect(text).toContain('| Lily, token | 128 | 1280 | - | 1024 | 800 | 64.0 ! | 63 % |')
  expect(text).toContain('!: 1 of 4 times have a spread of more than ±25 %')
  expect(text).toContain(
    "Tokens per second with 128 tokens per call: injected models compute 63 to 63 % of the base's, " +
      "injected models compute 78 to 78 % of the baked models'.\n",
  )
  expect(text).toContain('Interrupted')
})

test('the sentences are of one number of tokens each, and of results without doubts', () => {
  const [{ results, ...row }] = report.rows
  const [base, baked, injected, layers] = results
  const certain = { ...layers, spread: 0.2 }
  const rows = [
    { ...row, tokens: 1, results: [base, injected, certain] },
    { ...row, tokens: 1, results: [base, { ...injected, ratioToBase: 2 }, { ...certain, ratioToBase: 1 }] },
    { ...row, tokens: 128, results: [base, { ...baked, spread: 0.3 }, { ...injected, ratioToBase: 4 }, layers] },
    { ...row, tokens: 512, results: [base, baked, { ...injected, spread: 0.3 }, layers] },
  ]
  expect(onnxSummary(rows)).toEqual([
    "Tokens per second with 1 token per call: injected models compute 50 to 63 % of the base's, " +
      'this package computes 0.08 to 2.00 times as many as injected models.',
    "Tokens per second with 128 tokens per call: injected models compute 25 to 25 % of the base's.",
  ])
})

const bound = (...y: number[]): Bound => ({ run: () => undefined, outputs: new Map([['y', Float32Array.from(y)]]) })

test('outputs are compared with those of this package, and the base has others', async () => {
  const check = (...all: [Way, Bound][]) => checkAgreement(new Map([...all, ['lily-kernels', bound(1, 2, 4)]]))
  expect(await check(['base', bound(1, 2, 3)], ['injected', bound(1, 2, 4.00001)])).toBeCloseTo(2e-6, 6)
  await expect(check(['baked', bound(1, 2.001, 4)])).rejects.toThrow('output y, baked, differs from lily-kernels')
  await expect(check(['injected', bound(1, NaN, 4)])).rejects.toThrow('differs from lily-kernels by NaN')
  await expect(check(['base', bound(1, 2, 4)])).rejects.toThrow('the adapter changes output y of the model by 0 only')
})
