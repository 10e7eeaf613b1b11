import { fileURLToPath } from 'node:url'

/** The package's folder: lib/ and dist/, where this file may run, both lie directly in it. */
export const packageRoot = fileURLToPath(new URL('..', import.meta.url))
