/** `lily-kernels merge` as a child process, compared with PEFT's merged weights and with float64. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { replaceWithTensors, type TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { AdapterModel, LilyModel, LoraModel, SafetensorsFile, tensor } from '../../lib/index.js'
import { bytesOf, GOLDEN, newFolder } from '../support/checkpoint.js'
import { runCli, runCliIn } from '../support/cli.js'
import { relativeError } from '../support/compare.js'
import { type Float, pack, quantum, roundAll, unpack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { readSafetensors } from '../support/safetensors.js'

const fixtures = fileURLToPath(new URL('../fixtures', import.meta.url))
const STORED = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' } as const

const weightOf = (values: ArrayLike<number>, shape: readonly number[], dtype: Float = 'float32') =>
  bytesOf(STORED[dtype], shape, pack(dtype, values))

/** Tensors that no adapter changes: of other types, without elements, a scalar, and one larger than a block of a copy. */
const OTHERS: Readonly<Record<string, TensorSource>> = {
  'a.counter': bytesOf('I64', [], BigInt64Array.of(7n)),
  'b.mask': bytesOf('BOOL', [3], Uint8Array.of(1, 0, 1)),
  'c.nothing': bytesOf('F32', [0, 4], new Float32Array(0)),
  'd.half': bytesOf('F16', [2], Uint16Array.of(0x7e01, 0xfc00)),
  'é.weight': bytesOf('F32', [1], Float32Array.of(NaN)),
  large: bytesOf(
    'U8',
    [17 * 2 ** 20],
    Uint8Array.from({ length: 17 * 2 ** 20 }, (_, i) => i * 7),
  ),
}

async function writeBase(path: string, tensors: Readonly<Record<string, TensorSource>>): Promise<void> {
  const metadata = new Map([
    ['format', 'pt'],
    ['é', '☃'],
  ])
  await replaceWithTensors(path, new Map(Object.entries(tensors)), metadata)
}

interface Stored {
  dtype: string
  begin: number
  bytes: Buffer
}

async function read(path: string): Promise<{ header: Buffer; tensors: Map<string, Stored> }> {
  const all = readFileSync(path)
  const file = await SafetensorsFile.open(path)
  const tensors = new Map<string, Stored>()
  for (const [name, { dtype, begin, end }] of file.tensors) {
    tensors.set(name, { dtype, begin, bytes: all.subarray(begin, end) })
  }
  await file.close()
  return { header: all.subarray(0, Math.min(...Array.from(tensors.values(), ({ begin }) => begin))), tensors }
}

const numbersOf = ({ dtype, bytes }: Stored): Float32Array => {
  const { buffer } = new Uint8Array(bytes)
  return dtype === 'F32'
    ? new Float32Array(buffer)
    : unpack(dtype === 'BF16' ? 'bfloat16' : 'float16', new Uint16Array(buffer))
}

/** Compares files, but for tensors that have changed. Returns the numbers of those before and after. */
async function compare(before: string, after: string): Promise<Map<string, [Float32Array, Float32Array]>> {
  const [old, found] = [await read(before), await read(after)]
  expect(found.header.equals(old.header), 'the header').toBe(true)
  const changed = new Map<string, [Float32Array, Float32Array]>()
  for (const [name, { bytes }] of found.tensors) {
    const was = old.tensors.get(name)!
    if (!bytes.equals(was.bytes)) changed.set(name, [numbersOf(was), numbersOf(found.tensors.get(name)!)])
  }
  return changed
}

/** W + s B A in float64, of a LoRA or of a frozen Lily layer. */
function expectedOf(model: AdapterModel, name: string, base: ArrayLike<number>): Float64Array {
  const layer = model.layer(name)
  const { inFeatures: dIn, outFeatures: dOut } = layer
  const [a, b] = [layer.a.value, layer.b.value].map(({ dtype, data }) => unpack(dtype, data))
  const [r] = layer.a.value.shape
  const frozen = model instanceof LilyModel ? model.layer(name).frozenWeights! : null
  return Float64Array.from(base, (value, at) => {
    const [o, i] = [Math.floor(at / dIn), at % dIn]
    let sum = 0
    for (let k = 0; k < r; k++) {
      const c = frozen === null ? b[o * r + k] : frozen.reduce((all, w, e) => all + w * b[(e * r + k) * dOut + o], 0)
      sum += c * a[k * dIn + i]
    }
    return value + layer.scaling * sum
  })
}

