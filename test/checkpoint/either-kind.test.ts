/** AdapterModel.fromPretrained: the folder tells whether it is Lily or LoRA. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { AdapterModel, LilyModel, LoraModel, type PretrainedFiles } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { CONFIG, GOLDEN, newFolder, TENSORS, withFields } from '../support/checkpoint.js'
import { expectSameBits } from '../support/compare.js'

const LORA = fileURLToPath(new URL('../fixtures/lora/patterns', import.meta.url))

const compact = newFolder()
await (await LilyModel.fromPretrained(GOLDEN)).savePretrained(compact, { format: 'compact' })

/** One adapter is read twice, by the class of its kind and by that of both. */
function expectSame(found: AdapterModel, expected: LilyModel | LoraModel): void {
  expect(found.constructor).toBe(expected.constructor)
  expect((found as LilyModel | LoraModel).config).toEqual(expected.config)
  expect([...found.layers.keys()]).toEqual([...expected.layers.keys()])
  expect([...found.parameters().keys()]).toEqual([...expected.parameters().keys()])
  for (const [name, { value }] of expected.parameters()) {
    expectSameBits(name, found.parameters().get(name)!.value.data, value.data)
  }
}

/** Files that can be read once only. */
function* filesOf(folder: string): Iterable<File> {
  for (const name of [CONFIG, TENSORS]) yield new File([readFileSync(join(folder, name))], name)
}

const contentsOf = (folder: string): PretrainedFiles =>
  new Map([CONFIG, TENSORS].map((name) => [name, new Uint8Array(readFileSync(join(folder, name)))]))

describe('AdapterModel.fromPretrained', () => {
  it('reads a Lily and a LoRA adapter, in each form in which they are given', async () => {
    for (const [folder, Model] of [
      [GOLDEN, LilyModel],
      [LORA, LoraModel],
    ] as const) {
      const expected = await Model.fromPretrained(folder)
      for (const from of [folder, pathToFileURL(folder), filesOf(folder), contentsOf(folder)]) {
        expectSame(await AdapterModel.fromPretrained(from), expected)
      }
    }
  })

  it('reads the compact format', async () => {
    const model = await AdapterModel.fromPretrained(compact)
    expectSame(model, await LilyModel.fromPretrained(GOLDEN))
    expect(model).toBeInstanceOf(AdapterModel)
  })

  it('has the options of the classes, which LilyModel and LoraModel inherit with their own results', async () => {
    const model = await AdapterModel.fromPretrained(GOLDEN, { dtype: 'bfloat16', seed: 7 })
    expect(model.dtype).toBe('bfloat16')
    expect([...model.dropoutState.data]).toEqual([7, 0, 0, 0])
    expect(model.training).toBe(false)
    await expectRefused('ERR_LILY_ARGUMENT', 'is not a property of options', () =>
      AdapterModel.fromPretrained(GOLDEN, { type: 'bfloat16' } as never),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', 'expected peft_type \'LORA\', got "LILY"; load it with LilyModel', () =>
      LoraModel.fromPretrained(GOLDEN),
    )
  })

  it.each<[unknown, string]>([
    ['IA3', "expected peft_type 'LILY' or 'LORA', got \"IA3\"; only adapters of Lily and LoRA can be loaded"],
    [undefined, "expected peft_type 'LILY' or 'LORA', got none"],
  ])('refuses peft_type %o', async (type, message) => {
    await expectRefused('ERR_LILY_CHECKPOINT', message, () =>
      AdapterModel.fromPretrained(withFields({ peft_type: type })),
    )
  })

  it('refuses a field of the other method by its name', async () => {
    await expectRefused('ERR_LILY_CHECKPOINT', '"num_B"', () =>
      AdapterModel.fromPretrained(withFields({ num_B: 3 }, LORA)),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', '"lora_alpha"', () =>
      AdapterModel.fromPretrained(withFields({ lora_alpha: 3 })),
    )
  })
})
