import { openGpu } from './test/support/gpu.js'
import { planForward } from './lib/webgpu/plan/forward.js'
import { Problem } from './lib/webgpu/plan/problem.js'
import { moduleOf } from './lib/webgpu/wgsl/module.js'
import * as fs from 'node:fs'
const open = await openGpu()
if (typeof open === 'string') throw open
const device = await open()
const buf = (n: string) => device.createBuffer({ size: 1 << 26, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC, label: n })
const m = (n: string, pitch: number) => ({ buffer: buf(n), byteOffset: 0, dtype: 'float32' as const, pitch, accumulate: true })
const go = async (over: any) => {
  const s = { routing: 'batch', pool: 'probabilities', activation: 'none', scaling: 1, tokens: 37, dIn: 300, dOut: 130, rank: 9, experts: 3, groups: 1, ...over }
  const call: any = { ...s, x: m('x', s.dIn), a: m('a', s.dIn), router: m('router', s.rank), b: m('b', s.dOut), mask: null, sequenceOffsets: null, y: m('y', s.dOut), hidden: m('h', s.rank), probabilities: m('p', s.experts), weights: m('w', s.experts) }
  const plan = planForward(call)
  for (const p of plan.passes) {
    const mod = moduleOf(p, new Problem(call).common, device.limits)
    const t = performance.now()
    device.pushErrorScope('validation')
    const sm = device.createShaderModule({ code: mod.code })
    const t1 = performance.now()
    const layout = device.createBindGroupLayout({entries:[{binding:0,visibility:4,buffer:{type:'uniform'}},...mod.bindings.map((b,i)=>({binding:i+1,visibility:4,buffer:{type:b.isWritten?'storage' as const:'read-only-storage' as const}}))]})
    const pl = await device.createComputePipelineAsync({ layout: device.createPipelineLayout({bindGroupLayouts:[layout]}), compute: { module: sm } })
    const t2 = performance.now()
    const ub = device.createBuffer({size:1024,usage:GPUBufferUsage.UNIFORM|GPUBufferUsage.COPY_DST}); device.queue.writeBuffer(ub,0,mod.uniforms)
    const ws = buf('ws')
    const bg = device.createBindGroup({layout, entries:[{binding:0,resource:{buffer:ub}},...mod.bindings.map((b,i)=>({binding:i+1,resource:{buffer:b.buffer??ws,offset:b.offset,size:b.size}}))]})
    const run = async () => { const t=performance.now(); const e = device.createCommandEncoder(); const p = e.beginComputePass(); p.setPipeline(pl); p.setBindGroup(0,bg); p.dispatchWorkgroups(...mod.grid); p.end(); device.queue.submit([e.finish()]); await device.queue.onSubmittedWorkDone(); return (performance.now()-t).toFixed(0) }
    const cpu0 = process.cpuUsage()
    const first = await run(); const cpu1 = process.cpuUsage(cpu0); const second = await run()
    console.log('   first', first, 'cpu', (cpu1.user/1000).toFixed(0), 'second', second, 'grid', mod.grid[0])
    void t2
    const e = await device.popErrorScope(); if (e) console.log(e.message)
    console.log(s.routing, p.label, mod.code.length, 'module', (t1 - t).toFixed(0), 'pipeline', (performance.now() - t1).toFixed(0))
    fs.writeFileSync(`/tmp/w/wgpu/${s.routing}-${s.tokens}-${p.label}.wgsl`, mod.code)
  }
}
await go({})
await go({ tokens: 600, experts: 40, rank: 130 })
await go({ tokens: 5 })
device.destroy(); process.exit(0)
