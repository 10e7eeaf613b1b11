/** What TypeScript accepts. Most of it is checked by `npm run lint`, which compiles this file. */
// cspell:ignore acumulate nedds sclaing
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { expect, expectTypeOf, test } from 'vitest'
import {
  type AdapterLayer,
  type AdapterModelClass,
  type AdaptersSaved,
  cast,
  type Exact,
  type HostData,
  type HostTensorLike,
  type LayerBackwardOptions,
  LilyAdapters,
  lilyBackward,
  lilyForward,
  lilyForwardAsync,
  type LilyForwardOptions,
  type LilyLayer,
  LilyModel,
  type LilySaved,
  linearForward,
  loraBackward,
  loraForward,
  LoraModel,
  type LoraSaved,
  type NdArrayLike,
  type Tensor,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import { packageRoot } from '../../lib/binding/root.js'
import type { Lily } from '../../lib/webgpu/index.js'
import { pages, programsOf, requiredBy } from '../support/guides.js'
import { errorsOf } from '../support/typescript.js'

const x = tensor([1, 2, 3, 4], [2, 2])

test('the data of a tensor has the methods that its classes have in common', () => {
  const error = x.data.map((value, i) => value - i)
  const loss = error.reduce((sum, value) => sum + value * value, 0)
  expectTypeOf(error).toEqualTypeOf<HostData>()
  expectTypeOf(loss).toEqualTypeOf<number>()
  expect(loss).toBe(4)
  expect(Math.max(...x.data)).toBe(4)
  expect(tensor(error, x.shape).data).toEqual(Float32Array.of(1, 1, 1, 1))
  if (x.data instanceof Float32Array) expectTypeOf(x.data).toExtend<Float32Array>()
  expectTypeOf<Float32Array>().toExtend<HostData>()
  expectTypeOf<Uint16Array>().toExtend<HostData>()
  expectTypeOf<Uint8Array>().toExtend<HostData>()
  expectTypeOf<Buffer>().toExtend<HostData>()
  expectTypeOf<Int32Array>().toExtend<HostData>()
  expectTypeOf<Float64Array>().not.toExtend<HostData>()
  expectTypeOf<Int8Array>().not.toExtend<HostData>()
  expectTypeOf<number[]>().not.toExtend<HostData>()
})

/**
 * The programs of the README and of the guides that import this package, and nothing of which `isKnown` is false, by file
 * name. Not those of CUDA, where TypeScript requires `{ type: 'cuda' } as const`, nor those of docs/webgpu.md, whose device
 * an earlier program makes.
 */
function programs(isKnown: (imported: string) => boolean): Map<string, string> {
  const all = Object.keys(pages)
    .filter((page) => page !== 'docs/webgpu.md')
    .flatMap((page) =>
      programsOf(page).map(({ source }, i) => ({ name: `${page.replaceAll('/', '-')}-${i + 1}.mts`, source })),
    )
  const compiled = all.filter(({ source }) => {
    const imported = Array.from(source.matchAll(/^(?:import|} from)\b.*'(.+)'$/gm), ([, name]) => name)
    return (
      requiredBy(source) !== 'cuda' &&
      imported.some((name) => name.startsWith('lily-kernels')) &&
      imported.every(isKnown)
    )
  })
  return new Map(compiled.map(({ name, source }) => [name, `${source}\nexport {}\n`]))
}

const isOwn = (imported: string) => imported === 'lily-kernels' || imported === 'lily-kernels/mpi'
const isOfTensorFlow = (imported: string) => /^@tensorflow\/|^lily-kernels\/(tfjs|tfjs-layers|webgpu)$/.test(imported)

test('the programs of the guides and the declarations of the package compile', () => {
  const sources = programs(isOwn)
  expect(sources.size).toBeGreaterThan(10)
  expect([...sources.keys()]).toContain('README.md-2.mts')
  const entries =
    "import * as lily from 'lily-kernels'\nimport * as gpu from 'lily-kernels/webgpu'\nexport { gpu, lily }\n"
  sources.set('entries.mts', entries).set('entries.cts', entries)
  expect(errorsOf(sources)).toEqual([])
})