/** A folder with a LoRA adapter of two layers, and tensors of its base model. */
async function loraOf(dtype: Float = 'float32', names = ['h.0.q', 'h.1.q'], options: object = {}) {
  const folder = newFolder()
  const layers = names.map((name) => ({ name, inFeatures: 33, outFeatures: 300 }))
  const config = { r: 3, loraAlpha: 7, initLoraWeights: false, targetModules: ['q'], ...options } as const
  const model = LoraModel.create({ layers, config, seed: 1 })
  await model.savePretrained(join(folder, 'adapter'))
  const tensors = Object.fromEntries(
    names.map((name, i) => [`${name}.weight`, weightOf(gaussian(randomFrom(i + 3), 300 * 33, 0.05), [300, 33], dtype)]),
  )
  return { folder, adapter: join(folder, 'adapter'), model, tensors }
}

/** The tensors of an adapter's file. */
async function tensorsOf(adapter: string): Promise<Map<string, TensorSource>> {
  const file = await SafetensorsFile.open(join(adapter, 'adapter_model.safetensors'))
  const tensors = new Map<string, TensorSource>()
  for (const [name, { dtype, shape }] of file.tensors)
    tensors.set(name, bytesOf(dtype, shape, await file.readBytes(name)))
  await file.close()
  return tensors
}

/** Nothing is left of a run that failed. */
const expectNothing = (folder: string, names: readonly string[]) =>
  expect(readdirSync(folder).sort()).toEqual([...names].sort())

