/** What `vitest` is in a program for Windows: that of the portable suites, and the spies. */
import { fn, restoreAllMocks, spyOn } from '@vitest/spy'

export * from '../support/portable/vitest.js'
export { onTestFinished } from '@vitest/runner'

export const vi = {
  fn,
  spyOn,
  restoreAllMocks,
  stubGlobal: (name: string, value: unknown): void => {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true })
  },
}
