/**
 * Targets of the published CUDA library: virtual architectures, for each of which the kernels are compiled to PTX, and the
 * architectures for which machine code is made of it. From one PTX to the next the kernels gain nothing but the waits
 * between launches (9.0) and, for GPUs of 9.0 alone, wgmma (90a: specific to them), and to make it takes most of the time.
 * GPUs of compute capability 8.6 and 8.9 execute the code for 8.0. GPUs for which the library has no machine code compile
 * the PTX of the last target.
 *
 * @typedef {{ virtual: number, isSpecific?: boolean, real: readonly number[], hasPtx?: boolean }} CudaTarget
 * @type {readonly CudaTarget[]}
 */
export const targets = [
  { virtual: 75, real: [75] },
  { virtual: 80, real: [80] },
  { virtual: 90, isSpecific: true, real: [90] },
  { virtual: 90, real: [100, 120], hasPtx: true },
]

/**
 * Those of the kernels of float16, whose code would be a third of the library: from 10.0 on, where bfloat16 is the usual
 * type, they are compiled from PTX at the first call, once per machine.
 *
 * @type {readonly CudaTarget[]}
 */
export const float16Targets = targets.map((target) => (target.hasPtx ? { ...target, real: [] } : target))

/** The target as nvcc's --generate-code names it. @type {(target: CudaTarget) => string} */
export function codeOf({ virtual, isSpecific = false, real, hasPtx = false }) {
  const suffix = isSpecific ? 'a' : ''
  const code = [...real.map((name) => `sm_${name}${suffix}`), ...(hasPtx ? [`compute_${virtual}`] : [])]
  return `arch=compute_${virtual}${suffix},code=[${code.join(',')}]`
}

/** The target whose code a GPU executes. @type {(capability: number) => CudaTarget} */
export function targetOf(capability) {
  /** @type {(name: number) => boolean} */
  const runs = (name) => Math.floor(name / 10) === Math.floor(capability / 10) && name <= capability
  return targets.find(({ real }) => real.some(runs)) ?? targets[targets.length - 1]
}

/** Its virtual architecture as a number, as the tile table takes it: 901 for 90a. @type {(capability: number) => number} */
export function architectureOf(capability) {
  const { virtual, isSpecific } = targetOf(capability)
  return isSpecific ? 10 * virtual + 1 : virtual
}
