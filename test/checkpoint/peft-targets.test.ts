/** The target_modules that are saved, as PEFT applies them to the modules of a base model: also to those that contain layers. */
import { describe, expect, it } from 'vitest'
import { LilyModel, LoraModel } from '../../lib/index.js'
import { CONFIG } from '../support/checkpoint.js'
import { expectRefused } from '../refusals/refused.js'

const ATTENTION = ['blocks.0.attn.to_out.0', 'blocks.1.attn.to_out.0']
const BOTH = [...ATTENTION, 'blocks.0.ff.net.0', 'blocks.1.ff.net.0']
const sized = (names: readonly string[]) => names.map((name) => ({ name, inFeatures: 4, outFeatures: 4 }))

async function targetsIn(files: readonly File[]): Promise<string[] | string> {
  const text = await files.find(({ name }) => name === CONFIG)!.text()
  return (JSON.parse(text) as { target_modules: string[] | string }).target_modules
}

/** All modules of a base model that has these layers. */
function modulesAround(layers: readonly string[]): string[] {
  const modules = new Set<string>()
  for (const layer of layers) {
    const parts = layer.split('.')
    parts.forEach((_, i) => modules.add(parts.slice(0, i + 1).join('.')))
  }
  return [...modules]
}

/** PEFT's rule for lists and for patterns. It refuses a match that is no linear layer. */
function matches(targets: string[] | string, module: string): boolean {
  if (typeof targets === 'string') return new RegExp(`^(?:${targets})$`).test(module)
  return targets.some((target) => module === target || module.endsWith(`.${target}`))
}

describe('target_modules that match a module which contains layers, which PEFT refuses, are saved as longer ends of names', () => {
  const cases: [
    why: string,
    names: string[],
    targetModules: string[] | string | undefined,
    saved: string[] | string,
  ][] = [
    ['without targetModules', ATTENTION, undefined, ['to_out.0']],
    ['a number', ATTENTION, ['0'], ['to_out.0']],
    ['a pattern', ATTENTION, String.raw`blocks\.\d.*`, ['to_out.0']],
    ['beside other layers', [...ATTENTION, 'blocks.0.attn.to_q'], ['0', 'to_q'], ['to_out.0', 'to_q']],
    ['no such module', ATTENTION, ['to_out.0'], ['to_out.0']],
    ['a pattern of layers', BOTH, String.raw`.*(to_out|net)\.0`, String.raw`.*(to_out|net)\.0`],
  ]
  it.each(cases.slice(0, 4))('%s', async (_, names, targetModules, saved) => {
    await expectSaved(names, targetModules, saved)
  })
  it.each(cases.slice(4))('or as they are: %s', async (_, names, targetModules, saved) => {
    await expectSaved(names, targetModules, saved)
  })

  async function expectSaved(names: string[], targetModules: string[] | string | undefined, saved: string[] | string) {
    const config = { r: 2, ...(targetModules !== undefined && { targetModules }) }
    const lily = LilyModel.create({ layers: sized(names), config, seed: 1 })
    const [a, b] = [await lily.pretrainedFiles(), await lily.pretrainedFiles({ format: 'compact' })]
    lily.freeze('uniform')
    const lora = await LoraModel.create({ layers: sized(names), config }).pretrainedFiles()
    for (const files of [a, b, lora, await lily.loraFiles()]) {
      const targets = await targetsIn(files)
      expect(targets).toEqual(saved)
      expect(modulesAround(names).filter((module) => matches(targets, module))).toEqual(names)
    }
    const shared = ({ layers }: LilyModel) =>
      new Map([...layers.values()].map(({ name, a, b }) => [name, [a.name, b.name]]))
    for (const files of [a, b]) expect(shared(await LilyModel.fromPretrained(files))).toEqual(shared(lily))
  }

  it('of LoRA, whatever layers have them', async () => {
    const model = LoraModel.create({ layers: sized(BOTH), config: { r: 2, targetModules: ['0'] } })
    const targets = await targetsIn(await model.pretrainedFiles())
    expect(targets).toEqual(['net.0', 'to_out.0'])
    expect(
      modulesAround(BOTH)
        .filter((module) => matches(targets, module))
        .sort(),
    ).toEqual([...BOTH].sort())
  })

  // PEFT gives the layers of each target a B of their own.
  it('or refused, if layers of Lily that share parameters have no end in common, except in the compact form', async () => {
    const model = LilyModel.create({ layers: sized(BOTH), config: { r: 2, targetModules: ['0'] }, seed: 1 })
    await expectRefused(
      'ERR_LILY_CHECKPOINT',
      'got some that match "blocks.0", which PEFT refuses because it contains layers; with longer ends of names PEFT shares ' +
        'other parameters with "blocks.0.ff.net.0"',
      () => model.pretrainedFiles(),
    )
    const files = await model.pretrainedFiles({ format: 'compact' })
    expect(await targetsIn(files)).toEqual(['0'])
    const read = await LilyModel.fromPretrained(files)
    expect(new Set([...read.layers.values()].map(({ b }) => b.name)).size).toBe(1)
    await expectRefused('ERR_LILY_CHECKPOINT', 'which PEFT refuses', () => read.pretrainedFiles())
    read.freeze('uniform')
    expect(await targetsIn(await read.loraFiles())).toEqual(['net.0', 'to_out.0'])
  })

  it('or refused, if no end of the name tells a layer from such a module', async () => {
    const names = ['0', 'x.0.y']
    const create = (targetModules: string[] | string) =>
      LoraModel.create({ layers: sized(names), config: { r: 2, targetModules } })
    await expectRefused(
      'ERR_LILY_CHECKPOINT',
      `got some that match "x.0", which PEFT refuses because it contains layers; pass create all layers of the base model, and ` +
        "suffixes such as 'q_proj' or a regular expression",
      () => create(['0', 'y']).pretrainedFiles(),
    )
    const lily = LilyModel.create({ layers: sized(names), config: { r: 2, targetModules: ['0', 'y'] } })
    lily.freeze('uniform')
    await expectRefused('ERR_LILY_CHECKPOINT', 'got some that match "x.0"', () => lily.loraFiles())
    const pattern = String.raw`0|x\.0\.y`
    expect(await targetsIn(await create(pattern).pretrainedFiles())).toBe(pattern)
    expect(modulesAround(names).filter((module) => matches(pattern, module))).toEqual(names)
  })
})
