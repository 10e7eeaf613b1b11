/** The part of WebAssembly's JavaScript interface that this package uses. TypeScript has it only among the types of pages. */
declare namespace WebAssembly {
  // eslint-disable-next-line @typescript-eslint/no-empty-object-type -- it has no members
  interface Module {}
  const Module: { new (code: ArrayBufferView<ArrayBuffer>): Module }

  interface Memory {
    readonly buffer: ArrayBuffer | SharedArrayBuffer
    grow(pages: number): number
  }
  const Memory: { new (limits: { initial: number; maximum: number; shared: boolean }): Memory }

  interface Instance {
    readonly exports: Readonly<Record<string, unknown>>
  }
  const Instance: {
    new (module: Module, imports: Readonly<Record<string, Readonly<Record<string, unknown>>>>): Instance
  }

  interface Table {
    get(index: number): unknown
  }
  interface Global {
    readonly value: unknown
  }
}
