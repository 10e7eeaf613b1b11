/** Sharing of parameters between layers, and its configuration. */
import { describe, expect, it } from 'vitest'
import type { LayerShape, LilyConfigOptions } from '../../lib/index.js'
import { readConfig } from '../../lib/model/lily-config.js'
import { shareLayers } from '../../lib/model/sharing.js'
import { projections } from '../support/model.js'
import { expectRefused } from '../refusals/refused.js'

const share = (layers: readonly LayerShape[], config: LilyConfigOptions) => shareLayers(layers, readConfig(config))

/** The names of a, router and b of a layer, without their common suffix. */
function usedBy(sharing: ReturnType<typeof share>, name: string): (string | undefined)[] {
  const layer = sharing.layers.get(name)
  return [layer?.a, layer?.router, layer?.b].map((parameter) => parameter?.replace(/\.lily_\w+\.weight$/, ''))
}

const square = (...names: string[]): LayerShape[] => names.map((name) => ({ name, inFeatures: 4, outFeatures: 4 }))

it('the configuration has the defaults of PEFT, and computes as PEFT does', () => {
  const targets = { targetModules: null, excludeModules: null, layersToTransform: null, layersPattern: null }
  const modes = { routing: 'batch', pool: 'probabilities', activation: 'none', dropout: 0 }
  expect(readConfig({})).toEqual({ r: 32, strideA: 1, numB: 2, scaling: 1, ...targets, initWeights: true, ...modes })
})

