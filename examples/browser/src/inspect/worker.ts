/** The Worker of an inspection: an analysis computes for long, and the page remains usable. */
import { type SentError, toSend } from '../errors.js'
import { inspectAdapter, type Inspection } from './inspection.js'

export type FromWorker =
  | { readonly kind: 'progress'; readonly layer: string; readonly share: number }
  | { readonly kind: 'done'; readonly inspection: Inspection }
  | { readonly kind: 'failed'; readonly error: SentError }

const send = (message: FromWorker): void => {
  postMessage(message)
}

addEventListener('message', ({ data: files }: MessageEvent<readonly File[]>) => {
  inspectAdapter(files, (layer, done, layers) => {
    send({ kind: 'progress', layer, share: done / layers })
  }).then(
    (inspection) => send({ kind: 'done', inspection }),
    (error: unknown) => send({ kind: 'failed', error: toSend(error) }),
  )
})
