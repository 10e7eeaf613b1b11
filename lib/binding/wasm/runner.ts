/** The thread of the async forms. It runs one call after the other. */
import { bindingError } from './errors.js'
import type { Thread } from './host.js'
import type { ThreadCall, ThreadResult, ThreadStart } from './thread-script.js'

interface Waiting {
  readonly resolve: (result: ThreadResult) => void
  readonly reject: (error: Error) => void
}

export class Runner {
  /** The messages that the thread has not answered, oldest first. */
  readonly #waiting: Waiting[] = []
  #end: Error | undefined
  /** Rejected if the thread does not start: some pages forbid it. */
  readonly started: Promise<unknown>

  /** @param onEnd called when the thread has ended */
  constructor(
    private readonly thread: Thread,
    start: ThreadStart,
    onEnd: () => void,
  ) {
    thread.onMessage((result) => {
      this.#next()?.resolve(result as ThreadResult)
    })
    thread.onEnd((reason) => {
      this.#end = bindingError(
        'ERR_LILY_BACKEND_UNAVAILABLE',
        `the thread of the Async forms has ended (${reason}); call again, or use the forms without Async`,
      )
      onEnd()
      for (let next = this.#next(); next !== undefined; next = this.#next()) next.reject(this.#end)
    })
    this.started = this.#send(start)
  }

  /** @throws an error (as a rejection) if the thread has ended */
  run(call: ThreadCall): Promise<ThreadResult> {
    return this.#end === undefined ? this.#send(call) : Promise.reject(this.#end)
  }

  #send(message: ThreadStart | ThreadCall): Promise<ThreadResult> {
    this.thread.keepAlive(true)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.thread.post(message)
    })
  }

  #next(): Waiting | undefined {
    const next = this.#waiting.shift()
    if (this.#waiting.length === 0) this.thread.keepAlive(false)
    return next
  }
}