describe('one file', () => {
  test.each(['plain', 'rslora', 'patterns'])(
    "has PEFT's merged weights, and nothing else changes: %s",
    async (name) => {
      const folder = newFolder()
      const expected = readSafetensors(join(fixtures, 'lora', name, 'expected.safetensors'))
      const weights = [...expected].filter(([key]) => key.endsWith('.W'))
      const [base, out] = [join(folder, 'base.safetensors'), join(folder, 'out.safetensors')]
      const tensors = weights.map(
        ([key, { data, shape }]) => [key.replace(/W$/, 'weight'), weightOf(data, shape)] as const,
      )
      await writeBase(base, { ...OTHERS, ...Object.fromEntries(tensors) })
      const { code, stdout, stderr } = await runCli(['merge', join(fixtures, 'lora', name), base, out])
      const model = await LoraModel.fromPretrained(join(fixtures, 'lora', name))
      expect({ code, stdout, stderr }).toEqual({
        code: 0,
        stdout: '',
        stderr: `${model.layers.size} layers merged: ${out}\n`,
      })
      const changed = await compare(base, out)
      expect([...changed.keys()].sort()).toEqual(Array.from(model.layers.keys(), (layer) => `${layer}.weight`).sort())
      for (const layer of model.layers.keys()) {
        const [, merged] = changed.get(`${layer}.weight`)!
        expect(relativeError(merged, expected.get(`f64.${layer}.merged`)!.data), layer).toBeLessThan(2e-7)
      }
      expectNothing(folder, ['base.safetensors', 'out.safetensors'])
    },
  )

  test.each<Float>(['float32', 'bfloat16', 'float16'])('rounds weights in %s once', async (dtype) => {
    const { folder, adapter, model, tensors } = await loraOf(dtype)
    const [base, out] = [join(folder, 'base.safetensors'), join(folder, 'out.safetensors')]
    await writeBase(base, tensors)
    const { code, stderr } = await runCli(['merge', adapter, base, out])
    expect(code, stderr).toBe(0)
    const changed = await compare(base, out)
    expect(changed.size).toBe(2)
    for (const [name, [before, after]] of changed) {
      const exact = expectedOf(model, name.replace('.weight', ''), before)
      after.forEach((value, i) => {
        const limit = quantum(dtype, exact[i]) * (0.5 + 2 ** -10) + 1e-6
        if (!(Math.abs(value - exact[i]) <= limit)) expect(value, `${name} ${i}, within ${limit}`).toBe(exact[i])
      })
    }
  })

  test('takes a frozen Lily adapter, and names that all have the same names before them', async () => {
    const folder = newFolder()
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze(new Map(Array.from(model.layers.keys(), (name, i) => [name, [0.5, -0.25, i]])))
    const adapter = join(folder, 'adapter')
    await model.savePretrained(adapter)
    // base.layers.0.self_attn.q_proj.weight, and layers.0.self_attn.q_proj of the adapter
    const base = join(fixtures, 'golden', 'peft_checkpoint_expected.safetensors')
    const out = join(folder, 'out.safetensors')
    const { code, stderr } = await runCli(['merge', adapter, base, out])
    expect({ code, stderr }).toEqual({ code: 0, stderr: `${model.layers.size} layers merged: ${out}\n` })
    const changed = await compare(base, out)
    expect(changed.size).toBe(model.layers.size)
    for (const [name, [before, after]] of changed) {
      const layer = name.slice('base.'.length, -'.weight'.length)
      expect(relativeError(after, expectedOf(model, layer, before)), name).toBeLessThan(2e-7)
    }

    // And the other way about.
    const back = newFolder()
    await LoraModel.create({
      layers: [{ name: 'outer.inner.q', inFeatures: 3, outFeatures: 2 }],
      config: { r: 1, initLoraWeights: false },
    }).savePretrained(join(back, 'adapter'))
    await writeBase(join(back, 'base.safetensors'), { 'inner.q.weight': weightOf(new Float32Array(6), [2, 3]) })
    const args = ['adapter', 'base.safetensors', 'out.safetensors'].map((each) => join(back, each))
    expect((await runCli(['merge', ...args])).stderr).toBe(`1 layer merged: ${args[2]}\n`)
  })

  test('takes weights [d_in, d_out] with fan_in_fan_out, and says so without it', async () => {
    const folder = newFolder()
    const layers = [{ name: 'h.0.c_attn', inFeatures: 5, outFeatures: 7 }]
    const make = (fanInFanOut: boolean) =>
      LoraModel.create({ layers, config: { r: 2, initLoraWeights: false, fanInFanOut }, seed: 4 })
    await make(true).savePretrained(join(folder, 'transposed'))
    await make(false).savePretrained(join(folder, 'plain'))
    const base = join(folder, 'base.safetensors')
    const values = gaussian(randomFrom(1), 35)
    await writeBase(base, { 'h.0.c_attn.weight': weightOf(values, [5, 7]) })
    const out = join(folder, 'out.safetensors')
    const refused = await runCli(['merge', join(folder, 'plain'), base, out])
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('tensor "h.0.c_attn.weight": expected [7, 5], got [5, 7]')
    expect(refused.stderr).toContain('"fan_in_fan_out": true')
    expect((await runCli(['merge', join(folder, 'transposed'), base, out])).code).toBe(0)
    const [[before, after]] = (await compare(base, out)).values()
    const transpose = (of: Float32Array) => of.map((_, at) => of[(at % 5) * 7 + Math.floor(at / 5)])
    expect(relativeError(transpose(after), expectedOf(make(false), 'h.0.c_attn', transpose(before)))).toBeLessThan(2e-7)
  })

  test('gets the modules that were trained with the adapter, in its own type', async () => {
    const { folder, tensors, model } = await loraOf('bfloat16')
    const adapter = join(folder, 'with-head')
    // Long enough for memory that does not begin where its ArrayBuffer does.
    const head = gaussian(randomFrom(8), 2 * 1024)
    await model.savePretrained(adapter, {
      modulesToSave: { head: { weight: tensor(head, [2, 1024]), bias: tensor([1, 2], [2]) } },
    })
    const [base, out] = [join(folder, 'base.safetensors'), join(folder, 'out.safetensors')]
    const old = {
      'head.weight': weightOf(new Float32Array(2 * 1024), [2, 1024], 'bfloat16'),
      'head.bias': weightOf([0, 0], [2]),
    }
    await writeBase(base, { ...tensors, ...old })
    const { stderr } = await runCli(['merge', adapter, base, out])
    expect(stderr).toBe(`2 layers merged, 2 tensors of modules_to_save replaced: ${out}\n`)
    const changed = await compare(base, out)
    expect([...changed.keys()].sort()).toEqual(['h.0.q.weight', 'h.1.q.weight', 'head.bias', 'head.weight'])
    expect(changed.get('head.weight')?.[1]).toEqual(roundAll('bfloat16', head))
    expect(changed.get('head.bias')?.[1]).toEqual(Float32Array.of(1, 2))

    // The head is beside the model that has the layers.
    const inside = Object.fromEntries(Object.entries(tensors).map(([name, each]) => [`model.${name}`, each]))
    await writeBase(base, { ...inside, 'head.weight': old['head.weight'], 'model.head.bias': old['head.bias'] })
    expect((await runCli(['merge', adapter, base, out, '--force'])).code).toBe(0)
    expect([...(await compare(base, out)).keys()].sort()).toEqual([
      'head.weight',
      'model.h.0.q.weight',
      'model.h.1.q.weight',
      'model.head.bias',
    ])

    // A counter, as a normalisation has.
    const counter = bytesOf('I64', [], BigInt64Array.of(5n))
    await replaceWithTensors(
      join(adapter, 'adapter_model.safetensors'),
      new Map([...(await tensorsOf(adapter)), ['base_model.model.head.steps', counter]]),
      new Map([['format', 'pt']]),
    )
    await writeBase(base, { ...tensors, ...old, 'head.steps': bytesOf('I64', [], BigInt64Array.of(0n)) })
    expect((await runCli(['merge', adapter, base, out, '--force'])).stderr).toContain(
      '3 tensors of modules_to_save replaced',
    )
    expect(new BigInt64Array(new Uint8Array((await read(out)).tensors.get('head.steps')!.bytes).buffer)).toEqual(
      BigInt64Array.of(5n),
    )

    for (const [name, replaced, got] of [
      ['head.weight', weightOf(new Float32Array(12), [3, 4]), 'got F32 [3, 4]'],
      ['head.bias', undefined, 'got none'],
    ] as const) {
      const others = Object.entries({ ...old, [name]: replaced }).filter(([, source]) => source !== undefined)
      await writeBase(base, { ...tensors, ...Object.fromEntries(others), 'head.steps': counter })
      const refused = await runCli(['merge', adapter, base, join(folder, 'none')])
      expect(refused.stderr).toContain(`expected a tensor "${name}" of F32`)
      expect(refused.stderr).toContain(got)
    }
  })
})

