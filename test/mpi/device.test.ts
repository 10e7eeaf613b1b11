/** Parameters on a CUDA device, whose gradients go through pinned memory: a GPU, otherwise the emulator. */
import { describe, expect, test } from 'vitest'
import { AdamW, LilyModel } from '../../lib/index.js'
import { findCuda } from '../cuda/find.js'
import { answersOf, libraries, type Skip, skipWithout } from '../support/mpi.js'
import type { Input } from './programs/bits.js'
import type { Answer } from './programs/device.js'
import { type Averages, expectAverages } from '../support/mpi-average.js'

const ranks = 2
const layers = [0, 1].map((l) => ({ name: `${l}.proj`, inFeatures: 8, outFeatures: 8 }))
const bytesOf = ({ data }: { data: ArrayBufferView }) =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()

describe.for(libraries)('with $name', ({ library }) => {
  const environment = (skip: Skip): Record<string, string> => {
    skipWithout(skip, library)
    const found = findCuda()
    if (typeof found === 'string') skip(true, found)
    return found as Record<string, string>
  }

  test('averages have the bits of those on the host', async ({ skip }) => {
    const env = environment(skip)
    const input: Input = { calls: ['odd sizes', 'tiny buckets', 'a rank without a token'], device: 'cuda' }
    expectAverages(input.calls, await answersOf<Averages>('bits', { library, ranks, env, input }))
  })

  test('broadcasts and steps', async ({ skip }) => {
    const env = environment(skip)
    const answers = await answersOf<Answer>('device', { library, ranks, env })
    const config = { r: 4, targetModules: ['proj'], initWeights: false }
    const model = LilyModel.create({ layers, config, seed: 0 })
    const start = new Map(Array.from(model.parameters(), ([name, { value }]) => [name, bytesOf(value)]))
    for (const [p, { grad }] of [...model.parameters().values()].entries()) {
      // The weights are 1 and 2 of 3, and the gradients once and twice the same.
      const data = grad.data as Float32Array
      for (let i = 0; i < data.length; i++) data[i] = (5 / 3) * ((i % 7) + p - 3)
    }
    const optimiser = new AdamW(model.parameters(), { lr: 0.1, maxNorm: 1 })
    optimiser.step()
    const numbers = (bytes: Uint8Array) => new Float32Array(bytes.slice().buffer)
    for (const answer of answers) {
      const { start: _, mixed, ...own } = answer
      const { start: first, mixed: refusal, ...expected } = answers[0]
      expect(own, 'bits of all ranks').toEqual(expected)
      expect([answer.start, first]).toEqual([start, start])
      for (const [name, { value, grad }] of model.parameters()) {
        const [values, gradients] = [numbers(answer.values.get(name)!), numbers(answer.gradients.get(name)!)]
        for (const [i, number] of (value.data as Float32Array).entries()) expect(values[i]).toBeCloseTo(number, 5)
        for (const [i, number] of (grad.data as Float32Array).entries()) expect(gradients[i]).toBeCloseTo(number, 5)
      }
      expect(answer.norm).toBeCloseTo(optimiser.gradNorm!.data[0], 3)
      expect(answer.order).toEqual(['average', 'gather'])
      expect(mixed).toEqual(refusal)
      expect(mixed?.message).toMatch(/cuda/)
      expect(mixed?.message).toMatch(/cpu/)
    }
  })
})
