// The devices are reset between two workers. The main thread does not use them, so the second worker begins anew.
import { Worker } from 'node:worker_threads'
import { reset } from './control.js'

async function run() {
  const worker = new Worker(new URL('once.js', import.meta.url))
  const ended = new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject))
  let text = ''
  worker.on('message', (message) => (text += message))
  await ended
  return text
}
const texts = [await run()]
for (const name of ['reset', 'restart']) {
  reset(name)
  texts.push(await run())
}
console.log(texts.every((text) => text === '1,2,3 6144') ? 'right' : texts.join('; '))
