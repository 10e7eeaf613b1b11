/** Compiled pipelines of one device, by the text of their shaders. */
import type { Module } from './wgsl/module.js'

interface Entry {
  readonly layout: GPUBindGroupLayout
  pipeline: GPUComputePipeline | null
  /** While it compiles off the main thread. */
  pending: Promise<void> | null
}

export class Pipelines {
  readonly #entries = new Map<string, Entry>()

  constructor(private readonly device: GPUDevice) {}

  get(module: Module): { readonly layout: GPUBindGroupLayout; readonly pipeline: GPUComputePipeline } {
    const entry = this.#entryOf(module)
    const pipeline = (entry.pipeline ??= this.device.createComputePipeline(this.#descriptor(module, entry.layout)))
    return { layout: entry.layout, pipeline }
  }

  /** Resolves once the pipeline is compiled. */
  async compile(module: Module): Promise<void> {
    const entry = this.#entryOf(module)
    if (entry.pipeline !== null) return
    entry.pending ??= this.#compile(module, entry).finally(() => {
      entry.pending = null
    })
    await entry.pending
  }

  async #compile(module: Module, entry: Entry): Promise<void> {
    const pipeline = await this.device.createComputePipelineAsync(this.#descriptor(module, entry.layout))
    entry.pipeline ??= pipeline
  }

  #entryOf(module: Module): Entry {
    const entry = this.#entries.get(module.code) ?? { layout: this.#layoutOf(module), pipeline: null, pending: null }
    this.#entries.set(module.code, entry)
    return entry
  }

  #layoutOf({ bindings }: Module): GPUBindGroupLayout {
    const visibility = 4 // GPUShaderStage.COMPUTE, an object that Node.js does not have
    return this.device.createBindGroupLayout({
      entries: [
        { binding: 0, visibility, buffer: { type: 'uniform' } },
        ...bindings.map(({ isWritten }, i) => ({
          binding: i + 1,
          visibility,
          buffer: { type: isWritten ? ('storage' as const) : ('read-only-storage' as const) },
        })),
      ],
    })
  }

  #descriptor({ code }: Module, layout: GPUBindGroupLayout): GPUComputePipelineDescriptor {
    return {
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: this.device.createShaderModule({ code }), entryPoint: 'main' },
    }
  }
}
