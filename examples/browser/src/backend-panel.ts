/** The choice between WebGPU and WebAssembly, and what the reader has to know about it. */
import { type Backend, openWebGpu, wasm } from './backend.js'
import { h, notice } from './dom.js'

export class BackendPanel {
  #gpu: Backend | null = null
  readonly #webGpuChoice = choice('webgpu', 'WebGPU', 'looking for a GPU…')
  readonly #wasmChoice = choice('wasm', 'WebAssembly', `on the processor, ${wasm.name}`)
  readonly #notices = h('div', { role: 'status' })

  constructor(section: HTMLElement) {
    this.#wasmChoice.input.checked = true
    this.#webGpuChoice.input.disabled = true
    section.append(
      h(
        'fieldset',
        { class: 'choices' },
        h('legend', {}, 'Benchmark, training and models run on'),
        this.#webGpuChoice.element,
        this.#wasmChoice.element,
      ),
      this.#notices,
    )
  }

  /** The chosen backend. */
  get current(): Backend {
    return this.#webGpuChoice.input.checked && this.#gpu !== null ? this.#gpu : wasm
  }

  /** Looks for a GPU, and chooses it if there is one. Throws nothing: the panel shows the reason. */
  async open(): Promise<void> {
    const { input, text } = this.#webGpuChoice
    input.disabled = true
    text.textContent = 'looking for a GPU…'
    try {
      const gpu = await openWebGpu((reason) => {
        if (this.#gpu === gpu) this.#onLost(reason)
      })
      this.#gpu = gpu
      input.disabled = false
      input.checked = true
      text.textContent = gpu.name
      this.#show(
        ...(gpu.isSoftware
          ? [
              notice(
                'note',
                'This GPU is a program on the processor.',
                h('p', {}, 'Its times say nothing about any GPU; the results are right.'),
              ),
            ]
          : []),
      )
    } catch (error) {
      this.#gpu = null
      this.#wasmChoice.input.checked = true
      text.textContent = 'not available'
      const why = error instanceof Error ? error.message : String(error)
      this.#show(notice('note', 'Everything runs on WebAssembly.', h('p', {}, why), this.#requestButton('Look again')))
    }
  }

  /** A button that requests the device again. */
  requestAgain(): HTMLElement {
    return this.#requestButton('Request the device again')
  }

  #requestButton(label: string): HTMLElement {
    const button = h('button', { type: 'button' }, label)
    button.addEventListener('click', () => {
      // What it says is over: the panel shows what comes of it.
      button.closest('.notice')?.remove()
      void this.open()
    })
    return button
  }

  #onLost(reason: string): void {
    this.#webGpuChoice.text.textContent = 'lost'
    const text =
      'Its memory is gone, and with it what was on it. This happens when a driver restarts, or when a page is in the ' +
      'background for long. Request the device again, or go on with WebAssembly.'
    const message = h('p', { class: 'message' }, `The browser says: ${reason}`)
    this.#show(notice('error', 'The GPU device was lost.', h('p', {}, text), message, this.requestAgain()))
  }

  #show(...notices: readonly HTMLElement[]): void {
    const isolation = crossOriginIsolated
      ? []
      : [
          notice(
            'note',
            'WebAssembly has one thread here.',
            h(
              'p',
              {},
              'Only pages that are cross-origin isolated may share memory between threads; the server of this page does not send the headers for it.',
            ),
          ),
        ]
    this.#notices.replaceChildren(...notices, ...isolation)
  }
}

/** Above times: where they were taken. */
export function whereItRuns({ kind, name, isSoftware }: Backend): HTMLElement[] {
  const text = 'The adapter is software: a program on the processor does the work of a GPU.'
  return [
    h('h3', {}, `${kind === 'webgpu' ? 'WebGPU' : 'WebAssembly'}, ${name}`),
    ...(isSoftware ? [notice('note', 'These times claim nothing about a GPU.', h('p', {}, text))] : []),
  ]
}

function choice(value: string, title: string, description: string) {
  const input = h('input', { type: 'radio', name: 'backend', value, id: `backend-${value}` })
  const text = h('span', { class: 'muted' }, description)
  const element = h('label', { for: input.id }, input, h('span', {}, h('b', {}, title), ' ', text))
  return { element, input, text }
}