test('memory does not grow with the number of tensors', async () => {
  const folder = newFolder()
  const report = join(folder, 'report.cjs')
  writeFileSync(report, "process.on('exit', () => console.error('KiB', process.resourceUsage().maxRSS))\n")
  const [rows, columns] = [1024, 2048]
  const peakOf = async (count: number) => {
    const names = Array.from({ length: count }, (_, i) => `h.${i}.q`)
    const layers = names.map((name) => ({ name, inFeatures: columns, outFeatures: rows }))
    const adapter = join(folder, `adapter-${count}`)
    await LoraModel.create({ layers, config: { r: 1 } }).savePretrained(adapter)
    const zeros = bytesOf('F32', [rows, columns], new Float32Array(rows * columns))
    const base = join(folder, `base-${count}`)
    const large = bytesOf('U8', [count, 4 * rows * columns], new Uint8Array(count * 4 * rows * columns))
    await writeBase(base, { ...Object.fromEntries(names.map((name) => [`${name}.weight`, zeros])), large })
    const env = { NODE_OPTIONS: `--require ${report}` }
    const { code, stderr } = await runCli(['merge', adapter, base, join(folder, `out-${count}`)], env)
    expect(code, stderr).toBe(0)
    return Number(/^KiB (\d+)$/m.exec(stderr)?.[1]) / 1024
  }
  const [few, many] = [await peakOf(2), await peakOf(24)]
  // 22 tensors of 8 MiB more, and 176 MiB more of one that does not change. What the garbage collector has not freed yet is less than half of them.
  expect(many - few).toBeLessThan(88)
})

test('files are closed', async ({ skip }) => {
  skip(!existsSync('/proc/self/fd'), 'Linux lists the open files of a process there')
  const { folder, adapter, tensors } = await loraOf()
  const report = join(folder, 'report.cjs')
  writeFileSync(
    report,
    `const { existsSync, readdirSync, readlinkSync } = require('node:fs')
     const open = () => readdirSync('/proc/self/fd').map((name) => '/proc/self/fd/' + name).filter(existsSync)
     process.on('exit', () => console.error(open().map((name) => readlinkSync(name)).join(' ')))`,
  )
  const base = join(folder, 'base.safetensors')
  await writeBase(base, tensors)
  const index = join(folder, 'model.safetensors.index.json')
  for (const [name, message] of [
    ['h.0.q.weight', '2 layers merged'],
    ['other', 'expected the tensor "other" in "base.safetensors", got none'],
  ]) {
    writeFileSync(index, JSON.stringify({ weight_map: { [name]: 'base.safetensors' } }))
    const { stderr } = await runCli(['merge', adapter, index, join(folder, 'out')], {
      NODE_OPTIONS: `--require ${report}`,
    })
    expect(stderr).toContain(message)
    expect(stderr).toContain('/dev/null')
    expect(stderr).not.toContain(join(folder, 'base'))
  }
})

