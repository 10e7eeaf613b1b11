/** `bench:onnx` with small layers. The test checks that times exist, not their values. */
import { expect, test } from 'vitest'
import { adapters, type AdapterName, isMergeable } from '../../bench/onnx/block.js'
import { measureAdapter } from '../../bench/onnx/measure.js'
import { type OnnxRow } from '../../bench/onnx/report.js'
import { ways } from '../../bench/onnx/ways.js'
import type { Ort } from '../../bench/peers/ort.js'
import { requireLibrary } from '../support/interop.js'

const ort = requireLibrary('onnxruntime-node') as Ort
const sizes = { d: 32, rank: 4, experts: 3 }
const limits = { seconds: 0, rounds: 2, sampleSeconds: 0, signal: new AbortController().signal }

async function measure(adapter: AdapterName): Promise<OnnxRow[]> {
  const rows: OnnxRow[] = []
  for await (const row of measureAdapter(ort, adapter, sizes, [1, 7], 1, limits)) rows.push(row)
  return rows
}

test.each(adapters)('all ways to run %s agree, and are measured', async (adapter) => {
  const rows = await measure(adapter)
  expect(rows.map(({ tokens }) => tokens)).toEqual([1, 7])
  const expected = ways.filter((way) => way !== 'merged' || isMergeable(adapter))
  for (const { results, difference } of rows) {
    expect(results.map(({ way }) => way)).toEqual(expected)
    for (const { median, samples, ratioToBase } of results) {
      expect(median).toBeGreaterThan(0)
      expect(samples).toBe(2)
      expect(ratioToBase).toBeGreaterThan(0)
    }
    expect(results[0].ratioToBase).toBe(1)
    // The sums of ONNX Runtime have another order.
    expect(difference).toBeGreaterThan(0)
  }
})
