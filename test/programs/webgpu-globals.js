// What the programs of the guides about WebGPU take as given, as global variables: a device, with TensorFlow.js on it, tensors
// on it, and a model. A program's own variables of these names hide them.
import { create, globals } from 'webgpu'

const gpu = create([])
Object.assign(globalThis, globals)
Object.defineProperty(globalThis, 'navigator', { value: { userAgent: '', gpu }, configurable: true })

const { createLily } = await import('lily-kernels/webgpu')
const { LilyModel } = await import('lily-kernels')
const tf = await import('@tensorflow/tfjs')
await import('@tensorflow/tfjs-backend-webgpu')
await tf.setBackend('webgpu')
tf.env().set('WEBGPU_CPU_FORWARD', false)
const { device } = /** @type {{ device: GPUDevice }} */ (/** @type {unknown} */ (tf.backend()))

const [tokens, dIn, dOut, rank, experts] = [6, 8, 4, 2, 3]
const lily = createLily(device)
const onDevice = (/** @type {number[]} */ ...shape) => lily.tensor(tf.randomNormal(shape).dataSync(), shape)
const activations = tf.matMul(tf.randomNormal([tokens, dIn]), tf.randomNormal([dIn, dIn]))
Object.assign(globalThis, {
  createLily,
  tf,
  device,
  tokens,
  dIn,
  activations,
  adapter: await gpu.requestAdapter(),
  a: onDevice(rank, dIn),
  router: onDevice(experts, rank),
  b: onDevice(experts, rank, dOut),
  buffer: device.createBuffer({ size: 4 * tokens * dIn, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST }),
  model: LilyModel.create({
    layers: [{ name: 'layers.0.q_proj', inFeatures: dIn, outFeatures: dOut }],
    config: { r: rank, numB: experts },
  }),
})
