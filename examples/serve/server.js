// Serves adapters of one base model, those of several tenants in one call: PORT=8080 node examples/serve/server.js
import { createServer } from 'node:http'
import { setTimeout } from 'node:timers/promises'
import { LilyAdapters, LilyModel, linearForward, LoraModel, packLinear, tensor } from 'lily-kernels'

// A tiny base model: a state that fades, one linear layer, greedy decoding. Yours has more, and trained weights.
const [vocabulary, d] = [64, 32]
const numbers = (length, seed) => Float32Array.from({ length }, (_, i) => Math.sin((i + 1) * (i + seed)))
const embedding = numbers(vocabulary * d, 1)
export const weight = packLinear(tensor(numbers(d * d, 2), [d, d]))
export const head = packLinear(tensor(embedding, [vocabulary, d]))
export const next = (state, token) => state.map((value, i) => value / 2 + embedding[token * d + i])

// Random adapters, LoRA for even seeds and Lily for odd ones. Yours come from fromPretrained(folder).
const layers = [{ name: 'proj', inFeatures: d, outFeatures: d }]
const lora = { r: 4, loraAlpha: 16, initLoraWeights: false }
const lily = { r: 8, numB: 3, scaling: 4, routing: 'token', initWeights: false }
export const create = (seed) =>
  (seed % 2 ? LilyModel : LoraModel).create({ layers, config: seed % 2 ? lily : lora, seed })
export const adapters = new LilyAdapters().addAdapter('french', create(1)).addAdapter('polite', create(2))
export const layer = adapters.layer('proj')

const running = new Set() // requests: { tenant, state, left, response }
const leaving = new Set() // adapters that only wait for the last of their requests

async function decode() {
  while (running.size > 0) {
    await setTimeout(1) // requests that arrive meanwhile join the call
    const batch = [...running].slice(0, 32)
    const x = tensor(Float32Array.from(batch.flatMap(({ state }) => [...state])), [batch.length, d])
    const y = tensor(new Float32Array(batch.length * d), [batch.length, d])
    layer.forward({ x, y, weight }, { rows: batch.map(({ tenant }) => tenant), save: false })
    const logits = linearForward({ x: y, weight: head }).y.data
    for (const [i, request] of batch.entries()) {
      const row = logits.slice(i * vocabulary, (i + 1) * vocabulary)
      const token = row.indexOf(Math.max(...row))
      request.state = next(request.state, token)
      request.response.write(`${token}\n`)
      if (--request.left > 0 && !request.response.destroyed) continue
      request.response.end()
      running.delete(request)
    }
  }
}

// PUT /adapters/NAME { seed }, DELETE /adapters/NAME, and POST /generate { tenant, prompt, length }, which streams tokens.
export const server = createServer(async (request, response) => {
  const answer = (status, text) => response.writeHead(status).end(text)
  const name = request.url.split('/')[2]
  try {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    const { seed, tenant = null, prompt, length } = JSON.parse(body || '{}')
    const used = request.method === 'DELETE' ? name : tenant
    if (request.method === 'PUT') {
      adapters.addAdapter(name, create(seed)) // throws if the name is in use
      answer(201)
    } else if (used !== null && (!adapters.adapters.has(used) || leaving.has(used))) {
      answer(404)
    } else if (request.method === 'DELETE') {
      leaving.add(name)
      while (Array.from(running).some(({ tenant }) => tenant === name)) await setTimeout(1)
      adapters.deleteAdapter(name)
      leaving.delete(name)
      answer(204)
    } else {
      if (!prompt.every((token) => Number.isInteger(token) && embedding[token * d])) throw new RangeError('prompt')
      const state = prompt.reduce(next, new Float32Array(d))
      if (running.add({ tenant, state, left: length, response }).size === 1) decode()
    }
  } catch (error) {
    answer(400, error.message)
  }
})
if (process.env.PORT) server.listen(process.env.PORT)
