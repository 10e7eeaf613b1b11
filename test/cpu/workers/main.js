// node main.js WORKERS: runs so many workers, eight at a time, and terminates half of them during a call. This is a separate
// process, because a failure would terminate it.
import { Worker } from 'node:worker_threads'
import { runAsync, runSync } from './calls.js'

const WORKERS = Number(process.argv[2])
const BATCH = 8
const tasks = [
  'compute',
  'busy in sync calls',
  'compute',
  'with pending async calls',
  'compute',
  'busy in sync calls',
  'compute',
  'exits with pending async calls',
]

const expected = runSync()
const counts = { right: 0, wrong: 0, stopped: 0, failed: 0 }

function finished(worker) {
  return new Promise((resolve) => worker.once('exit', resolve))
}

async function one(index) {
  const task = tasks[index % tasks.length]
  const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: task })
  const exit = finished(worker)
  let report
  worker.on('message', (message) => {
    report = message
    // A different delay for each worker, so that calls are interrupted at different points.
    if (message === 'started') setTimeout(() => void worker.terminate(), index % 13)
  })
  worker.on('error', (error) => {
    console.error(error)
    counts.failed++
  })
  await exit
  if (task !== 'compute') counts.stopped++
  else if (report?.sync === expected && report.async === expected) counts.right++
  else counts.wrong++
}

for (let first = 0; first < WORKERS; first += BATCH) {
  const batch = Array.from({ length: Math.min(BATCH, WORKERS - first) }, (_, i) => one(first + i))
  // The main thread computes at the same time.
  if ((await runAsync()) !== expected || runSync() !== expected) counts.wrong++
  await Promise.all(batch)
}
const afterwards = runSync() === expected && (await runAsync()) === expected
console.log(JSON.stringify({ ...counts, afterwards }))
