/** `lily-kernels doctor`: what a child process prints, and its text for other machines. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { textOf } from '../../cli/doctor/command.js'
import { diagnose } from '../../cli/doctor/diagnose.js'
import { coresName, type Diagnosis } from '../../cli/doctor/diagnosis.js'
import { selfTest } from '../../cli/doctor/self-test.js'
import { webAssembly } from '../../cli/doctor/webassembly.js'
import { webGpu } from '../../cli/doctor/webgpu.js'
import { packageRoot } from '../../lib/binding/root.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'
import { runCli, runCliIn } from '../support/cli.js'
import { missingLibrary } from '../support/mpi.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const path = (name: string): string => join(folder, name)

const doctor = async (env: Record<string, string> = {}): Promise<Diagnosis & { code: number | null }> => {
  const { code, stdout, stderr } = await runCli(['doctor', '--json'], env)
  expect(stderr).toBe('')
  return { code, ...(JSON.parse(stdout) as Diagnosis) }
}

const none = () => Promise.resolve({ available: false, reason: 'none' })
const ONLY_LINUX = 'the CUDA backend of lily-kernels runs on Linux only'

test('reports the machine and tests its backends', async () => {
  const { code, ok, node, platform, libc, addon, processor, backends } = await doctor({ LILY_NUM_THREADS: '' })
  expect({ code, ok, node, addon }).toEqual({ code: 0, ok: true, node: process.version, addon: { loads: true } })
  expect(platform).toBe(`${process.platform}-${process.arch}`)
  if (process.platform === 'linux') expect(libc).toMatch(/^(glibc|musl) /)
  expect(processor!.instructionSets[0]).toBe('portable')
  expect(processor!.instructionSets).toContain(processor!.simd)
  const { threads, affinity, quota, physicalCores } = processor!
  expect(physicalCores).not.toBeNull()
  expect(threads).toBe(Math.min(affinity, quota ?? Infinity, physicalCores!, 256))
  const limits = { [coresName(platform)]: physicalCores, affinity, 'cgroup quota': quota }
  const because = Object.entries(limits).flatMap(([name, limit]) => (limit === threads ? [name] : []))
  expect(processor!.because).toBe(because.join(' and ') || 'the limit of the thread pool')
  expect(processor!.amxRefusal).not.toBe('')
  expect(backends[0]).toMatchObject({ name: 'cpu', available: true, selfTest: { passed: true } })
  expect(backends[1]).toMatchObject({ name: 'cuda', available: false })
  expect(backends[1]).not.toHaveProperty('selfTest')
})

describe('WebAssembly', () => {
  const { availableParallelism } = os

  beforeEach(({ skip }) => {
    skip(!existsSync(join(packageRoot, 'build/wasm/wasm.wasm')), 'WebAssembly is not built')
  })

  test('has the threads of this process, and computes', async () => {
    const { webassembly } = await doctor({ LILY_NUM_THREADS: '' })
    const threads = availableParallelism()
    expect(webassembly).toMatchObject({ available: true, threads, selfTest: { passed: true } })
    expect(webassembly.simd).toMatch(/^wasm(-relaxed)?$/)
    if (threads > 1) expect(webassembly).not.toHaveProperty('reason')
    const one = await doctor({ LILY_NUM_THREADS: '1' })
    expect(one.webassembly).toMatchObject({ threads: 1, reason: 'LILY_NUM_THREADS=1' })
    const builds = ['wasm', 'wasm-relaxed'].map(async (isa) => (await doctor({ LILY_CPU_ISA: isa })).webassembly)
    const [plain, relaxed] = await Promise.all(builds)
    expect(plain).toMatchObject({ available: true, simd: 'wasm', selfTest: { passed: true } })
    // Node 20 does not run it.
    if (relaxed.available) expect(relaxed.simd).toBe('wasm-relaxed')
    else expect(relaxed.reason).toContain('relaxed-simd')
    const wrong = await runCli(['doctor'], { LILY_NUM_THREADS: 'x' })
    expect(wrong.stdout).toMatch(/^webassembly +not available: LILY_NUM_THREADS must be/m)
  })

  test('has one thread where no other can be started, and says why', async () => {
    const start = vi.spyOn(nodeHost, 'start').mockImplementation(() => {
      throw new Error('workers are forbidden')
    })
    try {
      expect(await webAssembly()).toMatchObject({
        available: true,
        threads: 1,
        reason: 'threads do not start (workers are forbidden)',
        selfTest: { passed: true },
      })
      for (const [thread, reason] of [
        [{ onMessage: (listener: (message: unknown) => void) => listener('done') }, 'threads do not share memory'],
        [{ onEnd: (listener: (reason: string) => void) => listener('code 1') }, 'a thread does not start (code 1)'],
      ] as const) {
        const nothing = () => undefined
        start.mockReturnValue({
          ...{ post: nothing, onMessage: nothing, onEnd: nothing, keepAlive: nothing },
          ...thread,
        })
        expect(await webAssembly()).toMatchObject({ available: true, threads: 1, reason })
      }
    } finally {
      start.mockRestore()
    }
  })

  test('reports a factor that is wrong', async () => {
    const native = {
      backends: () => [{ devices: [{ detail: 'wasm', parallelism: 1 }] }],
      gramFactor: (_: unknown, __: number, ___: number, factor: Float64Array) => factor.set([5, 0, 4, 2]),
    }
    vi.resetModules()
    vi.doMock('../../lib/binding/wasm/native.js', () => ({ wasmNative: () => native }))
    try {
      const { webAssembly } = await import('../../cli/doctor/webassembly.js')
      expect(await webAssembly()).toMatchObject({
        selfTest: { passed: false, reason: 'a factor is 5,4,2, expected 5,4,3' },
      })
    } finally {
      vi.doUnmock('../../lib/binding/wasm/native.js')
    }
  })
})

describe('WebGPU', () => {
  /** A package `webgpu` with this program in its requestAdapter, whose process sees `info` and `fail`. */
  const withAdapter = (name: string, body: string): string => {
    const home = join(folder, name)
    const packaged = join(home, 'node_modules', 'webgpu')
    mkdirSync(packaged, { recursive: true })
    writeFileSync(join(packaged, 'package.json'), '{ "name": "webgpu", "type": "module", "main": "index.js" }')
    const info = `{ vendor: 'acme', architecture: '', device: 'one', description: 'acme' }`
    writeFileSync(
      join(packaged, 'index.js'),
      `export const globals = {}
       const info = ${info}
       export const create = () => ({ requestAdapter: async () => { ${body} } })`,
    )
    return home
  }
  const found = (name: string, body: string, seconds?: number) => webGpu([withAdapter(name, body)], seconds)

  test('is reported as missing where the package or an adapter is', async () => {
    expect(await webGpu([folder])).toEqual({
      available: false,
      reason: 'the npm package webgpu, which is Dawn, is not installed here; npm install webgpu',
    })
    expect(await found('none', 'return null')).toEqual({
      available: false,
      reason: expect.stringMatching(/^there is no adapter; install the driver of the GPU/) as string,
    })
  })

  test('is looked for where the user runs the command', async () => {
    const home = withAdapter('here', 'return { info: { ...info, description: "llvmpipe" } }')
    const { code, stdout } = await runCliIn(`cd '${home}' && "$@"`, ['doctor'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^webgpu +acme one llvmpipe\nwebgpu +a program on the CPU, without a self-test/m)
  })

  test('is looked for without a working directory', async () => {
    vi.resetModules()
    const cwd = vi.spyOn(process, 'cwd').mockImplementation(() => {
      throw new Error('ENOENT: uv_cwd')
    })
    try {
      const { webGpu } = await import('../../cli/doctor/webgpu.js')
      expect(await webGpu(['.'])).toMatchObject({ available: false })
    } finally {
      cwd.mockRestore()
    }
  })

  test('survives a driver that throws, crashes, or does not answer', async () => {
    expect(await found('throws', 'throw new Error("no loader")')).toEqual({ available: false, reason: 'no loader' })
    const crash = 'console.error("driver: bad"); process.abort()'
    expect(await found('crashes', crash)).toEqual({
      available: false,
      reason: expect.stringMatching(/^its process ended with \w+: driver: bad$/) as string,
    })
    expect(await found('hangs', 'await new Promise((resolve) => setTimeout(resolve, 1e6))', 1)).toEqual({
      available: false,
      reason: 'its process gave no answer within 1 seconds',
    })
  })

  test('has a self-test on a GPU, whose failure is reported', async () => {
    expect(await found('fails', 'return { info, requestDevice: async () => { throw new Error("lost") } }')).toEqual({
      available: true,
      name: 'acme one',
      selfTest: { passed: false, reason: 'lost' },
    })
    const wrong = 'process.send({ results: { y: [1] } }); return { info, requestDevice: async () => { throw 0 } }'
    expect(await found('wrong', wrong)).toEqual({
      available: true,
      name: 'acme one',
      selfTest: { passed: false, reason: 'y in float32 is 1, expected 3,6,7,14,3,6,7,14' },
    })
  })
})

