/**
 * The types of WebGPU in the declarations of the package: those that the program has, from its library `dom` (TypeScript 6
 * and later) or from @webgpu/types. The two collide in one program, so the declarations refer to neither.
 */

/** GPUBuffer, if the program declares it; otherwise any object. */
export type GpuBuffer = typeof globalThis extends { GPUBuffer: { prototype: infer T } } ? T : object

/** GPUCommandEncoder, if the program declares it; otherwise any object. */
export type GpuCommandEncoder = typeof globalThis extends { GPUCommandEncoder: { prototype: infer T } } ? T : object

/** GPUDevice, if the program declares it; otherwise any object. */
export type GpuDevice = typeof globalThis extends { GPUDevice: { prototype: infer T } } ? T : object
