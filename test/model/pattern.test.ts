/** Patterns of PEFT's configurations: Python's regular expressions, in linear time or not at all. */
import { describe, expect, it } from 'vitest'
import { compilePattern, needsBacktracking } from '../../lib/model/pattern.js'
import { shareLayers } from '../../lib/model/sharing.js'
import { readConfig } from '../../lib/model/lily-config.js'
import { expectRefused } from '../refusals/refused.js'

const r = String.raw

/** What Python's re.fullmatch says. */
const MATCHES: [pattern: string, name: string, matches: boolean][] = [
  [r`.*\.(q|v)_proj`, 'layers.0.q_proj', true],
  [r`.*\.(q|v)_proj`, 'layers.0.q_proj.base', false],
  ['q|v', 'v', true],
  ['q|vx', 'v', false],
  [r`(?P<first>\w+)\.\d{2}`, 'layers.12', true],
  ['(?i)Q_PROJ', 'q_proj', true],
  ['(?i:Q)_proj', 'q_proj', true],
  ['x{,2}y', 'xxy', true],
  ['x{,2}y', 'xxxy', false],
  ['x{,}y', 'xxxy', true],
  ['x{2', 'x{2', true],
  [r`\Aq\Z`, 'q', true],
  ['^q$', 'q', true],
  [r`\u0071\x71\161\U00000071`, 'qqqq', true],
  [r`[\u0071\x71]+`, 'qq', true],
  ['[]q]+', ']q', true],
  ['[^]q]+', 'ab', true],
  ['[[]q', '[q', true],
  ['[a-c.]+', 'a.b', true],
  [r`[\]q{,2}(?=]+`, ']q{,2}(?=', true],
  [r`\é\.\-`, 'é.-', true],
  ['.', '😀', true],
  ['[😀]', '😀', true],
  ['q.*?proj', 'q_proj', true],
  ['(?:q|v)+', 'qvq', true],
]

const REFUSED: Record<string, string> = {
  '(': 'missing closing',
  '[q': 'missing closing',
  '*': 'repetition',
  'a**': 'nested repetition',
  'a*+': 'nested repetition',
  '(?=q)q': 'lookahead and lookbehind need backtracking',
  '(?!q)v': 'lookahead',
  '(?<=q)v': 'lookbehind',
  '(?<!q)v': 'lookbehind',
  [r`(q)\1`]: 'a reference to a group',
  [r`(q)\12`]: 'a reference to a group',
  '(?P<q>q)(?P=q)': 'a reference to a group',
  '(q)?(?(1)v|k)': 'a reference to a group',
  '(?>q)': 'atomic groups',
  '(?<q>q)': '(?P<name>...)',
  '(?U)q': 'no flag U',
  'q(?i)v': 'must come first',
  '[[:alpha:]]': '[:alpha:]',
  [r`\pN`]: r`it has \p`,
  [r`\Qq\E`]: r`it has \Q`,
  [r`\z`]: r`it has \z`,
  'q\\': 'trailing',
  '(a{1000}){1000}': 'invalid repeat count',
  '((((a{30}){30}){30}){30})': 'invalid repeat count',
  'a{1001}': 'invalid repeat count',
  [`(${'a?'.repeat(15)}){900}`]: 'too large',
  ['a'.repeat(20_001)]: 'more than 20000 characters',
  ['('.repeat(2000) + ')'.repeat(2000)]: 'too deeply',
}

const name = (i: number) => ({ name: `model.${'a'.repeat(40)}.${i}.q`, inFeatures: 2, outFeatures: 2 })

