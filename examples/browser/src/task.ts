/** A button that starts a task, with its progress and a button that ends it. */
import { h } from './dom.js'

/** One task runs at a time, because a second one would disturb the times of the first. */
const starts: HTMLButtonElement[] = []

export type OnProgress = (text: string, share: number) => void

export class Task {
  readonly element: HTMLElement
  readonly #start: HTMLButtonElement
  readonly #cancel: HTMLButtonElement
  readonly #bar = h('progress', { max: '1', value: '0' })
  readonly #text = h('span', { class: 'muted', role: 'status' })
  readonly #running: HTMLElement
  #controller = new AbortController()

  /** @param work runs when the button is pressed; it shows its own errors, and ends soon after the signal aborts */
  constructor(label: string, work: (signal: AbortSignal, onProgress: OnProgress) => Promise<void>) {
    this.#start = h('button', { type: 'button', class: 'primary' }, label)
    this.#cancel = h('button', { type: 'button' }, 'Cancel')
    this.#bar.setAttribute('aria-label', `Progress: ${label}`)
    this.#running = h('div', { class: 'running', hidden: '' }, this.#cancel, this.#bar)
    this.element = h('div', { class: 'task' }, this.#start, this.#running, this.#text)
    this.#start.addEventListener('click', () => void this.run(work))
    this.#cancel.addEventListener('click', () => {
      this.#controller.abort()
    })
    starts.push(this.#start)
  }

  /** Runs work as if the button had been pressed, unless a task runs. */
  async run(work: (signal: AbortSignal, onProgress: OnProgress) => Promise<void>): Promise<void> {
    if (this.#start.disabled) return
    const hasFocus = document.activeElement === this.#start
    for (const start of starts) start.disabled = true
    this.#controller = new AbortController()
    this.#running.hidden = false
    this.#onProgress('', 0)
    if (hasFocus) this.#cancel.focus()
    const { signal } = this.#controller
    try {
      await work(signal, this.#onProgress)
    } finally {
      const returnsFocus = document.activeElement === this.#cancel
      this.#running.hidden = true
      this.#text.textContent = signal.aborted ? 'Cancelled.' : ''
      for (const start of starts) start.disabled = false
      if (returnsFocus) this.#start.focus()
    }
  }

  readonly #onProgress: OnProgress = (text, share) => {
    this.#bar.value = share
    this.#text.textContent = text
  }
}
