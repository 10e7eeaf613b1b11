/**
 * Targets of the published CUDA library: virtual architectures, for each of which the kernels are compiled to PTX, and the
 * architectures for which machine code is made of it. From one PTX to the next the kernels gain nothing but the waits between
 * launches (9.0), and to make it takes most of the time. GPUs of compute capability 8.6 and 8.9 execute the code for 8.0.
 *
 * @typedef {{ virtual: number, real: readonly number[] }} CudaTarget
 * @type {readonly CudaTarget[]}
 */
export const targets = [
  { virtual: 75, real: [75] },
  { virtual: 80, real: [80] },
  { virtual: 90, real: [90, 100, 120] },
]

/**
 * The target as nvcc's --generate-code names it. With `keepsPtx` the object contains the PTX, which later architectures
 * compile.
 *
 * @type {(target: CudaTarget, keepsPtx: boolean) => string}
 */
export function codeOf({ virtual, real }, keepsPtx) {
  const code = [...real.map((name) => `sm_${name}`), ...(keepsPtx ? [`compute_${virtual}`] : [])]
  return `arch=compute_${virtual},code=[${code.join(',')}]`
}
