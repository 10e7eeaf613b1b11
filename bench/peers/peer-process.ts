/** A peer as a child process; protocol.ts describes what it reads and writes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Hello, Reply, Request } from './protocol.js'

export interface PeerCommand {
  readonly command: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

/** A reply that takes longer means that the peer hangs: compiling a method takes up to a minute. */
const REPLY_SECONDS = 600

/**
 * Requests are sent one at a time.
 *
 * @typeParam Asked a request; by default as in protocol.ts
 */
export class PeerProcess<Asked = Request, Answer extends { readonly error?: string } = Reply> {
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>
  #errors = ''

  private constructor({ command, args, env }: PeerCommand) {
    this.#child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#errors = (this.#errors + text).slice(-2000)
    })
    // A peer that has ended is reported by the end of its output.
    this.#child.stdin!.on('error', () => undefined)
    this.#child.on('error', ({ message }) => {
      this.#errors += message
    })
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]()
  }

  /** @throws if the process does not start, or ends before it is ready */
  static async start<Asked = Request, Answer extends { readonly error?: string } = Reply>(
    command: PeerCommand,
  ): Promise<{ peer: PeerProcess<Asked, Answer>; hello: Hello }> {
    const peer = new PeerProcess<Asked, Answer>(command)
    return { peer, hello: (await peer.#read()) as Hello }
  }

  /** @throws if the peer reports an error, or ends */
  async request(request: Asked): Promise<Answer> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`)
    const reply = (await this.#read()) as Answer
    if (reply.error !== undefined) throw new Error(reply.error)
    return reply
  }

  /** Ends the process. */
  stop(): void {
    this.#child.kill()
  }

  async #read(): Promise<unknown> {
    const timeout = setTimeout(() => {
      this.#errors = `no reply within ${REPLY_SECONDS} s`
      this.stop()
    }, REPLY_SECONDS * 1000)
    const { value, done } = (await this.#lines.next()) as IteratorResult<string, undefined>
    clearTimeout(timeout)
    if (done !== true) {
      try {
        return JSON.parse(value) as unknown
      } catch {
        throw new Error(`the peer wrote a line that is not JSON: ${value.slice(0, 200)}`)
      }
    }
    // The last line of a traceback names the cause.
    throw new Error(`the peer has ended: ${this.#errors.trim().split('\n').at(-1) ?? ''}`)
  }
}