describe('several files', () => {
  async function sharded() {
    const made = await loraOf('bfloat16')
    const base = join(made.folder, 'base')
    mkdirSync(base)
    const [first, second] = Object.entries(made.tensors)
    const shards = {
      'model-00001-of-00003.safetensors': Object.fromEntries([first]),
      'model-00002-of-00003.safetensors': { ...OTHERS, ...Object.fromEntries([second]) },
      'model-00003-of-00003.safetensors': { z: bytesOf('I32', [1], Int32Array.of(3)) },
    }
    for (const [name, tensors] of Object.entries(shards)) await writeBase(join(base, name), tensors)
    const files = Object.entries(shards).flatMap(([file, tensors]) => Object.keys(tensors).map((name) => [name, file]))
    const index = join(base, 'model.safetensors.index.json')
    const weightMap = Object.fromEntries(files) as Record<string, string>
    writeFileSync(index, `{ "metadata": {"total_size":  17}, "weight_map": ${JSON.stringify(weightMap)} }\n`)
    writeFileSync(join(base, 'config.json'), '{}')
    return { ...made, base, index, weightMap, names: [...Object.keys(shards), 'model.safetensors.index.json'] }
  }

  test('become the same files and index in a folder', async () => {
    const { folder, adapter, base, index, model, names } = await sharded()
    for (const [from, to] of [
      [base, join(folder, 'out')],
      [index, join(folder, 'deeper', 'out')],
    ]) {
      const { code, stderr } = await runCli(['merge', adapter, from, to])
      expect({ code, stderr }).toEqual({ code: 0, stderr: `2 layers merged: ${to}\n` })
      expectNothing(to, names)
      expect(readFileSync(join(to, names[3])).equals(readFileSync(index))).toBe(true)
      const changed = new Map<string, [Float32Array, Float32Array]>()
      for (const name of names.slice(0, 3)) {
        for (const entry of await compare(join(base, name), join(to, name))) changed.set(...entry)
      }
      expect(changed.size).toBe(2)
      for (const [name, [before, after]] of changed) {
        const expected = expectedOf(model, name.replace('.weight', ''), before)
        expect(relativeError(after, expected)).toBeLessThan(2 ** -8)
      }
    }
  })

  test('a folder with one file becomes a folder with one file', async () => {
    const { folder, adapter, tensors } = await loraOf()
    const [base, out] = [join(folder, 'base'), join(folder, 'out')]
    mkdirSync(base)
    await writeBase(join(base, 'model.safetensors'), tensors)
    expect((await runCli(['merge', adapter, base, out])).code).toBe(0)
    expectNothing(out, ['model.safetensors'])
    expect((await compare(join(base, 'model.safetensors'), join(out, 'model.safetensors'))).size).toBe(2)

    writeFileSync(join(base, 'model.safetensors.index.json'), '{}')
    const both = await runCli(['merge', adapter, base, join(folder, 'none')])
    expect(both.stderr).toContain('expected model.safetensors or model.safetensors.index.json in this folder, got both')
    const neither = await runCli(['merge', adapter, adapter, join(folder, 'none')])
    expect(neither.stderr).toContain('got neither')
  })

  test('an index that does not fit, or that names files elsewhere, is refused', async () => {
    const { folder, adapter, base, index, weightMap, names } = await sharded()
    const [first, , third] = names
    for (const [map, message] of [
      [{ ...weightMap, z: '../base/x.safetensors' }, 'expected the name of a .safetensors file beside it for "z"'],
      [{ ...weightMap, z: 3 }, 'expected the name of a .safetensors file beside it for "z", got 3'],
      [{ ...weightMap, other: third }, `expected the tensor "other" in "${third}", got none`],
      [{ ...weightMap, z: 'no.safetensors' }, 'no.safetensors: cannot be read'],
      [{}, 'expected tensors in weight_map, got none'],
      [[], 'expected an object weight_map, got an array'],
    ] as const) {
      writeFileSync(index, JSON.stringify({ weight_map: map }))
      const { code, stderr } = await runCli(['merge', adapter, base, join(folder, 'out')])
      expect({ code, stderr: stderr.includes(message) }, stderr).toEqual({ code: 1, stderr: true })
    }
    writeFileSync(index, JSON.stringify({ weight_map: weightMap }))
    await writeBase(join(base, third), { z: OTHERS['a.counter'], 'h.0.q.weight': OTHERS['b.mask'] })
    const twice = await runCli(['merge', adapter, base, join(folder, 'out')])
    expect(twice.stderr).toContain(`expected tensor "h.0.q.weight" once, got it in "${first}", "${third}"`)
    expect(existsSync(join(folder, 'out'))).toBe(false)
  })

  test('an output that exists is replaced with --force only, and never an input', async () => {
    const { folder, adapter, base, names } = await sharded()
    const out = join(folder, 'out')
    mkdirSync(out)
    expect((await runCli(['merge', adapter, base, out])).code, 'an empty folder').toBe(0)
    writeFileSync(join(out, 'mine.txt'), 'mine')
    const before = readFileSync(join(out, names[0]))
    writeFileSync(join(out, names[0]), 'old')
    const refused = await runCli(['merge', adapter, base, out])
    expect({ code: refused.code, stderr: refused.stderr }).toEqual({
      code: 1,
      stderr: `error: <out>: ${out} is a folder with files; name another one, or pass --force to replace it\n`,
    })
    expect(readFileSync(join(out, names[0]), 'utf8')).toBe('old')
    expect((await runCli(['merge', adapter, base, out, '--force'])).code).toBe(0)
    expect(readFileSync(join(out, names[0])).equals(before)).toBe(true)
    // A file of another system, which no reader of models takes for one.
    writeFileSync(join(out, '._model.safetensors'), '')
    expect((await runCli(['merge', adapter, base, out, '--force'])).code).toBe(0)
    expectNothing(out, [...names, 'mine.txt', '._model.safetensors'])
    // It would be read in the place of the merged files.
    writeFileSync(join(out, 'model.safetensors'), 'another model')
    writeFileSync(join(out, names[0]), 'old')
    const beside = await runCli(['merge', adapter, base, out, '--force'])
    expect(beside.code).toBe(1)
    expect(beside.stderr).toContain(
      `${out} has files of another model, "model.safetensors", which --force does not replace`,
    )
    expect(readFileSync(join(out, names[0]), 'utf8')).toBe('old')

    const link = join(folder, 'link')
    symlinkSync(base, link)
    for (const same of [base, link]) {
      const { stderr } = await runCli(['merge', adapter, base, same, '--force'])
      expect(stderr).toContain('it is a file of the input')
    }
    const linked = join(folder, 'linked')
    mkdirSync(linked)
    symlinkSync(join(base, names[3]), join(linked, names[3]))
    expect((await runCli(['merge', adapter, base, linked, '--force'])).stderr).toContain('it is a file of the input')
    const file = await runCli(['merge', adapter, base, join(adapter, 'adapter_config.json')])
    expect(file.stderr).toContain('is a file; name a folder')
  })
})

