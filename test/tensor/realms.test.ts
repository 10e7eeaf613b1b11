/**
 * Objects of another realm, as of a vm context or an iframe: what they are does not depend on `instanceof`. Test runners such as
 * Jest load the package itself into such a context, in which the errors of Node.js and of the addon are those of another realm.
 */
import { createContext, runInContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { fromBinding } from '../../lib/binding/errors.js'
import { fileSystemError } from '../../lib/checkpoint/errors.js'
import { AdamW, LilyError, lilyForward, LilyModel, SafetensorsFile, stateFile, tensor } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { smallOperands } from '../support/small.js'

const context = createContext()
const elsewhere = (code: string): unknown => runInContext(code, context)

describe('an operand of another realm', () => {
  it('has no unknown fields, and the fields of one convention', async () => {
    const { dy: _, ...operands } = smallOperands()
    const shape = `shape: [${operands.x.shape.join()}]`
    const data = `data: new Float32Array([${operands.x.data.join()}])`
    const x = elsewhere(`({ ${data}, ${shape} })`) as typeof operands.x
    expect(lilyForward({ ...operands, x }).y.data).toEqual(lilyForward(operands).y.data)
    const refused = (fields: string, message: string) => {
      const given = elsewhere(`({ ${data}, ${shape}, ${fields} })`) as typeof operands.x
      return expectRefused('ERR_LILY_ARGUMENT', message, () => lilyForward({ ...operands, x: given }))
    }
    await refused('rowStride: 8', "x: unknown field 'rowStride'")
    await refused('dims: [1]', 'x: expected shape or dims, got both')
  })

  it('is told what to do with a DataView', async () => {
    const { dy: _, ...operands } = smallOperands()
    const x = elsewhere('({ data: new DataView(new ArrayBuffer(120)), shape: [6, 5] })') as typeof operands.x
    const advice = 'new Float32Array(data.buffer, data.byteOffset, length)'
    await expectRefused('ERR_LILY_DTYPE', advice, () => lilyForward({ ...operands, x }))
  })

  it('throws errors whose message is kept', async () => {
    const { dy: _, ...operands } = smallOperands()
    const x = elsewhere(`({ get data() { throw new Error('the file is gone') } })`) as typeof operands.x
    await expectRefused('ERR_LILY_ARGUMENT', 'the file is gone', () => lilyForward({ ...operands, x }))
  })
})

it('AdamW takes a Map and a pattern of another realm', () => {
  const parameters = elsewhere(`new Map([
    ['p', { value: { data: new Float32Array([1]), shape: [1] }, grad: { data: new Float32Array([1]), shape: [1] } }],
  ])`) as Map<string, { value: { data: Float32Array; shape: number[] }; grad: { data: Float32Array; shape: number[] } }>
  const optimiser = new AdamW(parameters, { weightDecay: 0, groups: [{ match: elsewhere('/p/') as RegExp, lr: 0.5 }] })
  optimiser.step()
  expect(parameters.get('p')?.value.data[0]).toBeCloseTo(0.5, 5) // the first step of AdamW is lr
})

it('freeze takes a subclass of Map with a tag of its own', () => {
  class Weights extends Map<string, number[]> {
    override get [Symbol.toStringTag]() {
      return 'Weights'
    }
  }
  const layers = [{ name: 'a.q', inFeatures: 4, outFeatures: 4 }]
  const model = LilyModel.create({ layers, config: { r: 2, numB: 2, targetModules: ['q'] } })
  model.freeze(new Weights([['a.q', [0.25, 0.75]]]))
  expect(model.layer('a.q').frozenWeights).toEqual(Float32Array.of(0.25, 0.75))
})

it('freeze takes a Float32Array of another realm, hasBytes a Uint8Array', async () => {
  const layers = [{ name: 'a.q', inFeatures: 4, outFeatures: 4 }]
  const model = LilyModel.create({ layers, config: { r: 2, numB: 2, targetModules: ['q'] } })
  model.freeze({ 'a.q': elsewhere('new Float32Array([0.25, 0.75])') as Float32Array })
  expect(model.layer('a.q').frozenWeights).toEqual(Float32Array.of(0.25, 0.75))
  const moments = { expAvg: tensor([1], [1]), expAvgSq: tensor([2], [1]) }
  const file = await SafetensorsFile.open(await stateFile({ step: 1, parameters: { p: moments } }))
  expect(await file.hasBytes('p.expAvg', elsewhere('new Uint8Array([0, 0, 128, 63])') as Uint8Array)).toBe(true)
  expect(await file.hasBytes('p.expAvgSq', elsewhere('new Uint8Array([0, 0, 128, 63])') as Uint8Array)).toBe(false)
})

describe('an error of another realm is a LilyError', () => {
  it.each([
    ['of the file system', "{ code: 'ENOENT' }", (error: unknown) => fileSystemError('f', 'cannot be read', error)],
    ['of the addon', "{ code: 'ERR_LILY_CHECKPOINT' }", fromBinding],
  ])('%s', (_, properties, convert) => {
    const error = convert(elsewhere(`Object.assign(new Error('no such file'), ${properties})`))
    expect(error).toBeInstanceOf(LilyError)
    expect(error).toMatchObject({
      code: 'ERR_LILY_CHECKPOINT',
      message: expect.stringContaining('no such file') as string,
    })
  })
})
