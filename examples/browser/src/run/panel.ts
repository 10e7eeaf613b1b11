/** An ONNX model that is dropped or picked, and runs with the visitor's adapter. */
import { AdapterModel } from 'lily-kernels'
import { type BackendPanel, whereItRuns } from '../backend-panel.js'
import { h, notice, table } from '../dom.js'
import { errorNotice, explain } from '../errors.js'
import { milliseconds, threeDigits } from '../format.js'
import { onDrop, type OnFiles, picker } from '../pick.js'
import { type OnProgress, Task } from '../task.js'
import type { Outcome, Runs } from './run.js'

const SAMPLE = 'Without files of yours, a sample runs.'

export function mountRunPanel(section: HTMLElement, backends: BackendPanel): void {
  let model: File | undefined
  let adapter: readonly File[] = []
  const alert = h('div', { role: 'alert' })
  const result = h('div', { class: 'result' })
  const chosen = h('p', { class: 'muted', role: 'status' }, SAMPLE)
  const reset = h('button', { type: 'button', hidden: '' }, 'Use the sample')
  reset.addEventListener('click', () => {
    model = undefined
    adapter = []
    chosen.textContent = SAMPLE
    reset.hidden = true
  })

  const onFiles: OnFiles = (getFiles) => {
    void getFiles().then(
      (files) => {
        const others = files.filter((file) => !isModel(file))
        model = files.find(isModel) ?? model
        if (others.length > 0) adapter = others
        const names = adapter.map(({ name }) => name).join(', ')
        reset.hidden = false
        chosen.textContent = `Model: ${model?.name ?? 'none yet'}. Adapter: ${names === '' ? 'none yet' : names}.`
      },
      (error: unknown) => {
        alert.replaceChildren(errorNotice(explain(error)))
      },
    )
  }

  const work = async (signal: AbortSignal, onProgress: OnProgress): Promise<void> => {
    alert.replaceChildren()
    result.replaceChildren()
    const isSample = model === undefined && adapter.length === 0
    if (!isSample && (model === undefined || adapter.length === 0)) {
      const title = model === undefined ? 'There is no model to run.' : 'There is no adapter to run the model with.'
      alert.replaceChildren(notice('error', title, h('p', {}, 'Drop or pick a model and the folder of its adapter.')))
      return
    }
    const backend = backends.current
    let loaded: AdapterModel | undefined
    try {
      onProgress('Reading the files…', 0)
      const [{ runModel }, { sampleAdapter, sampleModel }] = await Promise.all([
        import('./run.js'),
        import('./sample.js'),
      ])
      loaded = isSample ? sampleAdapter() : await AdapterModel.fromPretrained(adapter)
      const outcome = await runModel(model ?? sampleModel(), loaded, backend.kind, signal, onProgress)
      result.replaceChildren(...whereItRuns(backend), ...report(outcome))
    } catch (error) {
      if (!signal.aborted) alert.replaceChildren(errorNotice(explain(error, backend.device?.limits)))
    } finally {
      loaded?.dispose()
    }
  }

  const zone = h(
    'div',
    { class: 'drop', id: 'run-drop' },
    h('p', {}, 'Drop an ONNX model and the folder of an adapter of PEFT for it here'),
    h(
      'div',
      { class: 'buttons' },
      picker('run-model', 'Pick a model', { accept: '.onnx' }, onFiles),
      picker('run-adapter', 'Pick the folder of an adapter', { webkitdirectory: '' }, onFiles),
      reset,
    ),
    chosen,
  )
  onDrop(zone, zone, onFiles)
  section.append(
    h(
      'p',
      {},
      'The page adds inputs for the matrices of an adapter to an ONNX model, such as those of Transformers.js, and ONNX Runtime ' +
        'runs it on made-up tokens, by turns without the adapter and with it, in one session.',
    ),
    zone,
    new Task('Run the model', work).element,
    alert,
    result,
  )
}

const isModel = ({ name }: File): boolean => name.endsWith('.onnx')

function report({ output, base, adapted }: Outcome): HTMLElement[] {
  const row = (name: string, { seconds, difference }: Runs) => [
    name,
    milliseconds(seconds),
    difference === 0 ? '0' : threeDigits(difference),
  ]
  const text =
    `A run with the adapter takes ${(adapted.seconds / base.seconds).toFixed(2)} times as long as one without it. ` +
    `Differences are the largest of the output “${output}”, in all runs, from the first run of the base model.`
  return [
    table(
      'Runs of the model',
      ['run', 'time, ms', 'difference'],
      [row('base model', base), row('with the adapter', adapted)],
    ),
    h('p', { class: 'muted' }, text),
  ]
}