describe('what is refused leaves no file', () => {
  test('an output that exists, and one that is an input', async () => {
    const { folder, adapter, tensors } = await loraOf()
    const [base, out] = [join(folder, 'base.safetensors'), join(folder, 'out.safetensors')]
    await writeBase(base, tensors)
    writeFileSync(out, 'precious')
    const exists = await runCli(['merge', adapter, base, out])
    expect(exists.stderr).toBe(`error: <out>: ${out} exists; name another one, or pass --force to replace it\n`)
    // Before the adapter is read, and the model written.
    expect((await runCli(['merge', join(folder, 'none'), base, out])).stderr).toBe(exists.stderr)
    expect(readFileSync(out, 'utf8')).toBe('precious')
    expect((await runCli(['merge', adapter, base, out, '--force'])).code).toBe(0)
    expect((await compare(base, out)).size).toBe(2)
    const before = readFileSync(base)
    symlinkSync('base.safetensors', join(folder, 'link'))
    for (const same of [base, join(folder, 'link'), join(adapter, 'adapter_model.safetensors')]) {
      for (const options of [[], ['--force']]) {
        const { code, stderr } = await runCli(['merge', adapter, base, same, ...options])
        expect(code).toBe(1)
        expect(stderr).toContain('it is a file of the input')
      }
    }
    expect(readFileSync(base).equals(before)).toBe(true)
    const nowhere = await runCli(['merge', adapter, base, join(folder, 'no', 'out')])
    expect(nowhere.stderr).toContain('its folder does not exist; create it first')
  })

  test('a base model of other layers, with the nearest names', async () => {
    const { folder, adapter, tensors } = await loraOf()
    const base = join(folder, 'base.safetensors')
    const out = join(folder, 'out')
    const refused = async (given: Readonly<Record<string, TensorSource>>, ...messages: string[]) => {
      await writeBase(base, given)
      const { code, stderr } = await runCli(['merge', adapter, base, out])
      expect(code).toBe(1)
      for (const message of messages) expect(stderr).toContain(message)
      expectNothing(folder, ['adapter', 'base.safetensors'])
    }
    const [weight] = Object.values(tensors)
    await refused(
      { 'a.weight': weight, 'h.0.qq.weight': weight, 'h.1.q.weight': weight },
      'got none for "h.0.q". The nearest names to the first are "h.0.qq"',
    )
    await refused(
      { 'h.0.k.weight': weight },
      'got none for "h.0.q", "h.1.q". The nearest names to the first are "h.0.k"',
    )
    await refused({ x: weight }, 'got none for "h.0.q", "h.1.q". It has no weights')
    const both = Object.fromEntries(
      ['text', 'vision'].flatMap((tower) => Object.entries(tensors).map(([name, each]) => [`${tower}.${name}`, each])),
    )
    await refused(both, 'expected one weight for the layer "h.0.q", got "text.h.0.q", "vision.h.0.q"')
    const [first] = Object.keys(tensors)
    const ofShape = weightOf(new Float32Array(6), [2, 3])
    await refused({ ...tensors, [first]: ofShape }, `tensor "${first}": expected [300, 33], got [2, 3]`)
    const quantised = bytesOf('I8', [300, 33], new Int8Array(300 * 33))
    await refused({ ...tensors, [first]: quantised }, `tensor "${first}": expected data type F32, BF16 or F16, got I8`)
    const double = bytesOf('F64', [300, 33], new Float64Array(300 * 33))
    await refused({ ...tensors, [first]: double }, 'got F64; convert the model to float32')
  })

  test('an adapter whose mixtures depend on the input', async () => {
    const folder = newFolder()
    const base = join(fixtures, 'golden', 'peft_checkpoint_expected.safetensors')
    const { code, stderr } = await runCli(['merge', GOLDEN, base, join(folder, 'out')])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^error: ERR_LILY_ARGUMENT: adapter: expected a frozen layer, .*model\.freeze\('uniform'\)/)
    expectNothing(folder, [])
  })

  test('numbers that the type of the base model does not have', async () => {
    const { folder, adapter, model, tensors } = await loraOf('float16')
    const base = join(folder, 'base.safetensors')
    const largest = new Uint16Array(300 * 33).fill(0x7bff)
    await writeBase(base, { ...tensors, 'h.1.q.weight': bytesOf('F16', [300, 33], largest) })
    const scaled = await AdapterModel.fromPretrained(adapter)
    for (const { value } of scaled.parameters().values()) value.data.forEach((each, i) => (value.data[i] = each * 100))
    await scaled.savePretrained(join(folder, 'adapter'))
    const { code, stderr } = await runCli(['merge', adapter, base, join(folder, 'out')])
    expect(code).toBe(1)
    expect(stderr).toContain('tensor "h.1.q.weight": expected finite numbers')
    await model.savePretrained(adapter, { modulesToSave: { head: { bias: tensor([1e5], [1]) } } })
    await writeBase(base, { ...tensors, 'head.bias': bytesOf('F16', [1], new Uint16Array(1)) })
    const trained = await runCli(['merge', adapter, base, join(folder, 'out')])
    expect(trained.stderr).toContain('tensor "head.bias": expected finite numbers')
    expectNothing(folder, ['adapter', 'base.safetensors'])
  })

  test('a file that is damaged, and no model at all', async () => {
    const { folder, adapter, tensors } = await loraOf()
    const base = join(folder, 'base.safetensors')
    await writeBase(base, tensors)
    writeFileSync(base, readFileSync(base).subarray(0, -1))
    const damaged = await runCli(['merge', adapter, base, join(folder, 'out')])
    expect(damaged.stderr).toContain('the file is damaged or incomplete')
    const missing = await runCli(['merge', adapter, join(folder, 'no'), join(folder, 'out')])
    expect(missing.stderr).toMatch(/^error: ERR_LILY_CHECKPOINT: .*no: cannot be read/)
    expectNothing(folder, ['adapter', 'base.safetensors'])
  })

  test('a disk that is full half way', async () => {
    const { folder, adapter, tensors } = await loraOf()
    const base = join(folder, 'base.safetensors')
    await writeBase(base, { ...OTHERS, ...tensors })
    // A limit for every file that the process writes, in blocks of 512 bytes: the last tensor does not fit.
    const blocks = Math.floor(readFileSync(base).length / 512) - 1
    const out = join(folder, 'out')
    const { code, stderr } = await runCliIn(`ulimit -f ${blocks}; exec "$@"`, ['merge', adapter, base, out])
    expect(code).toBe(1)
    expect(stderr).toContain(`${out}: cannot be written (EFBIG`)
    expectNothing(folder, ['adapter', 'base.safetensors'])
  })

  describe('of a model of 1 GiB', () => {
    /** A file that takes no room on the disk: its numbers are zeros. */
    async function large() {
      const { folder, adapter, tensors } = await loraOf()
      const base = join(folder, 'base.safetensors')
      const [rows, columns] = [2 ** 10, 2 ** 20]
      const small = Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`t.${i}`, [rows / 64, columns]]))
      let end = 0
      const header = JSON.stringify(
        Object.fromEntries(
          [...Object.entries(small), ...Object.keys(tensors).map((name) => [name, [300, 33]] as const)].map(
            ([name, shape]) => {
              const begin = end
              end += (name in small ? 1 : 4) * shape[0] * shape[1]
              return [name, { dtype: name in small ? 'U8' : 'F32', shape, data_offsets: [begin, end] }]
            },
          ),
        ),
      )
      const text = header.padEnd(Math.ceil(header.length / 8) * 8)
      const length = Buffer.alloc(8)
      length.writeBigUInt64LE(BigInt(text.length))
      writeFileSync(base, Buffer.concat([length, Buffer.from(text)]))
      truncateSync(base, 8 + text.length + end)
      return { folder, args: ['merge', adapter, base, join(folder, 'out')] }
    }
    /** A script that runs the command, and this one once it has begun to write. */
    const during = (folder: string, script: string) =>
      `"$@" & while ! ls -A '${folder}' | grep -q tmp; do sleep 0.01; done; ${script}; wait $!`

    test('a signal', async () => {
      const { folder, args } = await large()
      const { code, stderr } = await runCliIn(during(folder, 'kill -TERM $!'), args)
      expect({ code, stderr }).toEqual({ code: 143, stderr: 'interrupted: nothing was written\n' })
      expectNothing(folder, ['adapter', 'base.safetensors'])
    })

    test('a terminal, which shows how far it is', async () => {
      const { args } = await large()
      const clean = { NO_COLOR: undefined, FORCE_COLOR: undefined, CI: undefined, TERM: 'xterm-256color' }
      const { code, stdout } = await runCliIn('script -qec "$*" /dev/null', args, clean)
      expect(code, stdout).toBe(0)
      const shown = [...stdout.matchAll(/(\d+)% \| [^|]* left \| t\.(\d+)/g)].map(([, ...numbers]) =>
        numbers.map(Number),
      )
      expect(shown.length).toBeGreaterThan(1)
      for (const [percentage, tensor] of shown) expect(Math.abs(percentage - tensor / 0.64)).toBeLessThanOrEqual(1)
    })

    test('an output that another program writes meanwhile', async () => {
      const { folder, args } = await large()
      const out = join(folder, 'out')
      const { code, stderr } = await runCliIn(during(folder, `echo mine > '${out}'`), args)
      expect({ code, stderr }).toEqual({
        code: 1,
        stderr: `error: <out>: ${out} exists; name another one, or pass --force to replace it\n`,
      })
      expect(readFileSync(out, 'utf8')).toBe('mine\n')
    })
  })

  test('missing arguments', async () => {
    const { code, stderr } = await runCli(['merge', GOLDEN])
    expect(code).toBe(1)
    expect(stderr).toBe("error: missing required argument 'base'\nSee lily-kernels merge --help.\n")
  })
})
