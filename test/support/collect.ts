import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
export const gc = runInNewContext('gc') as () => void

/**
 * Collects unreachable objects and runs their finalizers. A test that counts memory calls it before its first count too: what
 * earlier tests have left may otherwise be collected between two counts. Objects that hold others take several rounds.
 */
export async function collect(): Promise<void> {
  for (let i = 0; i < 12; i++) {
    gc()
    await new Promise(setImmediate)
  }
}
