/** One copy of the package in a process, whatever its entries are loaded by; and what is said about the objects of a second one. */
import { execFileSync } from 'node:child_process'
import { cpSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import type * as Main from '../../lib/index.js'
import { LilyAdapters, lilyBackward, lilyForward, linearForward, LoraModel, tensor } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { smallOperands } from '../support/small.js'
import { temporaryFolder } from '../support/temporary.js'

it('import and require give the same objects, and subpaths those of the main package', () => {
  const program = `
    import assert from 'node:assert/strict'
    import { createRequire } from 'node:module'
    import * as main from 'lily-kernels'
    import * as gguf from 'lily-kernels/gguf'
    import * as mpi from 'lily-kernels/mpi'
    import * as onnx from 'lily-kernels/onnx'
    import * as webgpu from 'lily-kernels/webgpu'
    const require = createRequire(import.meta.url)
    const entries = { 'lily-kernels': main, gguf, mpi, onnx, webgpu }
    for (const [name, imported] of Object.entries(entries)) {
      const required = require(imported === main ? name : 'lily-kernels/' + name)
      const { default: _, ...named } = imported
      assert.deepEqual(Object.keys(named).sort(), Object.keys(required).sort())
      for (const key of Object.keys(named)) assert.equal(named[key], required[key], key)
    }
    assert.equal(main.Tensor, webgpu.Tensor)
    assert.equal(main.LilyError, webgpu.LilyError)
    const layers = [{ name: 'model.layers.0.self_attn.q_proj', inFeatures: 2, outFeatures: 2 }]
    const file = await gguf.ggufFile(main.LoraModel.create({ layers, config: { r: 1 } }), { base: { model_type: 'qwen3' } })
    assert((await gguf.loadGguf(file)) instanceof main.LoraModel)
    await assert.rejects(onnx.inject(new Uint8Array(1), await gguf.loadGguf(file)), main.LilyError)
    await mpi.init()
    await assert.rejects(mpi.broadcast(1), main.LilyError)
    await mpi.broadcast(new main.AdamW(main.LoraModel.create({ layers, config: { r: 1 } }).parameters(), { distributed: mpi }))
    console.log('right')`
  const options = { cwd: packageRoot, encoding: 'utf8' } as const
  expect(execFileSync(process.execPath, ['--input-type=module', '-e', program], options).trim()).toBe('right')
})

it('lily-kernels/webgpu alone loads neither the addon nor WebAssembly', () => {
  const program = `
    import assert from 'node:assert/strict'
    import { readFileSync } from 'node:fs'
    globalThis.WebAssembly = undefined
    const { Tensor, LilyError } = await import('lily-kernels/webgpu')
    assert(!readFileSync('/proc/self/maps', 'utf8').includes('lily'))
    assert.equal(typeof Tensor, 'function')
    console.log('right')`
  const options = { cwd: packageRoot, encoding: 'utf8' } as const
  expect(execFileSync(process.execPath, ['--input-type=module', '-e', program], options).trim()).toBe('right')
})

it('objects of a second copy are called so', async () => {
  const folder = join(temporaryFolder(), 'node_modules', 'lily-kernels')
  for (const name of ['dist', 'package.json']) cpSync(join(packageRoot, name), join(folder, name), { recursive: true })
  symlinkSync(join(packageRoot, 'build'), join(folder, 'build'))
  symlinkSync(join(packageRoot, 'node_modules'), join(folder, 'node_modules'))
  const other = createRequire(join(folder, 'package.json'))('lily-kernels') as typeof Main

  const { dy, ...operands } = smallOperands()
  const { x } = operands
  const theirs = other.lilyForward(operands)
  const layers = [{ name: 'q', inFeatures: 5, outFeatures: 4 }]
  const model = other.LoraModel.create({ layers, config: { r: 2, targetModules: ['q'] } })
  const got = (name: string) => `got an object of type ${name} of another copy of lily-kernels; install one copy`
  const refused = (message: string, call: () => unknown) => expectRefused('ERR_LILY_ARGUMENT', message, call)
  await refused(got('Saved'), () => lilyBackward({ dy }, theirs.saved))
  await refused(got('Tensor'), () => lilyForward({ ...operands, x: other.tensor(x.data, x.shape) }))
  await refused(got('LoraModel'), () => new LilyAdapters().addAdapter('one', model))
  expect(model).not.toBeInstanceOf(LoraModel)
  const weight = other.packLinear({ data: new Float32Array(20), shape: [4, 5] })
  await refused('got a PackedLinear', () => linearForward({ x, weight }))
  // An object of this copy in the wrong place is none of another one.
  const { message } = await refused('saved', () => lilyBackward({ dy }, tensor(x.data, x.shape) as never))
  expect(message).not.toContain('copy')
})
