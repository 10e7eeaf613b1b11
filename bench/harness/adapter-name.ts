/** The adapter of WebGPU, in words. */

/** What `GPUAdapter.info` has of an adapter. Any of them may be empty. */
export type AdapterWords = Readonly<Record<'vendor' | 'architecture' | 'device' | 'description', string>>

/** The adapter as its driver describes it. */
export function adapterName({ vendor, architecture, device, description }: AdapterWords): string {
  return [...new Set([vendor, architecture, device, description])].filter((word) => word !== '').join(' ')
}

/** Matches the name of an adapter that is a program on the CPU: its times say nothing about a GPU. */
export const SOFTWARE = /software|swiftshader|llvmpipe|basic render/i