describe('shareLayers', () => {
  it('shares A within blocks of strideA layers (the last may be shorter), B within a target, and no router', () => {
    const layers = projections(5, { q_proj: [8, 8], k_proj: [8, 4], v_proj: [8, 4] })
    const sharing = share(layers, { r: 3, strideA: 2, numB: 4, targetModules: ['v_proj', 'q_proj'] })
    const name = (l: number, target: string) => `model.layers.${l}.self_attn.${target}`
    for (const target of ['q_proj', 'v_proj']) {
      for (let l = 0; l < 5; l++) {
        const owners = [name(l - (l % 2), target), name(l, target), name(0, target)]
        expect(usedBy(sharing, name(l, target))).toEqual(owners)
      }
    }
    expect(sharing.layers.has(name(0, 'k_proj'))).toBe(false)
    expect(sharing.parameters.size).toBe(2 * (3 + 5 + 1))
    expect(sharing.parameters.get(`${name(4, 'v_proj')}.lily_A.weight`)).toEqual({
      name: `${name(4, 'v_proj')}.lily_A.weight`,
      kind: 'a',
      shape: [3, 8],
      layers: [name(4, 'v_proj')],
    })
    expect(sharing.parameters.get(`${name(0, 'v_proj')}.lily_B.weight`)).toMatchObject({ shape: [12, 4], kind: 'b' })
    expect(sharing.parameters.get(`${name(3, 'q_proj')}.lily_router.weight`)?.shape).toEqual([4, 3])
  })

  it("has logits in the place of the router of a layer with routing 'learned'", () => {
    const { parameters } = share(square('0.q', '1.q'), { r: 3, numB: 4, routing: 'learned', targetModules: ['q'] })
    expect(parameters.get('1.q.lily_router.weight')).toEqual({
      name: '1.q.lily_router.weight',
      kind: 'router',
      shape: [4, 1],
      layers: ['1.q'],
    })
  })

  it('the longest suffix wins, in any order of targets', () => {
    const layers = square('a.mlp.proj', 'a.attn.proj', 'b.mlp.proj', 'b.attn.proj')
    const suffixes = ['proj', 'attn.proj', 'b.attn.proj']
    const orders = [suffixes, [...suffixes].reverse(), ['attn.proj', 'b.attn.proj', 'proj']]
    for (const targetModules of orders) {
      const sharing = share(layers, { targetModules })
      expect(Array.from(sharing.layers.values(), ({ target }) => target)).toEqual([
        'proj',
        'attn.proj',
        'proj',
        'b.attn.proj',
      ])
    }
  })

  it('a suffix begins after a dot or is the whole name', () => {
    const sharing = share(square('a.q', 'a.xq', 'q', 'a.q.base'), { targetModules: ['q'] })
    expect([...sharing.layers.keys()]).toEqual(['a.q', 'q'])
  })

  it('layers with the same suffix and another shape form another target', () => {
    const sharing = share([...square('0.q', '1.q'), { name: '2.q', inFeatures: 4, outFeatures: 6 }, ...square('3.q')], {
      strideA: 2,
      targetModules: ['q'],
    })
    expect(usedBy(sharing, '2.q')).toEqual(['2.q', '2.q', '2.q'])
    // The third layer of the first shape begins the second block.
    expect(usedBy(sharing, '3.q')).toEqual(['3.q', '3.q', '0.q'])
  })

  it('layers of one target and other sizes share nothing', () => {
    const layers = projections(2, { q: [4, 4] }).concat(
      projections(2, { q: [8, 4] }).map((l) => ({ ...l, name: `x.${l.name}` })),
    )
    const sharing = share(layers, { strideA: 4, targetModules: ['q'] })
    const names = layers.map(({ name }) => name)
    expect(names.map((name) => usedBy(sharing, name)[0])).toEqual([names[0], names[0], names[2], names[2]])
    expect(names.map((name) => usedBy(sharing, name)[2])).toEqual([names[0], names[0], names[2], names[2]])
  })

  it('blocks follow the given order, not the order of names', () => {
    const sharing = share(square('10.q', '2.q', '1.q'), { strideA: 2, targetModules: ['q'] })
    expect(usedBy(sharing, '2.q')).toEqual(['10.q', '2.q', '10.q'])
    expect(usedBy(sharing, '1.q')).toEqual(['1.q', '1.q', '10.q'])
  })

  it('a regular expression must match the whole name, and forms one target', () => {
    const layers = square('layers.0.q', 'layers.0.v', 'layers.1.q', 'head')
    const sharing = share(layers, { targetModules: String.raw`layers\.(?P<number>\d)\.(q|v)` })
    expect([...sharing.layers.keys()]).toEqual(['layers.0.q', 'layers.0.v', 'layers.1.q'])
    expect(usedBy(sharing, 'layers.1.q')[2]).toBe('layers.0.q')
  })

  it('without targets every layer is adapted, grouped by the last part of its name', () => {
    const sharing = share(square('a.q', 'a.v', 'b.q'), {})
    expect(Array.from(sharing.layers.values(), ({ target }) => target)).toEqual(['q', 'v', 'q'])
  })

  it.each<[string, LilyConfigOptions, string[]]>([
    ['a suffix', { excludeModules: ['v'] }, ['layers.0.q', 'layers.1.q', 'blocks.1.q']],
    ['a pattern', { excludeModules: String.raw`m\.layers\..*` }, ['blocks.1.q']],
    ['other layer numbers', { layersToTransform: 1 }, ['layers.1.q', 'blocks.1.q']],
    [
      'other lists of layers',
      { layersToTransform: [0, 1], layersPattern: 'layers' },
      ['layers.0.q', 'layers.0.v', 'layers.1.q'],
    ],
  ])('excludes %s', (_what, config, expected) => {
    const layers = square('m.layers.0.q', 'm.layers.0.v', 'm.layers.1.q', 'm.blocks.1.q')
    const sharing = share(layers, { targetModules: ['q', 'v'], ...config })
    expect([...sharing.layers.keys()]).toEqual(expected.map((name) => `m.${name}`))
  })

  it('no layer by its number whose whole name is a target, as PEFT does', () => {
    const config = { targetModules: ['m.layers.0.q', 'layers.1.q', 'head'], layersToTransform: [7] }
    const sharing = share(square('m.layers.0.q', 'm.layers.1.q', 'head', 'm.layers.7.head'), config)
    expect([...sharing.layers.keys()]).toEqual(['m.layers.0.q', 'head', 'm.layers.7.head'])
    const all = share(square('m.layers.0.q', 'm.layers.1.q', 'head'), { layersToTransform: [0] })
    expect([...all.layers.keys()], 'without targets').toEqual(['m.layers.0.q'])
  })

  it('by the number in the first list of layersPattern that a name has', () => {
    const config = { layersToTransform: [1], layersPattern: ['layers', 'blocks'] }
    const sharing = share(square('m.layers.1.blocks.2.q', 'm.layers.2.blocks.1.q', 'm.blocks.1.q'), config)
    expect([...sharing.layers.keys()]).toEqual(['m.layers.1.blocks.2.q', 'm.blocks.1.q'])
  })

  it('no layer by its number where a pattern chooses the layers', () => {
    const config = readConfig({ targetModules: '.*q', layersToTransform: [1], layersPattern: 'layers' })
    expect(config).toMatchObject({ targetModules: '.*q', layersToTransform: null, layersPattern: null })
    expect(shareLayers(square('layers.0.q', 'layers.1.q'), config).layers.size).toBe(2)
  })
})

