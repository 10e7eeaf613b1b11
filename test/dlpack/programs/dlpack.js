// Capsules of DLPack whose environment ends before their tensors are given back. Arguments: the second addon, the way.
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { fromDLPack, tensor, toDLPack } from 'lily-kernels'

const [path, way] = isMainThread ? process.argv.slice(2) : workerData
const addon = createRequire(import.meta.url)(path)

/** Leaves tensors in every state behind; returns those that the addon has. */
function leaveBehind() {
  const kept = []
  const taken = []
  for (let i = 0; i < 8; i++) {
    kept.push(toDLPack(tensor([1, 2, 3], [3])))
    kept.push(fromDLPack(toDLPack(tensor([1, 2, 3], [3]))))
    taken.push(addon.take(toDLPack(tensor([1, 2, 3], [3]))).index)
  }
  // Requests that the event loop has not served yet.
  addon.giveBack(taken.pop(), 0)
  addon.giveBack(taken.pop(), 1)
  globalThis.kept = kept
  return taken
}

if (!isMainThread) {
  parentPort.postMessage(leaveBehind())
  if (way === 'terminated') for (;;) fromDLPack(toDLPack(tensor([1], [1])))
} else if (way === 'exit') {
  const taken = leaveBehind()
  process.on('exit', () => {
    addon.giveBack(taken.pop(), 1)
    console.log('done')
  })
} else {
  for (let i = 0; i < 4; i++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: [path, way] })
    const ended = once(worker, 'exit')
    const [taken] = await once(worker, 'message')
    if (way === 'terminated') await worker.terminate()
    await ended
    for (const index of taken) addon.giveBack(index, index % 2)
  }
  globalThis.gc()
  console.log('done')
}
