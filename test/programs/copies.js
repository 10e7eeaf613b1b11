// Two copies of the package in one process, for `import` and for `require`: what one copy makes, the other uses, in both
// directions.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as imported from 'lily-kernels'

const required = createRequire(import.meta.url)('lily-kernels')
assert.notEqual(imported.Tensor, required.Tensor, 'the copies are one')

const numbers = (...shape) => Float32Array.from({ length: shape.reduce((p, q) => p * q) }, (_, i) => Math.sin(i + 1))
const shapes = { x: [6, 5], a: [3, 5], router: [2, 3], b: [2, 3, 4], y: [6, 4], dy: [6, 4] }
const plain = () =>
  Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, { data: numbers(...shape), shape }]))
const tensorsOf = ({ tensor }) =>
  Object.fromEntries(Object.entries(plain()).map(([name, { data, shape }]) => [name, tensor(data, shape)]))
const refused = (code, argument) => (error) =>
  error instanceof imported.LilyError &&
  error instanceof required.LilyError &&
  error.code === code &&
  error.argument === argument

async function check(made, used) {
  const { dy: plainDy, ...operands } = plain()
  const expected = used.lilyForward(operands)
  const gradients = used.lilyBackward({ dy: plainDy }, expected.saved)
  const same = (actual, name) => assert.deepEqual(actual.data, name.data)

  // Tensors, and what forward saves
  const { dy, ...tensors } = tensorsOf(made)
  const { y, saved } = used.lilyForward(tensors)
  assert.equal(y, tensors.y)
  same(y, expected.y)
  const rest = made.lilyForward({ ...tensors, y: undefined }).saved
  for (const [name, gradient] of Object.entries(used.lilyBackward({ dy }, rest, { retain: true }))) {
    same(gradient, gradients[name])
  }
  same((await used.lilyBackwardAsync({ dy }, saved)).dx, gradients.dx)
  same(
    (await used.lilyForwardAsync({ ...tensors, y: undefined }, { save: false })).y,
    made.lilyForward({ ...tensors, y: undefined }).y,
  )
  used.lilyBackward({ dy }, rest, { deferB: true, retain: true })
  same(made.foldB(rest), gradients.db)
  made.lilyBackward({ dy }, rest, { deferB: true })
  assert.throws(() => used.lilyBackward({ dy }, rest), refused('ERR_LILY_ARGUMENT', 'saved'))
  same(used.foldB([rest], made.tensor(new Float32Array(24), [2, 3, 4])), gradients.db)
  const weight = made.tensor(numbers(4, 5), [4, 5])
  const packed = made.packLinear(weight)
  same(used.linearForward({ x: tensors.x, weight: packed }).y, made.linearForward({ x: tensors.x, weight }).y)
  packed.dispose()
  assert.throws(() => used.linearForward({ x: tensors.x, weight: packed }), refused('ERR_LILY_DISPOSED', 'weight'))
  const { tensor, Tensor } = used
  assert(tensors.x instanceof Tensor && tensor([1], [1]) instanceof made.Tensor)
  assert(!({} instanceof Tensor) && !(tensors.x instanceof used.LilyModel))

  // Errors
  assert.throws(
    () => used.lilyForward({ ...tensors, y: made.tensor(tensors.x.data.subarray(0, 24), [6, 4]) }),
    refused('ERR_LILY_ARGUMENT', 'y'),
  )
  rest.dispose()
  assert.throws(() => used.lilyBackward({ dy }, rest), refused('ERR_LILY_DISPOSED', 'saved'))
  const gone = made.tensor([1], [1, 1])
  gone.dispose()
  assert.throws(() => used.lilyForward({ ...tensors, x: gone }), refused('ERR_LILY_DISPOSED', 'x'))
  class Own extends used.LilyError {}
  assert(new Own('ERR_LILY_ARGUMENT', '') instanceof made.LilyError)
  assert(new Own('ERR_LILY_ARGUMENT', '') instanceof Own)
  assert(!(new made.LilyError('ERR_LILY_ARGUMENT', '') instanceof Own))
  assert(!(new Error('') instanceof used.LilyError))

  // A model: its layers, its parameters in an optimiser, several adapters, a file
  const layers = [{ name: 'l.q', inFeatures: 5, outFeatures: 4 }]
  const config = { r: 3, strideA: 1, numB: 2, targetModules: ['q'] }
  const create = (copy) => copy.LilyModel.create({ layers, config, seed: 1 })
  const [model, twin] = [create(made), create(made)]
  const [optimiser, its] = [
    new used.AdamW(model.parameters(), { lr: 0.1 }),
    new made.AdamW(twin.parameters(), { lr: 0.1 }),
  ]
  const adapters = new used.LilyAdapters()
  adapters.addAdapter('first', model)
  for (let step = 0; step < 2; step++) {
    const call = adapters.layer('l.q').forward({ x: tensors.x, y: made.tensor(new Float32Array(24), [6, 4]) })
    adapters.layer('l.q').backward({ dy, saved: call.saved, dx: used.tensor(new Float32Array(30), [6, 5]) })
    const own = twin.layer('l.q').forward({ x: tensors.x })
    twin.layer('l.q').backward({ dy, saved: own.saved })
    optimiser.step()
    its.step()
    its.load(optimiser.state())
  }
  for (const [name, { value }] of twin.parameters()) same(model.parameters().get(name).value, value)
  assert.deepEqual(await used.analyse(model), await made.analyse(twin))

  // A LoRA model is no LilyModel, and several adapters take both.
  const lora = made.LoraModel.create({ layers, config: { r: 2, initLoraWeights: false }, seed: 1 })
  assert(lora instanceof used.LoraModel && !(lora instanceof used.LilyModel) && !(model instanceof used.LoraModel))
  assert.deepEqual(await used.analyse(lora), await made.analyse(lora))
  await assert.rejects(() => used.analyse(lora, { samples: {} }), refused('ERR_LILY_ARGUMENT', 'samples'))
  const both = new used.LilyAdapters().addAdapter('lora', lora).addAdapter('lily', create(made))
  const sum = made.tensor(new Float32Array(24), [6, 4])
  both.setAdapter(['lora', 'lily']).layer('l.q').forward({ x: tensors.x, y: sum })
  same(lora.layer('l.q').forward({ x: tensors.x }).y, sum) // B of the other is zero

  const folder = mkdtempSync(join(tmpdir(), 'lily-copies-'))
  try {
    await used.writeSafetensors(join(folder, 'f.safetensors'), { x: tensors.x })
    const file = await made.SafetensorsFile.open(join(folder, 'f.safetensors'))
    same(await file.read('x'), tensors.x)
    await file.close()
    // Saves run in the order of the calls: the first one takes longer.
    const path = join(folder, 'order.safetensors')
    const long = made.writeSafetensors(path, { first: made.tensor(new Float32Array(1 << 22), [1 << 22]) })
    await Promise.all([long, used.writeSafetensors(path, { last: tensors.x })])
    const saved = await used.SafetensorsFile.open(path)
    assert.deepEqual([...saved.tensors.keys()], ['last'])
    await saved.close()
  } finally {
    rmSync(folder, { recursive: true })
  }
}

await check(imported, required)
await check(required, imported)
console.log('right')
