/**
 * Builds the CUDA backend from a patched copy of the sources: the common kernels and one engine, as PTX alone and with few
 * tiles, so that it takes seconds. What runs on the host is taken from the checkout's own build.
 */
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Mutation } from './mutations.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'build/mutations')
const emulator = join(root, 'build/emulator')
const DEVICE_SOURCES = ['launch/engines_bfloat16', 'launch/common', 'operations']
// The plan has the table of tiles too.
const HOST_SOURCES = [
  'launch/cost',
  'launch/plan_backward',
  'launch/plan_forward',
  'launch/plan_linear',
  'launch/walk',
  'tiles/rows',
]
const BUILT_ANEW = /\/(engines?\w*|common|operations|cost|plan_\w+|walk|rows)\.\w+\.o$/

// The other engines are never asked; the emulator would read all their PTX.
const ONE_ENGINE = `#include "cuda/launch/engine.cuh"
namespace lily::cuda {
const EngineFunctions kBfloat16Functions = kFunctionsOf<Tensor<__nv_bfloat16>>;
const EngineFunctions kExactFunctions = {nullptr, nullptr, nullptr};
const EngineFunctions kTf32Functions = kExactFunctions, kFloat16Functions = kExactFunctions;
}
`

// Every kind of kernel, and the smallest rank of each: larger ones then walk over blocks of rows. Tiles have four and eight
// warps.
const FEW_TILES = `struct Tiles<E, 2> {
  using Shrink = Table<ShrinkTile<E, 16, 16>, ShrinkTile<E, 64, 16>, ShrinkTile<E, 128, 16, 8>>;
  using Expand = Table<StripTile<E, 64, 16, 64>, StripTile<E, 64, 16, 128, 8>>;
  using Dy = Table<DyTiles<ShrinkTile<E, 16, 16>, StripTile<E, 64, 16, 64>>,
                   DyTiles<ShrinkTile<E, 64, 16>, StripTile<E, 64, 16, 64>>,
                   DyTiles<ShrinkTile<E, 128, 16, 8>, StripTile<E, 64, 16, 128, 8>>>;
  using X = Expand;
  using Mix = Table<MixTile<E, 64, 64, 64>>;
  using Decode = Table<DecodeTile<E, kDecodeTokens>>;
  using Once = Table<OnceTile<E, 16>>;
  using WithoutWgmma = LargeTile<E, 64, 64, 64, 3>;
  using Large = Table<WithoutWgmma, LargeTile<E, 128, 256, 32, 4, 8>,
                      WgmmaTile<E, 128, 256, 3>, WgmmaTile<E, 64, 128, 3>>;
};
`

const run = promisify(execFile)

/** Of the checkout's build: all but engines and what is made anew. */
function otherObjects(): string[] {
  const objects = join(root, 'build/cmake/CMakeFiles/lily_cuda_objects.dir')
  const files = existsSync(objects) ? readdirSync(objects, { recursive: true, encoding: 'utf8' }) : []
  const found = files.map((file) => join(objects, file)).filter((file) => file.endsWith('.o') && !BUILT_ANEW.test(file))
  if (found.length === 0) throw new Error('the CUDA backend was not built: run npm run build:native')
  return found
}

/** Replaces what stands in a file once. */
function patch(file: string, find: string, replace: string): void {
  const text = readFileSync(file, 'utf8')
  if (text.split(find).length !== 2) throw new Error(`${file} does not have this once: ${find}`)
  writeFileSync(
    file,
    text.replace(find, () => replace),
  )
}

/** Copies the sources to `place`, with few tiles of one engine, and with the mistake, if there is one. */
export function copySources(place: string, mutation?: Mutation): void {
  cpSync(join(root, 'native'), join(place, 'native'), {
    recursive: true,
    filter: (path) => !/native\/(emulator|cpu|napi)/.test(path),
  })
  const tiles = join(place, 'native/cuda/tiles/table.h')
  const [table] = /struct Tiles<E, 2> \{[^]*?\n\};\n/.exec(readFileSync(tiles, 'utf8')) ?? ['']
  patch(tiles, table, FEW_TILES)
  writeFileSync(join(place, 'native/cuda/launch/engines_bfloat16.cu'), ONE_ENGINE)
  if (mutation !== undefined) patch(join(place, 'native/cuda', mutation.file), mutation.find, mutation.replace)
}

/**
 * The path of a library for GPUs of a compute capability, with the mistake or without any; dispose() removes what building it has
 * left.
 */
export async function build(
  name: string,
  capability: 90 | 100,
  mutation?: Mutation,
): Promise<{ library: string; dispose: () => void }> {
  const place = join(folder, name)
  rmSync(place, { recursive: true, force: true })
  mkdirSync(place, { recursive: true })
  copySources(place, mutation)

  const includes = ['-I', join(place, 'native'), '-I', join(place, 'native/include')]
  const options = ['-std=c++20', '-O3', '-DNDEBUG', '-lineinfo', '--no-compress', '-Xcompiler', '-fPIC', ...includes]
  const object = (source: string) => join(place, `${basename(source)}.o`)
  const nvcc = process.env.CUDACXX ?? 'nvcc'
  const made = [...DEVICE_SOURCES, ...HOST_SOURCES].map(object)
  for (const source of DEVICE_SOURCES) {
    const input = join(place, `native/cuda/${source}.cu`)
    const architecture = capability === 90 ? 'arch=compute_90a,code=compute_90a' : 'arch=compute_90,code=compute_90'
    await run(nvcc, [...options, '-gencode', architecture, '-c', input, '-o', object(source)])
  }
  for (const source of HOST_SOURCES)
    await run(nvcc, [...options, '-c', join(place, `native/cuda/${source}.cc`), '-o', object(source)])
  const library = join(place, 'lily_cuda.so')
  const exported = `-Wl,--version-script=${join(root, 'native/cuda/exports.map')}`
  const runtime = [`-L${emulator}`, '-l:libcudart.so.13', `-Wl,-rpath,${emulator}`, '-pthread']
  await run(process.env.CXX ?? 'c++', ['-shared', '-o', library, ...made, ...otherObjects(), exported, ...runtime])
  const dispose = () => {
    rmSync(place, { recursive: true })
  }
  return { library, dispose }
}
