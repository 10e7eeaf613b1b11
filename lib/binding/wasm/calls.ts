/** Calls in the module: their operands are copied in, they get a workspace, and their outputs are copied back. */
import type { Memory, PoolStatistics } from '../native.js'
import type { Module } from './module.js'
import { type Copied, Operands } from './operands.js'
import type { Prepared } from './prepare.js'
import type { Residents } from './residents.js'

export class Calls {
  /** What the calls have copied so far. */
  readonly copied: Copied = { in: 0, out: 0 }
  /** Of the calls on the main thread. */
  readonly workspace: Workspace

  constructor(
    private readonly module: Module,
    private readonly residents: Residents,
  ) {
    this.workspace = new Workspace(module)
  }

  /** Prepares a call, runs it and copies its outputs back. */
  run(prepare: (operands: Operands) => Prepared): void {
    this.withOperands((operands) => {
      const prepared = prepare(operands)
      giveWorkspace(operands, prepared, (bytes) => this.workspace.of(bytes))
      this.module.startThreads()
      this.module.check(this.module.call(prepared.entry, prepared.call))
      operands.finish()
    })
  }

  /** The same on the thread of the async forms. */
  async runAsync(prepare: (operands: Operands) => Prepared, memory: Memory[]): Promise<void> {
    const operands = this.#operands()
    try {
      const prepared = prepare(operands)
      giveWorkspace(operands, prepared, (bytes) => operands.workspace(bytes)) // its own: other calls run meanwhile
      await this.module.run(prepared.entry, prepared.call, operands.blocks)
      operands.finish()
    } finally {
      operands.release()
      memory.length = 0 // until here it keeps the operands alive
    }
  }

  /** Calls `work` with operands, and releases what they allocated. */
  withOperands<T>(work: (operands: Operands) => T): T {
    const operands = this.#operands()
    try {
      return work(operands)
    } finally {
      operands.release()
    }
  }

  #operands(): Operands {
    return new Operands(this.module, this.residents, this.copied)
  }
}

/** Gives a call its workspace, unless it needs none. */
function giveWorkspace(operands: Operands, { workspace }: Prepared, allocate: (bytes: number) => number): void {
  if (workspace === null) return
  operands.int32(workspace.addressAt, allocate(workspace.bytes))
  operands.int32(workspace.bytesAt, workspace.bytes)
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

  statistics(): PoolStatistics {
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
