import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GpuKernels } from '../../lib/webgpu/kernels.js'
import { makeCase, type Spec } from '../support/cases.js'
import { expectClose } from '../support/compare.js'
import { forward } from '../reference.js'
import { openGpu } from '../support/gpu.js'
import { checkResult } from '../support/check.js'
import { runOnGpu } from './run.js'

const open = await openGpu()
let device: GPUDevice
let kernels: GpuKernels
beforeAll(async () => {
  if (typeof open === 'string') throw new Error(open)
  device = await open()
  kernels = new GpuKernels(device)
})
afterAll(() => { console.log('pipelines', kernels.pipelineCount); device.destroy() })

const base = { tokens: 37, dIn: 300, dOut: 130, rank: 9, experts: 3, seed: 1, scaling: 0.5 }
const specs: Spec[] = [
  { ...base, routing: 'batch' }, { ...base, routing: 'batch', pool: 'logits', masked: 0.4, activation: 'relu' },
  { ...base, routing: 'token' }, { ...base, routing: 'uniform' }, { ...base, routing: 'fixed' }, {...base, routing: 'lora', experts: 1},
  { ...base, routing: 'sequence', lengths: [10, 0, 27], masked: 0.3 }, { ...base, routing: 'fixed', lengths: [10, 0, 27] },
  { ...base, routing: 'batch', tokens: 600, experts: 40, rank: 130, activations: 'bfloat16' },
]
describe('forward', () => {
  for (const [i, spec] of specs.entries()) test(`${i} ${spec.routing}`, async () => {
    const c = makeCase(spec)
    const r = await runOnGpu(kernels, device, c, { needs: {dx:false,da:false,dRouter:false,db:false} })
    const f = forward(c)
    expect(r.damaged).toEqual([])
    expectClose('hidden', r.values.hidden!, f.hidden)
    if (f.probabilities) expectClose('p', r.values.probabilities!, f.probabilities)
    if (r.values.weights) expectClose('w', r.values.weights, f.weights)
    const y = f.y.rounded(c.activations, true)
    expectClose('y', r.values.y!, y)
    for (const how of [{outputs: 'overwrite'}, {outputs:'add', deferB: spec.routing !== 'lora', oneBuffer: true, layout: () => ({gap: 3, margin: 1})}] as const) {
      const r = await runOnGpu(kernels, device, c, how)
      expect(r.damaged).toEqual([])
      checkResult(c, r, how)
    }
  })
})