test('diagnoses what it can where no process can be started', async ({ skip }) => {
  skip(process.platform === 'win32', 'the command is given to a shell of POSIX')
  const permission = process.allowedNodeEnvironmentFlags.has('--permission') ? '' : 'experimental-'
  const flags = `--no-warnings --${permission}permission --allow-addons --allow-worker '--allow-fs-read=*'`
  const restricted = await runCliIn(`node=$1; shift; "$node" ${flags} "$@"`, ['doctor'])
  expect(restricted).toMatchObject({ code: 0, stderr: '' })
  expect(restricted.stdout).toMatch(/^cpu +self-test passed$/m)
  expect(restricted.stdout).toMatch(/^webgpu +not available: its process does not start \(.*restricted/m)
})

test('reports LILY_NUM_THREADS as the limit of threads', async () => {
  const { processor, environment } = await doctor({ LILY_NUM_THREADS: '3' })
  expect(processor).toMatchObject({ threads: 3, because: 'LILY_NUM_THREADS' })
  expect(environment).toMatchObject({ LILY_NUM_THREADS: '3' })
})

test('reports why the CUDA library does not load and how to fix it', async ({ skip }) => {
  skip(process.platform !== 'linux', ONLY_LINUX)
  writeFileSync(path('text.so'), 'no library')
  const reason = async (library: string) => (await doctor({ LILY_CUDA_LIBRARY: library })).backends[1].reason
  expect(await reason(path('nothing.so'))).toMatch(/names .*nothing\.so, which does not exist; correct or unset it/)
  expect(await reason(path('text.so'))).toMatch(/does not load: .*text\.so.*; correct or unset LILY_CUDA_LIBRARY/)
})

test('reports the MPI library of LILY_MPI_LIBRARY, or why it cannot be opened', async ({ skip }) => {
  skip(process.platform !== 'linux', 'MPI runs on Linux and macOS only, and this names libraries of Linux')
  writeFileSync(path('text.so'), 'no library')
  const diagnosis = await doctor({ LILY_MPI_LIBRARY: path('text.so') })
  expect(diagnosis.environment).toMatchObject({ LILY_MPI_LIBRARY: path('text.so') })
  expect(diagnosis.mpi).toEqual({
    available: false,
    reason: expect.stringMatching(/text\.so: .*; correct or unset LILY_MPI_LIBRARY$/) as string,
  })
  expect(diagnosis.ok, 'training alone needs no MPI').toBe(true)
  const { stdout } = await runCli(['doctor'], { LILY_MPI_LIBRARY: path('nothing.so') })
  expect(stdout).toMatch(/^mpi +not available: no MPI library can be opened \(.*nothing\.so: .*\n$/m)
})

test.for(['Open MPI', 'MPICH'])('opens the MPI library of the launcher: %s', async (name, { skip }) => {
  for (const each of ['Open MPI', 'MPICH']) skip(missingLibrary(each) !== undefined, missingLibrary(each))
  const rank = name === 'MPICH' ? 'PMI_RANK' : 'OMPI_COMM_WORLD_RANK'
  expect((await doctor({ [rank]: '0' })).mpi).toMatchObject({
    available: true,
    library: expect.stringMatching(name) as string,
  })
})

test('exits with code 1 if the cpu backend is not available', async () => {
  const variables = { LILY_CPU_ISA: 'sse9', LILY_CPU_BLOCKS: '1', LILY_CUBLASLT: '0' }
  const { code, stdout } = await runCli(['doctor'], variables)
  expect(code).toBe(1)
  expect(stdout).toMatch(/^cpu +not available: LILY_CPU_ISA=sse9 is not one of portable, (\w+, )*wasm, wasm-relaxed;/m)
  for (const [name, value] of Object.entries(variables)) expect(stdout).toContain(`environment   ${name}=${value}\n`)
  expect(stdout).not.toMatch(/^threads/m)
})

test('tests the first device that there is', async () => {
  expect(await selfTest({ name: 'cuda', devices: [{ id: 7, name: 'a GPU' }] })).toEqual({
    passed: false,
    reason: expect.stringContaining('cuda:7 is not available') as string,
  })
})

test('says that the package does not work if one of several self-tests fails', async () => {
  const results = [{ passed: true }, { passed: false, reason: 'y in float32 is 1' }]
  const device = { id: 0, name: 'a device' }
  // Registers the addon with the modules that another test has reset.
  await import('../../lib/index.js')
  vi.doMock('../../cli/doctor/self-test.js', () => ({ selfTest: () => Promise.resolve(results.shift()) }))
  vi.doMock('../../lib/memory/backends.js', () => ({
    backends: () => ['cpu', 'cuda'].map((name) => ({ name, available: true, devices: [device] })),
  }))
  try {
    const { ok, addon, backends } = await diagnose('1.2.3')
    expect(addon).toEqual({ loads: true })
    expect(ok).toBe(false)
    expect(backends.map(({ selfTest }) => selfTest?.passed)).toEqual([true, false])
  } finally {
    vi.doUnmock('../../cli/doctor/self-test.js')
    vi.doUnmock('../../lib/memory/backends.js')
  }
})

test.each(['webassembly', 'webgpu'])(
  'says that the package does not work if the self-test of %s fails',
  async (name) => {
    vi.resetModules()
    await import('../../lib/index.js')
    const failed = () => Promise.resolve({ available: true, selfTest: { passed: false, reason: 'y is 1' } })
    vi.doMock('../../cli/doctor/webassembly.js', () => ({ webAssembly: name === 'webgpu' ? none : failed }))
    vi.doMock('../../cli/doctor/webgpu.js', () => ({ webGpu: name === 'webgpu' ? failed : none }))
    try {
      const { diagnose } = await import('../../cli/doctor/diagnose.js')
      expect(await diagnose('1.2.3')).toMatchObject({ ok: false, addon: { loads: true } })
    } finally {
      vi.doUnmock('../../cli/doctor/webassembly.js')
      vi.doUnmock('../../cli/doctor/webgpu.js')
    }
  },
)

test('prints text by default', async () => {
  const { code, stdout } = await runCli(['doctor'])
  expect(code).toBe(0)
  expect(stdout).toMatch(/^cpu +self-test passed$/m)
  const reason = process.platform === 'linux' ? 'LILY_CUDA_LIBRARY names none, which does not exist' : ONLY_LINUX
  expect(stdout).toMatch(new RegExp(`^cuda +not available: ${reason}`, 'm'))
})

const machine = { version: '1.2.3', node: 'v20.1.0', platform: 'linux-x64', os: 'Linux 6.1' }
const processor = {
  instructionSets: ['portable', 'avx2'],
  simd: 'avx2',
  threads: 3,
  because: 'affinity',
  affinity: 3,
  quota: null,
  physicalCores: 4,
  amxRefusal: null,
}
/** Neither WebAssembly nor WebGPU. */
const without = {
  webassembly: { available: false, reason: 'no build' },
  webgpu: { available: false, reason: 'no package' },
} as const
const gpu = { id: 0, name: 'a GPU', computeCapability: '9.0', memory: 80 * 2 ** 30 }

test('the text names what is wrong with a device, and asks for a report once', () => {
  const reason = 'cuda:1 does not respond'
  const text = textOf({
    ok: false,
    ...machine,
    libc: 'glibc 2.41',
    addon: { loads: true },
    environment: { LILY_NUM_THREADS: '' },
    processor: { ...processor, quota: 2.5, physicalCores: null, amxRefusal: 'Operation not permitted' },
    backends: [
      {
        name: 'cpu',
        available: true,
        devices: [{ id: 0, name: 'a processor', simd: 'avx2' }],
        selfTest: { passed: false, reason: 'y in float32 is 1,\nexpected 2' },
      },
      {
        name: 'cuda',
        available: true,
        reason,
        devices: [{ ...gpu, without: 'wgmma' }],
        selfTest: { passed: false, reason: 'please report it' },
      },
    ],
    webassembly: {
      available: true,
      simd: 'wasm',
      threads: 1,
      reason: 'LILY_NUM_THREADS=1',
      selfTest: { passed: false, reason: 'it is 1' },
    },
    webgpu: { available: true, name: 'a GPU', selfTest: { passed: false, reason: 'da in float32 is 1' } },
    mpi: { available: true, library: 'Open MPI 5.0.7', file: 'libmpi.so.40' },
  })
  expect(text.split('\n').map((line) => line.replace(/  +/, ' | '))).toEqual([
    'lily-kernels | 1.2.3',
    'Node | v20.1.0',
    'platform | linux-x64, Linux 6.1, glibc 2.41',
    'addon | loads',
    'environment | LILY_NUM_THREADS=',
    'instructions | avx2 in use; supported: portable, avx2',
    'amx | refused: Operation not permitted; bfloat16 runs on avx2, tf32 in float32',
    'threads | 3, determined by affinity (CPU affinity 3, physical cores in it unknown, cgroup quota 2.5)',
    'cpu:0 | a processor',
    'cpu | SELF-TEST FAILED: y in float32 is 1, expected 2; please report this with the output of lily-kernels doctor --json',
    'cuda:0 | a GPU, compute capability 9.0, 80.0 GiB, WITHOUT wgmma, which gave a wrong result; please report this with the ' +
      'output of lily-kernels doctor --json',
    `cuda | ${reason}`,
    'cuda | SELF-TEST FAILED: please report it',
    'webassembly | 1 thread, because LILY_NUM_THREADS=1; SIMD; not in use: the addon is',
    'webassembly | SELF-TEST FAILED: it is 1; please report this with the output of lily-kernels doctor --json',
    'webgpu | a GPU',
    'webgpu | SELF-TEST FAILED: da in float32 is 1; please report this with the output of lily-kernels doctor --json',
    'mpi | Open MPI 5.0.7 (libmpi.so.40)',
  ])
})

test('the text says what runs in place of the addon, and what does not run', () => {
  const reason = 'no native addon for sunos-x64'
  const on = (changes: Partial<Diagnosis>) =>
    textOf({
      ok: false,
      ...machine,
      libc: null,
      environment: {},
      processor,
      backends: [],
      ...without,
      mpi: null,
      addon: { loads: false, reason },
      ...changes,
    })
  expect(on({ processor: null })).toMatch(
    /^platform +linux-x64, Linux 6\.1\naddon +FAILS: no native addon for sunos-x64$/m,
  )
  const wasm = { name: 'cpu', available: true, reason, devices: [], selfTest: { passed: true } } as const
  expect(
    on({ backends: [wasm] })
      .split('\n')
      .slice(3)
      .map((line) => line.replace(/  +/, ' | ')),
  ).toEqual([
    `addon | not in use: ${reason}`,
    'instructions | avx2 in use; supported: portable, avx2',
    'threads | 3, determined by affinity (CPU affinity 3, physical cores in it 4)',
    'cpu | self-test passed',
    'webassembly | not available: no build',
    'webgpu | not available: no package',
  ])
  const devices: Partial<Diagnosis> = {
    processor: { ...processor, instructionSets: ['wasm-relaxed'], simd: 'wasm-relaxed' },
    webassembly: { available: true, simd: 'wasm-relaxed', threads: 8, selfTest: { passed: true } },
    webgpu: { available: true, name: 'a GPU', selfTest: { passed: true } },
  }
  expect(on(devices)).toMatch(
    /^webassembly +8 threads; relaxed SIMD; in use\nwebgpu +a GPU\nwebgpu +self-test passed$/m,
  )
  expect(on({ ...devices, processor: null })).toMatch(/^webassembly +8 threads; relaxed SIMD; not in use$/m)
  expect(on({ webgpu: { available: true, name: 'llvmpipe' } })).toMatch(
    /^webgpu +llvmpipe\nwebgpu +a program on the CPU, without a self-test: compiling the kernels takes long$/m,
  )
  const none = { name: 'cpu', available: false, devices: [] } as const
  const lines = on({
    processor: { ...processor, simd: null, threads: null },
    backends: [none],
    addon: { loads: true },
  })
  expect(lines).toMatch(/^instructions +none in use; supported: portable, avx2\ncpu +not available: no reason given$/m)
})
