/** An adapter folder that is dropped or picked, and what it contains. */
import { h } from '../dom.js'
import { errorNotice, explainSent, toSend } from '../errors.js'
import { onDrop, picker } from '../pick.js'
import { type OnProgress, Task } from '../task.js'
import type { Inspection } from './inspection.js'
import { inspectionReport } from './report.js'
import { sampleFiles } from './sample.js'
import type { FromWorker } from './worker.js'

export function mountInspectPanel(section: HTMLElement): void {
  const result = h('div', { class: 'result' })
  const alert = h('div', { role: 'alert' })
  const show = async (
    getFiles: () => Promise<readonly File[]>,
    signal: AbortSignal,
    onProgress: OnProgress,
  ): Promise<void> => {
    alert.replaceChildren()
    result.replaceChildren()
    try {
      onProgress('Reading the files…', 0)
      const inspection = await inspectInWorker(await getFiles(), signal, onProgress)
      result.replaceChildren(...inspectionReport(inspection))
    } catch (error) {
      if (signal.aborted) return
      alert.replaceChildren(errorNotice(explainSent(error instanceof WorkerError ? error.sent : toSend(error))))
    }
  }

  const task = new Task('Try a sample', (signal, onProgress) => show(sampleFiles, signal, onProgress))
  const start = (getFiles: () => Promise<readonly File[]>) =>
    void task.run((signal, onProgress) => show(getFiles, signal, onProgress))

  const folder = picker('inspect-folder', 'Pick a folder', { webkitdirectory: '' }, start)
  const files = picker('inspect-files', 'Pick the files', { multiple: '' }, start)
  const zone = h(
    'div',
    { class: 'drop', id: 'drop' },
    h('p', {}, 'Drop the folder of a Lily or LoRA adapter of PEFT here'),
    h('div', { class: 'buttons' }, folder, files),
    h('p', { class: 'muted' }, 'adapter_config.json and adapter_model.safetensors. They stay on this device.'),
  )
  // The whole page accepts files: a browser would open one that misses the zone.
  onDrop(window, zone, start)
  section.append(zone, task.element, alert, result)
}

/** An error of the Worker. */
class WorkerError extends Error {
  constructor(readonly sent: { readonly code: string; readonly message: string }) {
    super(sent.message)
  }
}

async function inspectInWorker(
  files: readonly File[],
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<Inspection> {
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' })
  try {
    return await new Promise<Inspection>((resolve, reject) => {
      signal.addEventListener('abort', () => {
        reject(new Error('cancelled'))
      })
      worker.addEventListener('error', ({ message }) => {
        reject(new Error(message === '' ? 'the Worker of the inspection did not start' : message))
      })
      worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => {
        if (data.kind === 'progress') onProgress(data.layer, data.share)
        else if (data.kind === 'done') resolve(data.inspection)
        else reject(new WorkerError(data.error))
      })
      worker.postMessage(files)
    })
  } finally {
    worker.terminate()
  }
}
