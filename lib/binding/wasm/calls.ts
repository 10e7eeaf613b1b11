/** Calls in the module: their operands are copied in, they get a workspace, and their outputs are copied back. */
import type { Memory, PoolStats } from '../native.js'
import type { Module } from './module.js'
import { type Copied, Operands } from './operands.js'
import type { Residents } from './residents.js'

export class Calls {
  /** What the calls have copied so far. */
  readonly copied: Copied = { in: 0, out: 0 }
  /** Workspace of the calls on the main thread. */
  readonly workspace: Workspace

  constructor(
    private readonly module: Module,
    private readonly residents: Residents,
  ) {
    this.workspace = new Workspace(module)
  }

  /** Runs a call and copies its outputs back. */
  run(numbers: Float64Array, memory: readonly Memory[]): void {
    this.#with(numbers, memory, (operands) => {
      const { module } = this
      operands.check()
      operands.copyIn()
      giveWorkspace(operands, (bytes) => this.workspace.of(bytes))
      module.startThreads()
      module.check(module.exports.lily_wasm_run(operands.call))
      operands.finish()
    })
  }

  /** Checks a call and finds memory for its workspace. */
  reserve(numbers: Float64Array, memory: readonly Memory[]): void {
    this.#with(numbers, memory, (operands) => {
      operands.check()
      giveWorkspace(operands, (bytes) => this.workspace.of(bytes))
    })
  }

  /** The same as run on the thread of the async forms; here, if the call has a list, which belongs to this thread. */
  async runAsync(numbers: Float64Array, memory: Memory[]): Promise<void> {
    const operands = new Operands(this.module, this.residents, this.copied, numbers, memory)
    try {
      operands.check()
      operands.copyIn()
      giveWorkspace(operands, (bytes) => operands.workspace(bytes)) // its own: other calls run meanwhile
      if (operands.hasList) this.module.check(this.module.exports.lily_wasm_run(operands.call))
      else await this.module.run(operands.call, operands.blocks)
      operands.finish()
    } finally {
      operands.release()
      memory.length = 0 // until here it keeps the operands alive
    }
  }

  packedBytes(numbers: Float64Array, memory: readonly Memory[]): number {
    return this.#with(numbers, memory, (operands) => operands.packedBytes())
  }

  #with<T>(numbers: Float64Array, memory: readonly Memory[], work: (operands: Operands) => T): T {
    const operands = new Operands(this.module, this.residents, this.copied, numbers, memory)
    try {
      return work(operands)
    } finally {
      operands.release()
    }
  }
}

/** Gives a call its workspace, unless it needs none. */
function giveWorkspace({ module, call }: Operands, allocate: (bytes: number) => number): void {
  module.check(module.exports.lily_wasm_workspace_bytes(call, module.scratch))
  const bytes = module.view.getUint32(module.scratch, true)
  if (bytes > 0) module.exports.lily_wasm_give_workspace(call, allocate(bytes), bytes)
}

/** The workspace of the calls on the main thread. It grows to the largest that a call needs, and stays. */
class Workspace {
  #address = 0
  #byteLength = 0
  #allocations = 0

  constructor(private readonly module: Module) {}

  of(byteLength: number): number {
    if (this.#address !== 0 && byteLength <= this.#byteLength) return this.#address
    this.release()
    this.#address = this.module.allocate('a workspace', byteLength)
    this.#byteLength = byteLength
    this.#allocations++
    return this.#address
  }

  release(): void {
    if (this.#address !== 0) this.module.release(this.#address)
    this.#address = 0
    this.#byteLength = 0
  }

  statistics(): PoolStats {
    return {
      bytesInUse: 0,
      bytesCached: this.#byteLength,
      peakBytesInUse: this.#byteLength,
      blocksInUse: 0,
      blocksCached: this.#byteLength > 0 ? 1 : 0,
      allocations: this.#allocations,
    }
  }
}
