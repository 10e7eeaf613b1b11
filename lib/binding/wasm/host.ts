/** What the WebAssembly backend needs of the runtime that it is in: a browser, Node.js, Bun or Deno. */

/** The builds of the module, by the instruction set that LILY_CPU_ISA and `backends()` name. */
export type Build = 'wasm' | 'wasm-relaxed'

/** A Worker, or a thread of Node.js. */
export interface Thread {
  post(message: unknown): void
  /** Called with each message of the thread. */
  onMessage(listener: (message: unknown) => void): void
  /** Called if the thread cannot start, or ends. */
  onEnd(listener: (reason: string) => void): void
  /** Whether the thread keeps the process alive. At first it does not. */
  keepAlive(keeps: boolean): void
}

export interface Host {
  /** The code of a build; null if this package has none. */
  code(build: Build): Uint8Array<ArrayBuffer> | null
  /** Number of threads that can run at once. */
  readonly processors: number
  /** Name of the processor, if it is known. */
  readonly processorName: string | null
  /** An environment variable; undefined where there are none. */
  variable(name: string): string | undefined
  /**
   * Whether threads may share memory. A page may if it is cross-origin isolated.
   */
  readonly sharesMemory: boolean
  /**
   * Starts a thread that runs a script.
   *
   * @throws any error if the runtime has no threads, or forbids them
   */
  start(script: string): Thread
}