describe('a pattern', () => {
  it.each(MATCHES)('%s of %s: %s', (pattern, text, matches) => {
    expect(compilePattern(pattern, 'targetModules').fullMatch(text)).toBe(matches)
  })

  it.each(Object.entries(REFUSED))('%# is refused: %s', async (pattern, why) => {
    for (const [argument, [advice, config]] of Object.entries({
      targetModules: ['pass suffixes of names as an array', { targetModules: pattern }],
      excludeModules: ['pass suffixes of names as an array', { excludeModules: pattern }],
      layersPattern: ['use plain names', { layersPattern: ['layers', pattern], layersToTransform: 0 }],
    } as const)) {
      const { message, argument: named } = await expectRefused('ERR_LILY_ARGUMENT', why, () => readConfig(config))
      expect(message).toContain(advice)
      expect(named).toBe(argument)
      expect(message.length).toBeLessThan(650)
    }
  })

  it('needs backtracking where it is refused for that', () => {
    const needs = Object.keys(REFUSED).filter((pattern) => needsBacktracking(pattern))
    expect(needs).toHaveLength(9)
    expect(needs.every((pattern) => /look|group/.test(REFUSED[pattern]))).toBe(true)
    for (const [pattern] of MATCHES) expect(needsBacktracking(pattern), pattern).toBe(false)
  })

  it('takes linear time where backtracking takes exponential time', () => {
    const long = `${'a'.repeat(5000)}!`
    for (const pattern of ['(a+)+', '(a*)*b', '(a|aa)+', '(a|a)*', '(.*a){12}', '([a-z]+)*x', 'a*'.repeat(40)]) {
      expect(compilePattern(pattern, 'targetModules').fullMatch(long)).toBe(false)
    }
  })

  it('of much work for many names is refused', async () => {
    const layers = Array.from({ length: 2000 }, (_, i) => name(i))
    const config = readConfig({ targetModules: `(a?){900}${'.*q|'.repeat(500)}` })
    await expectRefused('ERR_LILY_ARGUMENT', 'steps for the names of the layers', () => shareLayers(layers, config))
  })

  it('of layersPattern is one by itself', async () => {
    const config = { layersPattern: 'a)(b', layersToTransform: 0 }
    await expectRefused('ERR_LILY_ARGUMENT', 'layersPattern: expected a regular expression', () => readConfig(config))
    const many = { layersPattern: new Array(17).fill('a'), layersToTransform: 0 }
    await expectRefused('ERR_LILY_ARGUMENT', 'at most 16 patterns', () => readConfig(many))
  })

  it('of layersPattern gives the number of the layer', () => {
    const layers = ['h.0.q', 'model.layers.1.q', 'model.blocks.2.q', 'model.layers.x.3.q', 'model.layers.12.q.4.q']
    const shapes = layers.map((text) => ({ name: text, inFeatures: 2, outFeatures: 2 }))
    const adapted = (layersPattern: string | null, layersToTransform: number[]) => [
      ...shareLayers(shapes, readConfig({ targetModules: ['q'], layersPattern, layersToTransform })).layers.keys(),
    ]
    expect(adapted('(?:layers|blocks)', [1, 2, 12])).toEqual([layers[1], layers[2], layers[4]])
    expect(adapted('layers', [1, 2, 3, 4])).toEqual([layers[1]])
    expect(adapted(null, [1, 3])).toEqual([layers[1], layers[3]])
  })
})

describe('suffixes', () => {
  it('take time by the length of a name, however many they are', () => {
    const targetModules = Array.from({ length: 100_000 }, (_, i) => `${i}.q`)
    const layers = Array.from({ length: 100_000 }, (_, i) => name(i))
    const { layers: shared } = shareLayers(layers, readConfig({ targetModules }))
    expect(shared.get(name(77).name)?.target).toBe('77.q')
    const deep = ['a.'.repeat(4000), 'a.'.repeat(3000)].map((text) => `${text}q`)
    expect(() => shareLayers(layers, readConfig({ targetModules: deep }))).toThrow(
      'expected a match among 100000 layers',
    )
  })

  it('of too many parts are refused', async () => {
    const targetModules = Array.from({ length: 110 }, (_, i) => `${'a.'.repeat(4990)}${i}`)
    await expectRefused('ERR_LILY_ARGUMENT', 'components of names', () =>
      shareLayers([name(0)], readConfig({ targetModules })),
    )
  })
})
