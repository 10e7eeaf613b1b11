/** Copies and fills any bytes; WebGPU's own commands take multiples of 4 bytes, and require usages of the buffers. */
import type { Allocate } from './kernels.js'
import { usage } from './usage.js'

/** Threads of a workgroup. Each writes one 32-bit word, so no two threads write the same one. */
const THREADS = 64

/** Bytes of one dispatch: fewer workgroups than maxComputeWorkgroupsPerDimension, and a binding below its limit. */
const MOST = 8 * 2 ** 20

/** Alignment of the offset of a binding. */
const ALIGNMENT = 256

/**
 * In the words of the bindings: bytes `to_begin` up to `to_end` get the bytes from `begin` on, or zero. A function, because
 * bundlers keep a constant whose template has values, also where no kernel is used.
 */
const shader = () => `
struct Parameters { to_begin: u32, to_end: u32, begin: u32, is_copy: u32 }
@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<uniform> parameters: Parameters;

@compute @workgroup_size(${THREADS})
fn copy_bytes(@builtin(global_invocation_id) id: vec3u) {
  let word = parameters.to_begin / 4u + id.x;
  if (word * 4u >= parameters.to_end) { return; }
  var value = output[word];
  for (var i = 0u; i < 4u; i++) {
    let at = word * 4u + i;
    if (at < parameters.to_begin || at >= parameters.to_end) { continue; }
    let source = parameters.begin + (at - parameters.to_begin);
    let byte = select(0u, (input[source / 4u] >> (8u * (source % 4u))) & 0xffu, parameters.is_copy != 0u);
    value = (value & ~(0xffu << (8u * i))) | (byte << (8u * i));
  }
  output[word] = value;
}
`

/** Bytes of a buffer. */
export interface Bytes {
  readonly buffer: GPUBuffer
  readonly byteOffset: number
}

/** Encodes copies and fills of a device. */
export class ByteCopies {
  #pipeline: GPUComputePipeline | null = null

  constructor(private readonly device: GPUDevice) {}

  /**
   * Copies bytes, or sets them to zero without `from`. `allocate` gives memory that is not used again before the commands are
   * submitted.
   */
  copy(encoder: GPUCommandEncoder, to: Bytes, from: Bytes | null, byteLength: number, allocate: Allocate): void {
    if (byteLength === 0) return
    const isPlain =
      [to.byteOffset, from?.byteOffset ?? 0, byteLength].every((bytes) => bytes % 4 === 0) &&
      (to.buffer.usage & usage.copyDestination) !== 0 &&
      (from === null || (from.buffer.usage & usage.copySource) !== 0)
    if (isPlain) {
      if (from === null) encoder.clearBuffer(to.buffer, to.byteOffset, byteLength)
      else encoder.copyBufferToBuffer(from.buffer, from.byteOffset, to.buffer, to.byteOffset, byteLength)
      return
    }
    const { device } = this
    this.#pipeline ??= device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code: shader() }) },
    })
    const pass = encoder.beginComputePass()
    pass.setPipeline(this.#pipeline)
    for (let done = 0; done < byteLength; done += MOST) {
      const length = Math.min(MOST, byteLength - done)
      const output = binding(to.buffer, to.byteOffset + done, length)
      const input = from && binding(from.buffer, from.byteOffset + done, length)
      const parameters = allocate(ALIGNMENT)
      const numbers = [output.skipped, output.skipped + length, input?.skipped ?? 0, input === null ? 0 : 1]
      device.queue.writeBuffer(parameters, 0, Uint32Array.from(numbers))
      const entries = [
        { binding: 0, resource: output.resource },
        { binding: 1, resource: input?.resource ?? { buffer: parameters } },
        { binding: 2, resource: { buffer: parameters, size: 16 } },
      ]
      pass.setBindGroup(0, device.createBindGroup({ layout: this.#pipeline.getBindGroupLayout(0), entries }))
      pass.dispatchWorkgroups(Math.ceil(((output.skipped % 4) + length) / (4 * THREADS)))
    }
    pass.end()
  }
}

/** A binding that covers bytes of a buffer, and how many bytes it begins before them. */
function binding(buffer: GPUBuffer, byteOffset: number, byteLength: number) {
  const offset = byteOffset - (byteOffset % ALIGNMENT)
  const skipped = byteOffset - offset
  return { resource: { buffer, offset, size: Math.ceil((skipped + byteLength) / 4) * 4 }, skipped }
}