describe('rejects', () => {
  it.each<[string, unknown]>([
    ['config', undefined],
    ['rank', { rank: 4 }],
    ['r', { r: 0 }],
    ['r', { r: 4097 }],
    ['strideA', { strideA: 1.5 }],
    ['numB', { numB: 1 }],
    ['numB', { numB: 65 }],
    ['scaling', { scaling: Infinity }],
    ['targetModules', { targetModules: [] }],
    ['targetModules', { targetModules: ['q', ''] }],
    ['targetModules', { targetModules: '(' }],
    ['targetModules', { targetModules: 'all-linear' }],
    ["got 'all-linear'", { targetModules: 'All-Linear' }],
    ['excludeModules', { excludeModules: 3 }],
    ['layersToTransform', { layersToTransform: -1 }],
    ['layersPattern', { layersPattern: 'layers' }],
    ['layersPattern', { layersPattern: '(', layersToTransform: 1 }],
    ['initWeights', { initWeights: 'yes' }],
  ])('%s of the configuration %o', async (argument, config) => {
    await expectRefused('ERR_LILY_ARGUMENT', argument, () => readConfig(config))
  })

  it.each<[string, unknown]>([
    ['layers', undefined],
    ['layers[0]', ['q']],
    ['layers[0].name', square('')],
    // Their last component would be a target, which a configuration cannot name.
    ['layers[0].name', square('layers.0.')],
    ['layers[1].name', square('q', 'layers..q')],
    ['layers[0].name', square('.q')],
    ['layers[0].inFeatures', [{ name: 'q', inFeatures: 0, outFeatures: 1 }]],
    ['outFeatures', [{ name: 'q', inFeatures: 1 }]],
    ['features', [{ name: 'q', inFeatures: 1, outFeatures: 1, features: 1 }]],
    ['layers[1].name', square('q', 'q')],
    ['layers: expected at least one', []],
    ['targetModules', square('k')],
  ])('%s of the layers %o', async (argument, layers) => {
    await expectRefused('ERR_LILY_ARGUMENT', argument, () => share(layers as LayerShape[], { targetModules: ['q'] }))
  })

  it.each<[string, LilyConfigOptions]>([
    ['targetModules: expected a match among 3 layers', { targetModules: ['k'], excludeModules: ['q'] }],
    ['targetModules: expected a match of a regular expression for whole names among 3 layers', { targetModules: 'q' }],
    ['excludeModules: expected a layer without a match, got none', { excludeModules: ['q', 'v'] }],
    ['excludeModules: expected a layer without a match, got none', { targetModules: ['q'], excludeModules: ['q'] }],
    ['layersToTransform: expected an index among those of 3 layers, got none', { layersToTransform: [5] }],
    [
      'layersToTransform: expected an index among those of 2 layers after a match of layersPattern, got none',
      { targetModules: ['q'], layersToTransform: [0], layersPattern: 'blocks' },
    ],
  ])('no layer that is left: %s', async (message, config) => {
    const layers = square('m.layers.0.q', 'm.layers.1.q', 'm.layers.1.v')
    await expectRefused('ERR_LILY_ARGUMENT', message, () => share(layers, config))
  })

  it.each<[string, string | string[], string]>([
    ["'q_project'", ['q_project'], "'m.layers.0.q_proj', 'm.layers.0.v_proj', 'm.layers.0.out'"],
    [
      "'atn.out', 'up', 'x', ...",
      ['up', 'x', 'y', 'atn.out'],
      "'m.layers.0.attn.out', 'm.layers.0.out', 'm.layers.1.out'",
    ],
    ["'.*\\.(v_prog)'", '.*\\.(v_prog)', "'m.layers.0.v_proj', 'm.layers.0.q_proj', 'm.layers.0.out'"],
    ["'(?:)'", '(?:)', "'m.layers.0.q_proj'"],
  ])('names %s, which matches no layer, and the nearest layers', async (given, targetModules, nearest) => {
    const names = ['q_proj', 'v_proj', 'out', 'attn.out'].flatMap((end) => [0, 1].map((l) => `m.layers.${l}.${end}`))
    const message = `got none for ${given}; the nearest names of layers are ${nearest}`
    const { message: whole } = await expectRefused('ERR_LILY_ARGUMENT', message, () =>
      share(square(...names), { targetModules }),
    )
    expect(whole.endsWith(nearest)).toBe(true)
  })

  it.each([
    ['num_B', 'numB'],
    ['stride_a', 'strideA'],
    ['target_modules', 'targetModules'],
    ['R', 'r'],
    ['scaled', null],
    ['initWeight', 'initWeights'],
    ['loraAlpha', null],
    ['x', null],
    ['q'.repeat(1e7), null],
  ])('an unknown name, with the known one that was meant: %.20s', async (name, meant) => {
    const { message } = await expectRefused('ERR_LILY_ARGUMENT', 'is not a property of config', () =>
      readConfig({ [name]: 1 }),
    )
    if (meant === null) expect(message).not.toContain('did you mean')
    else expect(message).toContain(`${name}: is not a property of config (did you mean ${meant}?); expected one of r, `)
  })

  it('a single layer, which is counted as one', async () => {
    const layers = square('q')
    await expectRefused('ERR_LILY_ARGUMENT', 'a match among 1 layer, got none', () =>
      share(layers, { targetModules: ['k'] }),
    )
    const message = 'an index among those of 1 layer, got none'
    await expectRefused('ERR_LILY_ARGUMENT', message, () => share(layers, { layersToTransform: [5] }))
  })

  // PEFT matches `.*\.[^.]*\.(\d+)\.` and `.*\.layers\.(\d+)\.`: both require a component before the list.
  it('the index of a list that begins the names, and says so', async () => {
    const layers = square('layers.0.q', 'layers.1.q')
    for (const config of [{ layersToTransform: 0 }, { layersToTransform: 0, layersPattern: 'layers' }]) {
      const message = "a list that begins the name, as in 'layers.0.q', has no index; pass whole names as targetModules"
      await expectRefused('ERR_LILY_ARGUMENT', message, () => share(layers, config))
    }
    const whole = share(layers, { targetModules: ['layers.0.q'], layersToTransform: 0 })
    expect([...whole.layers.keys()]).toEqual(['layers.0.q'])
  })
})
