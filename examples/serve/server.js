// Serves adapters of one base model, those of several tenants in one call: PORT=8080 node examples/serve/server.js
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { setTimeout } from 'node:timers/promises'
import { LilyAdapters, LilyModel, LoraModel, packLinear, tensor } from 'lily-kernels'

// A tiny base model: a state that fades, and a linear layer for the logits of d tokens. Yours has more, and is trained.
const d = 64
const numbers = (seed) => Float32Array.from({ length: d * d }, (_, i) => Math.sin((i + 1) * (i + seed)))
const embedding = numbers(1)
export const weight = packLinear(tensor(numbers(2), [d, d]))
export const next = (state, token) => state.map((value, i) => value / 2 + embedding[token * d + i])
export const best = (logits) => logits.indexOf(Math.max(...logits))

// Random adapters, LoRA for even seeds and Lily for odd ones. Yours come from fromPretrained(folder).
const layers = [{ name: 'proj', inFeatures: d, outFeatures: d }]
const lora = { layers, config: { r: 4, loraAlpha: 64, initLoraWeights: false } }
const lily = { layers, config: { r: 8, numB: 3, scaling: 16, routing: 'token', initWeights: false } }
export const create = (seed) => (seed % 2 ? LilyModel.create({ ...lily, seed }) : LoraModel.create({ ...lora, seed }))
export const adapters = new LilyAdapters().addAdapter('french', create(1)).addAdapter('polite', create(2))
export const layer = adapters.layer('proj')
const tenants = new Set([null, 'french', 'polite']) // that may send requests; null: the base model

const waiting = [] // requests that wait for their next token, as each does until it ends: { tenant, state }
let tokens // the promise of the tokens of all that wait

function decode() {
  const batch = waiting.splice(0)
  const x = tensor(Float32Array.from(batch.flatMap(({ state }) => [...state])), [batch.length, d])
  const y = tensor(new Float32Array(batch.length * d), [batch.length, d])
  layer.forward({ x, y, weight }, { rows: batch.map(({ tenant }) => tenant), save: false })
  return batch.map((_, i) => best(y.data.slice(i * d, (i + 1) * d)))
}

// PUT /adapters/NAME { seed }, DELETE /adapters/NAME, and POST /generate { tenant, prompt, length }, which streams tokens.
export const server = createServer(async (request, response) => {
  const name = request.url.split('/')[2]
  try {
    if (request.method === 'PUT') {
      adapters.addAdapter(name, create((await json(request)).seed)) // throws if the name is in use
      tenants.add(name)
    } else if (request.method === 'DELETE') {
      if (!tenants.delete(name)) throw new Error('unknown adapter')
      while (waiting.some(({ tenant }) => tenant === name)) await setTimeout(1) // the last requests end
      adapters.deleteAdapter(name)
    } else {
      const { tenant = null, prompt, length } = await json(request)
      if (!tenants.has(tenant)) throw new Error('unknown tenant')
      const areTokens = prompt.every((token) => Number.isInteger(token) && token >= 0 && token < d)
      if (!areTokens || !Number.isInteger(length) || length < 1) throw new Error('bad prompt or length')
      let state = prompt.reduce(next, new Float32Array(d))
      for (let n = 0; n < length && !response.destroyed; n++) {
        const i = waiting.push({ tenant, state }) - 1
        if (i === 0) tokens = setTimeout(1).then(decode) // with the requests that arrive meanwhile
        const token = (await tokens)[i]
        response.write(`${token}\n`)
        state = next(state, token)
      }
    }
    response.end()
  } catch (error) {
    if (response.headersSent) response.destroy()
    else response.writeHead(400).end(error.message)
  }
})
if (process.env.PORT) server.listen(process.env.PORT)
