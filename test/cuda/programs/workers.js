// Workers use the device concurrently, and each is terminated during a call. The main thread does not use the device.
import { Worker } from 'node:worker_threads'

const run = () =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL('worker.js', import.meta.url))
    worker.on('error', reject)
    worker.once('message', (text) => {
      setTimeout(() => worker.terminate().then(() => resolve(text), reject), 5)
    })
  })
const texts = []
for (let round = 0; round < 3; round++) texts.push(...(await Promise.all([run(), run(), run()])))
console.log(texts.every((text) => text === '1,2,3') ? 'right' : texts.join(' '))
