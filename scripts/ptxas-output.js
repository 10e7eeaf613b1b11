// What ptxas -v prints of kernels.

/**
 * @typedef {{ architecture: number, kernel: string, symbol: string, registers: number, stackBytes: number,
 *   spillStoreBytes: number, spillLoadBytes: number, localBytes: number, staticSharedBytes: number,
 *   dynamicSharedBytes: number, blocks: number, warps: number, mostWarps: number }} Resources
 */

/** @type {(text: string, pattern: RegExp) => number} */
const sum = (text, pattern) => [...text.matchAll(pattern)].reduce((total, [, number]) => total + Number(number), 0)

/** The kernels, with what ptxas does not report as 0 or ''. @type {(output: string) => Resources[]} */
export function kernelsOf(output) {
  // Functions that were not inlined have properties but no entry; they are counted with the kernel before them.
  return output
    .split('Compiling entry function')
    .slice(1)
    .map((part) => ({
      kernel: '',
      symbol: /'(\w+)'/.exec(part)?.[1] ?? '',
      architecture: Number(/for 'sm_(\d+)a?'/.exec(part)?.[1]),
      registers: sum(part, /Used (\d+) registers/g),
      stackBytes: sum(part, /(\d+) bytes stack frame/g),
      spillStoreBytes: sum(part, /(\d+) bytes spill stores/g),
      spillLoadBytes: sum(part, /(\d+) bytes spill loads/g),
      localBytes: sum(part, /(\d+) bytes lmem/g),
      staticSharedBytes: sum(part, /(\d+) bytes smem/g),
      dynamicSharedBytes: 0,
      blocks: 0,
      warps: 0,
      mostWarps: 0,
    }))
}

/**
 * The messages about wgmma whose products wait for each other, or for a wait that ptxas adds (codes C7510 to C7519).
 * ptxas prints them without -v too. @type {(output: string) => string[]}
 */
export function serialisedOf(output) {
  return output.split('\n').filter((line) => /wgmma.*serialized|\(C751\d\)/.test(line))
}
