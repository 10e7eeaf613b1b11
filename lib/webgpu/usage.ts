/** Flags of WebGPU. Node.js has no global objects with them. */

/** `GPUBufferUsage`. */
export const usage = {
  mapRead: 0x01,
  copySource: 0x04,
  copyDestination: 0x08,
  uniform: 0x40,
  storage: 0x80,
} as const

/** `GPUMapMode.READ`. */
export const MAP_READ = 1
