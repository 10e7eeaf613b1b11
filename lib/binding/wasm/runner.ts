/** The thread of the async forms. It runs one call after the other. */
import { bindingError } from './errors.js'
import type { Thread } from './host.js'
import type { ThreadCall, ThreadResult } from './thread-script.js'

interface Waiting {
  readonly resolve: (result: ThreadResult) => void
  readonly reject: (error: Error) => void
}

export class Runner {
  /** The calls that the thread has not answered, oldest first. */
  readonly #waiting: Waiting[] = []
  #end: Error | undefined

  constructor(private readonly thread: Thread) {
    thread.onMessage((result) => {
      this.#next()?.resolve(result as ThreadResult)
    })
    thread.onEnd((reason) => {
      this.#end = bindingError('ERR_LILY_BACKEND_UNAVAILABLE', `the thread of the async forms has ended: ${reason}`)
      for (let next = this.#next(); next !== undefined; next = this.#next()) next.reject(this.#end)
    })
  }

  /** @throws an error (as a rejection) if the thread has ended */
  run(call: ThreadCall): Promise<ThreadResult> {
    if (this.#end !== undefined) return Promise.reject(this.#end)
    this.thread.keepAlive(true)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.thread.post(call)
    })
  }

  #next(): Waiting | undefined {
    const next = this.#waiting.shift()
    if (this.#waiting.length === 0) this.thread.keepAlive(false)
    return next
  }
}
