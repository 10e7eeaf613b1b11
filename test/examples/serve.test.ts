/** examples/serve under load: each answer is that of the tenant's model alone, while adapters come and go. */
import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import {
  type AdapterModel,
  type AdaptersLayer,
  LilyAdapters,
  linearForward,
  type PackedLinear,
  tensor,
} from 'lily-kernels'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { path } from '../support/project.js'
import { randomFrom } from '../support/random.js'

/** What server.js exports. */
interface Serve {
  readonly server: Server
  readonly adapters: LilyAdapters
  readonly layer: AdaptersLayer
  readonly weight: PackedLinear
  readonly create: (seed: number) => AdapterModel
  readonly next: (state: Float32Array, token: number) => Float32Array
  readonly best: (logits: Float32Array) => number
}
const file = path('examples/serve/server.js')
let serve: Serve
let url: string

beforeAll(async () => {
  process.env.PORT = '0'
  serve = (await import(file)) as Serve
  await once(serve.server, 'listening')
  url = `http://localhost:${(serve.server.address() as AddressInfo).port}`
})
afterAll(() => serve.server.close())

type Tenant = 'french' | 'polite' | `seed-${number}` | null
const seedOf = (tenant: string) => ({ french: 1, polite: 2 })[tenant] ?? Number(tenant.slice('seed-'.length))

/** What the model of a tenant computes alone, in calls of one row. */
function alone(tenant: Tenant, prompt: readonly number[], length: number): number[] {
  const { create, next, best, weight } = serve
  const layer = tenant === null ? null : create(seedOf(tenant)).layer('proj')
  let state = prompt.reduce(next, new Float32Array(64))
  return Array.from({ length }, () => {
    const x = tensor(state, [1, 64])
    const { y } = layer === null ? linearForward({ x, weight }) : layer.forward({ x, weight }, { save: false })
    const token = best(y.data as Float32Array)
    state = next(state, token)
    return token
  })
}

const send = (method: string, at: string, body: object = {}) => fetch(url + at, { method, body: JSON.stringify(body) })
const tokensOf = (text: string) => text.trim().split('\n').map(Number)

/** The tokens that the server answers with, or the text of its error. */
async function generate(tenant: Tenant, prompt: unknown, length: unknown): Promise<number[] | string> {
  const response = await send('POST', '/generate', { tenant, prompt, length })
  const text = await response.text()
  return response.ok ? tokensOf(text) : text
}

test('answers 1,000 requests as each tenant alone, while adapters are added and deleted', async () => {
  const forward = vi.spyOn(serve.layer, 'forward')
  const random = randomFrom(1)
  const below = (end: number) => Math.floor(random() * end)
  const tenants: Tenant[] = ['french', 'polite', null]
  const wrong: string[] = []
  let answered = 0

  async function client(): Promise<void> {
    while (answered < 1000) {
      const tenant = tenants[below(tenants.length)]
      const prompt = Array.from({ length: 1 + below(4) }, () => below(64))
      const length = 1 + below(16)
      const answer = await generate(tenant, prompt, length)
      // A request may come after the one that deletes its adapter.
      if (answer === 'unknown tenant' && !tenants.includes(tenant)) continue
      answered++
      const expected = alone(tenant, prompt, length)
      if (String(answer) !== String(expected)) wrong.push(`${tenant}: ${String(answer)}, alone ${String(expected)}`)
    }
  }

  /** Adapters are added one after the other. Each is deleted while the server is generating with it. */
  async function visitors(): Promise<void> {
    for (let seed = 3; seed < 13; seed++) {
      const tenant = `seed-${seed}` as const
      const at = `/adapters/${tenant}`
      expect((await send('PUT', at, { seed })).status).toBe(200)
      expect((await send('PUT', at, { seed })).status).toBe(400)
      tenants.push(tenant)
      while (answered < 75 * (seed - 2)) await setTimeout(1)
      tenants.pop()
      const response = await send('POST', '/generate', { tenant, prompt: [seed], length: 50 })
      const deleted = send('DELETE', at)
      let isEnded = false
      const last = response.text().finally(() => (isEnded = true))
      // Requests may overtake each other.
      while ((await generate(tenant, [1], 1)) !== 'unknown tenant') expect(isEnded).toBe(false)
      expect(isEnded).toBe(false)
      expect(tokensOf(await last)).toEqual(alone(tenant, [seed], 50))
      expect((await deleted).status).toBe(200)
    }
  }
  await Promise.all([visitors(), ...Array.from({ length: 32 }, client)])
  expect(wrong).toEqual([])
  expect([...serve.adapters.adapters.keys()]).toEqual(['french', 'polite'])
  const tenantsOfCalls = forward.mock.calls.map(([, options]) => new Set((options as { rows: Tenant[] }).rows).size)
  expect(Math.max(...tenantsOfCalls)).toBe(4)
})

test('streams the answers, which differ by tenant', async () => {
  const answers = [null, 'french', 'polite'].map((tenant) => String(alone(tenant as Tenant, [6], 20)))
  expect(new Set(answers).size).toBe(3)
  const { body } = await send('POST', '/generate', { tenant: 'french', prompt: [6], length: 200 })
  const chunks = []
  for await (const chunk of body!) chunks.push(Buffer.from(chunk).toString())
  expect(chunks.length).toBeGreaterThan(10)
  expect(tokensOf(chunks.join(''))).toEqual(alone('french', [6], 200))
})

test('computes the next token of all requests in each call', async () => {
  const forward = vi.spyOn(serve.layer, 'forward')
  forward.mockClear()
  await Promise.all(Array.from({ length: 100 }, () => generate('french', [1], 30)))
  const sizes = forward.mock.calls.map(([, options]) => (options as { rows: Tenant[] }).rows.length)
  expect(Math.max(...sizes)).toBeGreaterThan(32)
})

test('ends the answers of a call that fails, and computes the next ones', async () => {
  vi.spyOn(serve.layer, 'forward').mockImplementationOnce(() => {
    throw new Error('out of memory')
  })
  const answers = await Promise.all(Array.from({ length: 2 }, () => generate('french', [1], 3)))
  expect(answers).toContain('out of memory')
  expect(await generate('french', [1], 3)).toEqual(alone('french', [1], 3))
})

test('refuses what it does not know', async () => {
  expect(await generate('seed-99', [1], 1)).toBe('unknown tenant')
  for (const prompt of [[64], [-1], [0.5], ['1']]) {
    expect(await generate('french', prompt, 1)).toBe('bad prompt or length')
  }
  for (const length of [undefined, 0, 1.5, 'abc']) {
    expect(await generate('french', [1], length)).toBe('bad prompt or length')
  }
  const deleted = await send('DELETE', '/adapters/german')
  expect([deleted.status, await deleted.text()]).toEqual([400, 'unknown adapter'])
})
