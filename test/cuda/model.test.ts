/** Moving a model between the host and a device. */
import { expect, it } from 'vitest'
import { LilyModel, memoryStats } from '../../lib/index.js'
import { collect } from '../support/collect.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { numbersOf, place, runChain } from '../support/model.js'
import { expectRefused } from '../refusals/refused.js'

const options = {
  layers: ['0.q', '1.q'].map((name) => ({ name, inFeatures: 4, outFeatures: 4 })),
  config: { r: 2, numB: 2, strideA: 2, initWeights: false },
  seed: 1,
}
const device = { type: 'cuda', id: 0 } as const
const x = Float32Array.from({ length: 8 }, (_, i) => i / 8 - 0.5)

it('moves to the device and back, with deferred gradients', async () => {
  const host = LilyModel.create(options)
  const before = Array.from(host.parameters().values(), ({ value }) => (value.data as Float32Array).slice())
  const model = LilyModel.create(options).to(device)
  const parameters = [...model.parameters().values()]
  expect(model.device).toEqual(device)
  await runChain(model, x, [2, 4], x, { deferB: true })
  const [{ value: onDevice }] = parameters
  expect(model.to(device)).toBe(model)
  expect(parameters[0].value).toBe(onDevice)
  await expectRefused('ERR_LILY_DEVICE', 'device', () => model.to({ type: 'cpu' }))
  await model.toHost()
  expect(onDevice.isDisposed).toBe(true)
  expect(model.device.type).toBe('cpu')
  expect([...model.parameters().values()]).toEqual(parameters)
  for (const [i, { value }] of parameters.entries()) expectSameBits(`value ${i}`, value.data, before[i])

  const direct = LilyModel.create(options).to(device)
  await runChain(direct, x, [2, 4], x, { deferB: false })
  await direct.toHost()
  for (const [name, { grad }] of model.parameters()) {
    const expected = direct.parameters().get(name)?.grad.data as Float32Array
    expect(relativeError(grad.data as Float32Array, expected), name).toBeLessThan(1e-6)
  }
})

it('rejects operands and saved calls of its previous device', async () => {
  const model = LilyModel.create(options)
  const layer = model.layer('0.q')
  const { saved } = layer.forward({ x: { data: x, shape: [2, 4] } })
  model.to(device)
  await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => layer.backward({ dy: { data: x, shape: [2, 4] }, saved }))
  await expectRefused('ERR_LILY_DEVICE', 'x: expected device cuda:0, as the model has, got cpu:0', () =>
    layer.forward({ x: { data: x, shape: [2, 4] } }),
  )
  expect(layer.forward({ x: place(x, [2, 4]) }).y.device).toEqual(device)
})

it('releases all memory, including that of deferred gradients', async () => {
  await collect()
  const blocks = () => memoryStats(device).blocksInUse
  const before = blocks()
  const model = LilyModel.create(options).to(device)
  const layer = model.layer('0.q')
  const input = place(x, [2, 4])
  const backward = () => {
    const { y, saved } = layer.forward({ x: input })
    layer.backward({ dy: input, saved }, { deferB: true, needs: { dx: false } })
    y.dispose()
    saved.dispose()
  }
  backward()
  model.zeroGrad()
  const kept = blocks()
  backward()
  expect(blocks()).toBeGreaterThan(kept)
  expect((await numbersOf(layer.b.grad)).some((value) => value !== 0)).toBe(true)
  // The first fold allocates its gradient.
  const folded = blocks()
  backward()
  model.zeroGrad()
  expect(blocks()).toBe(folded)
  backward()
  input.dispose()
  model.dispose()
  expect(blocks()).toBe(before)
})
