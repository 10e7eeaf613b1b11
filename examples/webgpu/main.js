// Trains a Lily adapter on a GPUDevice: the gradients come from the kernels, and AdamW runs on the device, too.
//
//     npm install webgpu    (Dawn for Node.js; a browser has navigator.gpu)
//     node examples/webgpu/main.js
//
// The task: the adapter of one layer learns the difference between the layer's weight and another one.
import { AdamW, LilyModel } from 'lily-kernels'
import { createLily } from 'lily-kernels/webgpu'
import { create } from 'webgpu'

const gpu = globalThis.navigator?.gpu ?? create([])
const adapter = await gpu.requestAdapter()
if (adapter === null) {
  console.error(
    'There is no adapter of WebGPU; on Debian install mesa-vulkan-drivers and libvulkan1 for a software one.',
  )
  process.exit(1)
}
const device = await adapter.requestDevice()
const lily = createLily(device)

const [tokens, features, r] = [64, 32, 4]
let state = 1
const random = (length, scale) =>
  Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return scale * (state / 2 ** 31 - 1)
  })

const layers = [{ name: 'proj', inFeatures: features, outFeatures: features }]
const model = LilyModel.create({ layers, config: { r, numB: 2 }, seed: 1 }).to(lily.device)
const optimiser = new AdamW(model.parameters(), { lr: 0.02 })
const layer = model.layer('proj')

// Activations go to the device once. What the layer must add has rank 2.
const numbers = random(tokens * features, 1)
const x = lily.tensor(numbers, [tokens, features])
const [left, right] = [random(2 * features, 1), random(2 * features, 0.5)]
const wanted = Float32Array.from({ length: tokens * features }, (_, i) => {
  const [token, column] = [Math.floor(i / features), i % features]
  let sum = 0
  for (let k = 0; k < 2; k++) {
    for (let d = 0; d < features; d++) {
      sum += numbers[token * features + d] * left[k * features + d] * right[k * features + column]
    }
  }
  return sum
})

const losses = []
for (let step = 0; step < 60; step++) {
  const { y, saved } = layer.forward({ x })
  const output = (await y.toHost()).data
  const error = output.map((value, i) => value - wanted[i])
  losses.push(error.reduce((sum, e) => sum + e * e, 0) / error.length)
  const dy = lily.tensor(
    error.map((e) => (2 * e) / error.length),
    [tokens, features],
  )
  layer.backward({ dy, saved }, { needs: { dx: false } })
  for (const used of [y, dy, saved]) used.dispose()
  optimiser.step()
  optimiser.zeroGrad()
}
console.log('the loss fell below a tenth:', losses.at(-1) < losses[0] / 10)

const { blocksInUse, allocations } = lily.memoryStats()
console.log('buffers in use:', blocksInUse, 'of', allocations, 'created')
device.destroy()
process.exit(0) // Dawn keeps a process alive
