// One worker: computes and reports, or runs calls until it is terminated.
import { parentPort, workerData } from 'node:worker_threads'
import { longCalls, runAsync, runSync } from './calls.js'

const task = workerData
if (task === 'compute') {
  const sync = runSync()
  parentPort.postMessage({ sync, async: await runAsync() })
} else {
  const calls = longCalls()
  const four = () => Promise.all(Array.from({ length: 4 }, () => calls.async()))
  parentPort.postMessage('started')
  if (task === 'busy in sync calls') for (;;) calls.sync()
  if (task === 'with pending async calls') for (;;) await four()
  // Exits with calls pending.
  void four()
  setImmediate(() => process.exit(0))
}
