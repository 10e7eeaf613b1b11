/** Collects the diagnosis of the installation. */
import { release, type } from 'node:os'
import { familySync, versionSync } from 'detect-libc'
import type { NativeProcessor } from '../../lib/binding/native.js'
import { coresName, type Diagnosis } from './diagnosis.js'
import { webAssembly } from './webassembly.js'
import { webGpu } from './webgpu.js'

const VARIABLES = [
  'LILY_NUM_THREADS',
  'LILY_CPU_ISA',
  'LILY_CPU_BLOCKS',
  'LILY_CUDA_LIBRARY',
  'LILY_CUBLASLT',
  'LILY_MPI_LIBRARY',
  'LILY_SELF_TEST',
  'CUDA_VISIBLE_DEVICES',
  'NVIDIA_VISIBLE_DEVICES',
  'CUDA_MPS_PIPE_DIRECTORY',
]

function libc(): string | null {
  const family = familySync()
  return family === null ? null : `${family} ${versionSync() ?? 'of unknown version'}`
}

export async function diagnose(version: string): Promise<Diagnosis> {
  const [webassembly, webgpu] = await Promise.all([webAssembly(), webGpu()])
  const machine = {
    version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    os: `${type()} ${release()}`,
    libc: libc(),
    environment: Object.fromEntries(
      VARIABLES.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
    ),
  }
  try {
    // Import the addon here: the diagnosis reports a failure to load it.
    const [{ native }, { backends }, { selfTest }, { mpiLibrary }] = await Promise.all([
      import('../../lib/binding/native.js'),
      import('../../lib/memory/backends.js'),
      import('./self-test.js'),
      import('./mpi-library.js'),
    ])
    // First, because it requests the tile registers of AMX: without them, another instruction set is in use.
    const processor = native.processor()
    const tested: Diagnosis['backends'][number][] = []
    for (const [i, backend] of backends().entries()) {
      if (!backend.available) {
        tested.push(backend)
        continue
      }
      const result = await selfTest(backend)
      // What the kernels use may have changed. Of a failure the result says more than the list.
      tested.push({ ...(result.passed ? backends()[i] : backend), selfTest: result })
    }
    const [cpu] = tested
    const { instructionSets, affinity, quota, physicalCores, amxRefusal } = processor
    const threads = cpu.devices[0]?.threads ?? null
    const isWebAssembly = instructionSets.startsWith('wasm')
    return {
      ok: cpu.available && [...tested, webassembly, webgpu].every(({ selfTest }) => selfTest?.passed !== false),
      ...machine,
      // The reason of a backend that is not available is another one.
      addon: isWebAssembly ? { loads: false, ...(cpu.available && { reason: cpu.reason }) } : { loads: true },
      processor: {
        instructionSets: instructionSets.split(' '),
        simd: cpu.devices[0]?.simd ?? null,
        threads,
        because: threads === null ? 'the cpu backend is not available' : threadLimit(threads, processor),
        affinity,
        quota: quota > 0 ? quota : null,
        physicalCores: physicalCores > 0 ? physicalCores : null,
        amxRefusal: amxRefusal === '' ? null : amxRefusal,
      },
      backends: tested,
      webassembly,
      webgpu,
      mpi: mpiLibrary(),
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    const nothing = { processor: null, backends: [], mpi: null }
    return { ok: false, ...machine, addon: { loads: false, reason }, ...nothing, webassembly, webgpu }
  }
}

/** Names the limit that determines the number of threads. */
function threadLimit(threads: number, { affinity, quota, physicalCores }: NativeProcessor): string {
  if ((process.env.LILY_NUM_THREADS ?? '') !== '') return 'LILY_NUM_THREADS'
  const limits: [number, string][] = [
    [physicalCores, coresName(`${process.platform}-${process.arch}`)],
    [affinity, 'affinity'],
    [quota, 'cgroup quota'],
  ]
  const reasons = limits.filter(([limit]) => limit === threads).map(([, name]) => name)
  return reasons.length === 0 ? 'the limit of the thread pool' : reasons.join(' and ')
}
