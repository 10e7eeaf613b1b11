/** `lily-kernels export` as a child process. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ggufFile } from '../../lib/gguf/index.js'
import { LilyModel, LoraModel } from '../../lib/index.js'
import { runCli } from '../support/cli.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const BASE = { model_type: 'qwen3', num_attention_heads: 4 }
const [base, gguf] = [join(folder, 'config.json'), join(folder, 'adapter.gguf')]
writeFileSync(base, JSON.stringify(BASE))
const layers = [{ name: 'model.layers.0.self_attn.q_proj', inFeatures: 8, outFeatures: 8 }]

test('writes the file of saveGguf', async () => {
  const model = LoraModel.create({ layers, config: { r: 2, targetModules: ['q_proj'] }, seed: 1 })
  await model.savePretrained(join(folder, 'lora'))
  const args = ['export', join(folder, 'lora'), '--gguf', gguf, '--base', base, '--dtype', 'float16']
  const { code, stderr } = await runCli(args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: `adapter of 1 layer: ${gguf}\n` })
  const file = await ggufFile(model, { base: BASE, dtype: 'float16' })
  expect(readFileSync(gguf)).toEqual(Buffer.from(await file.arrayBuffer()))
})

test('refuses a router, files of the input, and another type', async () => {
  await LilyModel.create({ layers, config: { r: 2 }, seed: 1 }).savePretrained(join(folder, 'lily'))
  const adapter = join(folder, 'lily')
  const target = join(folder, 'lily.gguf')
  const routed = await runCli(['export', adapter, '--gguf', target, '--base', base])
  expect(routed.code).toBe(1)
  expect(routed.stderr).toContain('freeze it first')
  expect(existsSync(target)).toBe(false)
  const input = await runCli(['export', adapter, '--gguf', base, '--base', base])
  expect(input.stderr).toContain('it is a file of the input')
  const type = await runCli(['export', adapter, '--gguf', target, '--base', base, '--dtype', 'q8_0'])
  expect(type.stderr).toContain('float32, float16')
})