test('the programs of the guides compile with the options that tsc --init writes', () => {
  const folder = mkdtempSync(join(packageRoot, 'build', 'types-'))
  try {
    const tsc = join(packageRoot, 'node_modules', 'typescript', 'bin', 'tsc')
    execFileSync(process.execPath, [tsc, '--init'], { cwd: folder, stdio: 'ignore' })
    const { config } = ts.readConfigFile(join(folder, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
      config: object
    }
    const { options } = ts.parseJsonConfigFileContent(config, ts.sys, folder)
    expect(options).toMatchObject({ strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true })
    const sources = programs((imported) => isOwn(imported) || isOfTensorFlow(imported))
    expect([...sources.keys()]).toContain('docs-tfjs.md-3.mts')
    expect(errorsOf(sources, { ...options, noEmit: true })).toEqual([])
  } finally {
    rmSync(folder, { recursive: true })
  }
})

/** Declarations of WebGPU with other names and members than those of @webgpu/types. */
function webGpu(declarationOf: (name: string, members: string) => string): string {
  const declarations = ['Buffer', 'CommandEncoder', 'Device'].map((name) =>
    declarationOf(`GPU${name}`, `{ readonly own: '${name}' }`),
  )
  return [...declarations, 'type GPUBindingResource = GPUBuffer'].join('\n')
}
const OWN = `const own: 'Buffer' = tensor.buffer.own\n// @ts-expect-error: no device\ncreateLily(tensor.buffer)`

test.each([
  [
    'are those of the library dom of TypeScript 6',
    webGpu(
      (name, members) => `interface ${name} ${members}\ndeclare var ${name}: { prototype: ${name}; new (): ${name} }`,
    ),
    OWN,
  ],
  ['are the classes of Deno', webGpu((name, members) => `declare class ${name} ${members}`), OWN],
  ['are objects where the program declares none', '', 'const own: object = tensor.buffer\ncreateLily(own)'],
])('the types of WebGPU %s', (_, declared, use) => {
  const source = `import type { Tensor } from 'lily-kernels'\nimport { createLily } from 'lily-kernels/webgpu'\ndeclare const tensor: Tensor\n`
  expect(
    errorsOf(
      new Map([
        ['use.mts', source + use],
        ['declared.d.ts', declared],
      ]),
    ),
  ).toEqual([])
})

/** Never called. */
export function dtypeOfUint16Array(
  bits: Uint16Array,
  data: HostData,
  either: Float32Array | Uint16Array,
  lily: Lily,
): void {
  tensor(bits, [2], 'bfloat16')
  tensor(bits, [2], x.dtype)
  lily.tensor(bits, [2], 'float16')
  // @ts-expect-error: the bits may be bfloat16 or float16
  tensor(bits, [2])
  // @ts-expect-error: the bits may be bfloat16 or float16
  tensor(bits, [2], undefined)
  // @ts-expect-error: the bits may be bfloat16 or float16
  lily.tensor(bits, [2])
  // What else may hold float32 needs none.
  tensor(data, [2])
  tensor(either, [2])
  tensor([1, 2], [2])
  tensor(new Uint8Array(2), [2])
  tensor(Buffer.alloc(2), [2])
  expectTypeOf(lily.tensor(data, [2], undefined)).toEqualTypeOf<Tensor>()
}

/** Never called. */
export function dtypeOfUint16ArrayOperand(bits: Uint16Array, data: HostData, either: Float32Array | Uint16Array): void {
  const shape = [1, 2]
  const operands: TensorLike[] = [
    { data: bits, shape, dtype: 'bfloat16' },
    { data: either, shape, dtype: x.dtype },
    { data, shape },
    { data: x.data.subarray(1), shape },
    { data: new Float32Array(new SharedArrayBuffer(8)), shape, strides: [2, 1] },
    { data: new Uint8Array(2), shape },
    { data: new Int32Array(2), shape },
    { data: Buffer.alloc(2), shape },
  ]
  const inGeneral: HostTensorLike = { data, shape }
  operands.push(inGeneral)
  const stride = [2, 1]
  const ofNdArray: NdArrayLike = { data, shape, stride }
  operands.push(ofNdArray)
  operands.push({ data: new Float32Array(2), shape, stride, offset: 0, dtype: 'float32' as string })
  operands.push({ data: bits, shape, stride, dtype: 'bfloat16' })
  // @ts-expect-error: the bits may be bfloat16 or float16
  operands.push({ data: bits, shape, stride })
  // @ts-expect-error: ndarray says only that of the array
  operands.push({ data: bits, shape, stride, dtype: 'uint16' })
  const withoutType = { data: bits, shape }
  // @ts-expect-error: the bits may be bfloat16 or float16
  operands.push(withoutType)
  // @ts-expect-error: the bits may be bfloat16 or float16
  cast(withoutType, 'float32')
  // @ts-expect-error: the bits may be bfloat16 or float16
  linearForward({ x: { data: bits, shape }, weight: x })
  // @ts-expect-error: so may those of one of the two classes
  operands.push({ data: either, shape })
  // @ts-expect-error: undefined is no type
  operands.push({ data: bits, shape, dtype: undefined })
}

/** Never called. */
export function misspeltOptions(layer: LilyLayer, both: AdapterLayer, saved: LilySaved, loraSaved: LoraSaved): void {
  // Beside a known option, and alone.
  // @ts-expect-error: misspelt, rooting
  lilyForward({ x, a: x, router: x, b: x }, { scaling: 2, rooting: 'token' })
  // @ts-expect-error: misspelt, rooting
  lilyForward({ x, a: x, router: x, b: x }, { rooting: 'token' })
  // @ts-expect-error: misspelt, rooting
  void lilyForwardAsync({ x, a: x, router: x, b: x }, { scaling: 2, rooting: 'token' })
  // @ts-expect-error: misspelt, rooting
  lilyForward({ x, weight: x, a: x, router: x, b: x }, { scaling: 2, rooting: 'token' })
  // @ts-expect-error: LoRA has no mask
  loraForward({ x, a: x, b: x }, { scaling: 1, mask: [1, 1] })
  // @ts-expect-error: LoRA has no mask
  loraForward({ x, weight: x, a: x, b: x }, { scaling: 1, mask: [1, 1] })
  // @ts-expect-error: misspelt, dw
  lilyBackward({ dy: x }, saved, { needs: { dx: false, dw: true } })
  // @ts-expect-error: misspelt, acumulate
  lilyBackward({ dy: x }, saved, { needs: { dx: false }, acumulate: false })
  // @ts-expect-error: LoRA has no dRouter
  loraBackward({ dy: x }, loraSaved, { needs: { dx: false, dRouter: true } })
  // @ts-expect-error: saved has the weight
  lilyBackward({ dy: x, weight: x }, saved)
  // @ts-expect-error: misspelt, sclaing
  layer.forward({ x }, { save: true, sclaing: 2 })
  // @ts-expect-error: misspelt, dw
  layer.backward({ dy: x, saved, dx: x }, { needs: { da: false, dw: false } })
  // @ts-expect-error: misspelt, sav
  both.forward({ x, y: x }, { accumulate: true, sav: false })
  // @ts-expect-error: misspelt, dxx
  both.backward({ dy: x, saved, dxx: x }, { needs: {} })
  // @ts-expect-error: saved has the weight
  both.backward({ dy: x, saved, weight: x })
  // @ts-expect-error: by position
  both.forward(x, x)
  // @ts-expect-error: by position
  layer.backward(x, saved)
}

/** Never called. */
export function inferredOptions(layer: LilyLayer, options: LilyForwardOptions, isToken: boolean): void {
  const operands = { x, a: x, router: x, b: x }
  expectTypeOf(lilyForward(operands).saved).toEqualTypeOf<LilySaved<'batch'>>()
  const token = lilyForward(operands, { routing: 'token', scaling: 2 })
  expectTypeOf(token.saved).toEqualTypeOf<LilySaved<'token'>>()
  expectTypeOf(lilyForward(operands, { save: false }).saved).toEqualTypeOf<undefined>()
  expectTypeOf(lilyForward(operands, options).saved).toEqualTypeOf<LilySaved | undefined>()
  const either = isToken ? { routing: 'token' as const } : { routing: 'batch' as const, scaling: 2 }
  expectTypeOf(lilyForward(operands, either).saved).toExtend<LilySaved>()
  const gradients = lilyBackward({ dy: x }, token.saved, { needs: { dx: false } })
  expectTypeOf(gradients.dx).toEqualTypeOf<undefined>()
  expectTypeOf(gradients.da).toEqualTypeOf<Tensor>()
  lilyBackward({ dy: x }, token.saved, { needs: undefined })
  expectTypeOf(layer.forward({ x, y: x }, { save: false }).saved).toEqualTypeOf<undefined>()
  expectTypeOf(layer.backward({ dy: x, saved: token.saved })).toEqualTypeOf<Tensor>()
  // A function that passes options on.
  const twice = <O extends Exact<O, LilyForwardOptions> = object>(given?: O) => lilyForward(operands, given)
  expectTypeOf(twice({ routing: 'token' }).saved).toEqualTypeOf<LilySaved<'token'>>()
  // @ts-expect-error: misspelt, rooting
  twice({ scaling: 2, rooting: 'token' })
}

/** Never called. */
export function eitherKind(isLora: boolean): void {
  const Model: AdapterModelClass = isLora ? LoraModel : LilyModel
  const layer = Model.create({ layers: [], config: { r: 4 } }).layer('proj')
  const { y, saved } = layer.forward({ x, y: x })
  expectTypeOf(layer.backward({ dy: y, saved })).toEqualTypeOf<Tensor>()
}

/** Never called. */
export function adaptersOfBothKinds(french: LilyModel, polite: LoraModel, options: LayerBackwardOptions): void {
  const adapters = new LilyAdapters().addAdapter('french', french).addAdapter('polite', polite)
  const { y, saved } = adapters.layer('proj').forward({ x, y: x })
  expectTypeOf(y).toEqualTypeOf<Tensor>()
  expectTypeOf(saved).toEqualTypeOf<AdaptersSaved>()
  expectTypeOf(adapters.layer('proj').forward({ x, y: x }, { save: false }).saved).toEqualTypeOf<undefined>()
  // @ts-expect-error: misspelt, acumulate
  adapters.layer('proj').forward({ x, y: x }, { save: false, acumulate: false })
  expectTypeOf(adapters.layer('proj').backward({ dy: x, saved, dx: x })).toEqualTypeOf<Tensor>()
  expectTypeOf(
    adapters.layer('proj').backward({ dy: x, saved, dx: y }, { needs: { da: false } }),
  ).toEqualTypeOf<Tensor>()
  const withDx = (dx?: TensorLike) => adapters.layer('proj').backward({ dy: x, saved, dx }, options)
  expectTypeOf(withDx()).toEqualTypeOf<TensorLike | undefined>()
  // @ts-expect-error: without y
  adapters.layer('proj').forward({ x, weight: x })
  // @ts-expect-error: by position
  adapters.layer('proj').forward(x, x)
  // @ts-expect-error: misspelt, nedds
  adapters.layer('proj').backward({ dy: x, saved, dx: x }, { nedds: { da: false } })
  const rows = ['french', null, 'polite']
  expectTypeOf(
    adapters.layer('proj').forward({ x, y: x }, { rows, scale: [1, 2, 3] }).saved,
  ).toEqualTypeOf<AdaptersSaved>()
  expectTypeOf(adapters.layer('proj').forward({ x, y: x }, { rows, save: false }).saved).toEqualTypeOf<undefined>()
  // @ts-expect-error: rows are names
  adapters.layer('proj').forward({ x, y: x }, { rows: [0, 1] })
  // @ts-expect-error: the layer of one model
  french.layer('proj').forward({ x }, { rows })
  const same = new LilyAdapters<LilyModel>().addAdapter('french', french)
  expectTypeOf(same.adapters.get('french')).toEqualTypeOf<LilyModel | undefined>()
  expectTypeOf<Parameters<typeof same.addAdapter>[1]>().toEqualTypeOf<LilyModel>()
}
