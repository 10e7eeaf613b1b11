/**
 * The types of WebGPU in the declarations of the package: those that the program has, from its library `dom` (TypeScript 6
 * and later), from @webgpu/types or from Deno. These collide in one program, so the declarations refer to none of them.
 */

/* eslint-disable @typescript-eslint/no-empty-object-type -- the program's types have the members */
declare global {
  // They merge with the program's types, which are interfaces, or classes in Deno. Without such types they are empty.
  interface GPUBuffer {}
  interface GPUCommandEncoder {}
  interface GPUDevice {}
}
/* eslint-enable */

/** GPUBuffer of the program; without members if the program declares none. */
export type GpuBuffer = GPUBuffer

/** GPUCommandEncoder of the program; without members if the program declares none. */
export type GpuCommandEncoder = GPUCommandEncoder

/** GPUDevice of the program; without members if the program declares none. */
export type GpuDevice = GPUDevice
