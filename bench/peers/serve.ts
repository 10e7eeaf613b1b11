/** The loop of a peer that is a program of Node: answers the requests of protocol.ts on stdin. */
import { createInterface } from 'node:readline'
import { type Hello, evenlySpaced, type Reply, type Request } from './protocol.js'
import type { Pass } from '../methods/methods.js'

/** A method with operands. */
export interface Opened {
  /** Runs a pass once. */
  run(pass: Pass): unknown
  /** The outputs of one call with new operands. */
  outputs(): Promise<Readonly<Record<string, ArrayLike<number>>>>
  close(): unknown
}

/** @param open creates the operands of a method; `shape` is M, d, r, E */
export async function serve(
  hello: Hello,
  open: (method: string, shape: readonly [number, number, number, number]) => Opened | Promise<Opened>,
): Promise<void> {
  const all = new Map<string, Opened>()
  const openedAs = (method: string): Opened => {
    const found = all.get(method)
    if (found === undefined) throw new Error(`${method} is not open`)
    return found
  }
  const answer = async (request: Request): Promise<Reply> => {
    switch (request.request) {
      case 'open':
        all.set(request.method, await open(request.method, request.shape as [number, number, number, number]))
        return {}
      case 'outputs': {
        const outputs = Object.entries(await openedAs(request.method).outputs())
        return { outputs: Object.fromEntries(outputs.map(([name, values]) => [name, evenlySpaced(values)])) }
      }
      case 'sample': {
        const opened = openedAs(request.method)
        const end = performance.now() + request.warmup * 1000
        do await opened.run(request.pass)
        while (performance.now() < end)
        const begin = process.hrtime.bigint()
        for (let call = 0; call < request.calls; call++) await opened.run(request.pass)
        return { seconds: Number(process.hrtime.bigint() - begin) / 1e9 / request.calls }
      }
      case 'close':
        for (const opened of all.values()) await opened.close()
        all.clear()
        return {}
    }
  }

  await answerRequests(hello, (request) => answer(request as Request))
}

/** Writes the first line, and then the answer to each line on stdin; an error becomes an answer, and the process goes on. */
export async function answerRequests(hello: Hello, answer: (request: unknown) => Promise<object>): Promise<void> {
  const send = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`)
  send(hello)
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      send(await answer(JSON.parse(line)))
    } catch (error) {
      send({ error: (error as Error).message })
    }
  }
}
