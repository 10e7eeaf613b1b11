/** The part of the interfaces of pages and their workers that this package uses. TypeScript has them only with all the others. */
interface Worker {
  postMessage(message: unknown): void
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void
  addEventListener(type: 'error', listener: (event: { readonly message?: string }) => void): void
}
declare const Worker: { new (url: string): Worker }

declare const navigator: { readonly hardwareConcurrency?: number }

/** Absent in old browsers. */
declare const crossOriginIsolated: boolean | undefined
