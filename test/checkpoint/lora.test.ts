/**
 * Export of a frozen Lily adapter as a LoRA adapter folder of PEFT.
 *
 * @project cpu wasm
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { LilyModel } from '../../lib/index.js'
import { forward } from '../support/reference.js'
import { CONFIG, GOLDEN, goldenCopy, newFolder, readFields, TENSORS, withFields } from '../support/checkpoint.js'
import { relativeError } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

describe('saveLora', () => {
  it('gives the same outputs as the frozen layers', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const random = randomFrom(3)
    const weights = new Map(Array.from(model.layers.keys(), (name) => [name, gaussian(random, 3)]))
    model.freeze(weights)
    const folder = newFolder()
    await model.saveLora(folder)

    const { r, lora_alpha: alpha } = readFields(folder) as { r: number; lora_alpha: number }
    const stored = readSafetensors(join(folder, TENSORS))
    expect(stored.size).toBe(2 * 8)
    for (const [name, { inFeatures, outFeatures, a, b }] of model.layers) {
      const loraA = stored.get(`base_model.model.${name}.lora_A.weight`)!
      const loraB = stored.get(`base_model.model.${name}.lora_B.weight`)!
      expect([loraA.shape, loraB.shape]).toEqual([
        [r, inFeatures],
        [outFeatures, r],
      ])
      const sizes = { tokens: 5, dIn: inFeatures, dOut: outFeatures, rank: r, x: gaussian(random, 5 * inFeatures) }
      const lora = forward({
        ...sizes,
        routing: 'lora',
        experts: 1,
        a: loraA.data,
        b: loraB.data,
        scaling: alpha / r,
      })
      const lily = forward({
        ...sizes,
        routing: 'fixed',
        experts: 3,
        a: a.value.data,
        b: b.value.data,
        weights: weights.get(name)!,
        scaling: 2,
      })
      // The combined projector is rounded to float32 once.
      expect(relativeError(lora.y.value, lily.y.value), name).toBeLessThan(2 ** -23)
    }
  })

  it('writes the fields that PEFT requires and those that describe the adapter', async () => {
    const source = withFields({
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'a/model',
    })
    const model = await LilyModel.fromPretrained(source)
    model.freeze('uniform')
    const folder = newFolder()
    await model.saveLora(folder)
    expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS].sort())
    expect(readFields(folder)).toMatchObject({
      peft_type: 'LORA',
      r: 8,
      lora_alpha: 16,
      use_rslora: false,
      use_dora: false,
      lora_dropout: 0,
      bias: 'none',
      fan_in_fan_out: false,
      inference_mode: true,
      target_modules: ['q_proj', 'v_proj'],
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'a/model',
    })
    expect(readFields(folder)).not.toHaveProperty('num_B')
  })

  it('rejects layers with a router, and a folder that holds a Lily adapter', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const folder = join(newFolder(), 'none')
    await expectRefused('ERR_LILY_ARGUMENT', 'freeze it first', () => model.saveLora(folder))
    expect(existsSync(folder)).toBe(false)

    model.freeze('uniform')
    const lily = goldenCopy()
    await expectRefused('ERR_LILY_CHECKPOINT', 'choose another folder', () => model.saveLora(lily))
    expect(readFields(lily)).toEqual(readFields(GOLDEN))
  })

  it('rejects a model that is disposed of', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => model.saveLora(join(newFolder(), 'none')))
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => model.loraFiles())
  })
})
