/** Properties of GPUs, from NVIDIA's data sheets, whitepapers, and the CUDA programming guide. */
export interface Gpu {
  /** Compute capability: 75, 80, ... */
  readonly capability: number
  readonly multiprocessors: number
  readonly l2Bytes: number
  /** The most shared memory of one block, and of all blocks of a multiprocessor. */
  readonly sharedBytesPerBlock: number
  readonly sharedBytesPerMultiprocessor: number
  readonly threadsPerMultiprocessor: number
  /** The highest clock of the multiprocessors. */
  readonly clockHz: number
  readonly memoryBytesPerSecond: number
  /** FLOP/s of dense 16-bit products with float32 sums. */
  readonly matrixFlopsPerSecond: number
}

const KIB = 1024
const MIB = 1024 * KIB

const kib = (perBlock: number, perMultiprocessor: number) => ({
  sharedBytesPerBlock: perBlock * KIB,
  sharedBytesPerMultiprocessor: perMultiprocessor * KIB,
})

export const gpus = {
  t4: {
    capability: 75,
    multiprocessors: 40,
    l2Bytes: 4 * MIB,
    ...kib(64, 64),
    threadsPerMultiprocessor: 1024,
    clockHz: 1.59e9,
    memoryBytesPerSecond: 320e9,
    matrixFlopsPerSecond: 65e12,
  },
  // SXM4, 40 GB.
  a100: {
    capability: 80,
    multiprocessors: 108,
    l2Bytes: 40 * MIB,
    ...kib(163, 164),
    threadsPerMultiprocessor: 2048,
    clockHz: 1.41e9,
    memoryBytesPerSecond: 1555e9,
    matrixFlopsPerSecond: 312e12,
  },
  rtx4090: {
    capability: 89,
    multiprocessors: 128,
    l2Bytes: 72 * MIB,
    ...kib(99, 100),
    threadsPerMultiprocessor: 1536,
    clockHz: 2.52e9,
    memoryBytesPerSecond: 1008e9,
    matrixFlopsPerSecond: 165.2e12,
  },
  // SXM5.
  h100: {
    capability: 90,
    multiprocessors: 132,
    l2Bytes: 50 * MIB,
    ...kib(227, 228),
    threadsPerMultiprocessor: 2048,
    clockHz: 1.98e9,
    memoryBytesPerSecond: 3350e9,
    matrixFlopsPerSecond: 989e12,
  },
  b200: {
    capability: 100,
    multiprocessors: 148,
    l2Bytes: 126 * MIB,
    ...kib(227, 228),
    threadsPerMultiprocessor: 2048,
    clockHz: 1.965e9,
    memoryBytesPerSecond: 8000e9,
    matrixFlopsPerSecond: 2250e12,
  },
  rtx5090: {
    capability: 120,
    multiprocessors: 170,
    l2Bytes: 96 * MIB,
    ...kib(99, 100),
    threadsPerMultiprocessor: 1536,
    clockHz: 2.407e9,
    memoryBytesPerSecond: 1792e9,
    matrixFlopsPerSecond: 209.5e12,
  },
} satisfies Record<string, Gpu>

export type GpuName = keyof typeof gpus
export const gpuNames = Object.keys(gpus) as readonly GpuName[]

/** GPUs by their names. A variant with other figures than those above, such as a PCIe card, counts as the same GPU. */
const names: readonly (readonly [pattern: RegExp, gpu: Gpu])[] = [
  [/\bT4\b/, gpus.t4],
  [/\bA100\b/, gpus.a100],
  [/\bRTX 4090\b/, gpus.rtx4090],
  [/\bH100\b/, gpus.h100],
  // Differs from an H100 in its memory.
  [/\bH200\b/, { ...gpus.h100, memoryBytesPerSecond: 4800e9 }],
  [/\bB200\b/, gpus.b200],
  [/\bRTX 5090\b/, gpus.rtx5090],
]

/** The GPU of a name that CUDA reports; undefined if it is none of those above. */
export function gpuOf(name: string): Gpu | undefined {
  if (name.startsWith('Lily emulator')) return emulatedGpu(90)
  return names.find(([pattern]) => pattern.test(name))?.[1]
}

/** Multiprocessors of the emulated GPU whose accesses are counted: as few as a real GPU has, so that plans are similar. */
export const EMULATED_MULTIPROCESSORS = 64

/**
 * Architectures that the tests emulate. 9.0 executes code that is specific to it, and 10.0 code for all later ones. For
 * 11.0 there is no machine code: it executes the published PTX.
 */
export type Emulated = 75 | 90 | 100 | 110

/** What the emulator reports of them (emulator/runtime/device_properties.cc). */
export function emulatedGpu(
  capability: Emulated,
  multiprocessors = EMULATED_MULTIPROCESSORS,
  l2Bytes: number = 4 * MIB,
): Gpu {
  const [perBlock, perMultiprocessor, threadsPerMultiprocessor] = (
    { 75: [64, 64, 1024], 90: [227, 228, 2048], 100: [227, 228, 2048], 110: [227, 228, 1536] } as const
  )[capability]
  return {
    capability,
    multiprocessors,
    l2Bytes,
    ...kib(perBlock, perMultiprocessor),
    threadsPerMultiprocessor,
    clockHz: 1e9,
    memoryBytesPerSecond: 12e9 * multiprocessors,
    matrixFlopsPerSecond: 0, // it has no speed
  }
}
