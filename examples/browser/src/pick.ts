/** Elements by which the visitor gives files. */
import { h } from './dom.js'
import { droppedFiles, pickedFiles } from './files.js'

/** Gets the files, when the visitor has given some. */
export type OnFiles = (getFiles: () => Promise<readonly File[]>) => void

/** A file input that looks like a button. */
export function picker(
  id: string,
  label: string,
  attributes: Readonly<Record<string, string>>,
  onFiles: OnFiles,
): HTMLElement {
  const input = h('input', { type: 'file', id, class: 'visually-hidden', ...attributes })
  input.addEventListener('change', () => {
    const picked = pickedFiles(input.files ?? [])
    // The same folder may be picked again.
    input.value = ''
    onFiles(() => Promise.resolve(picked))
  })
  return h('span', { class: 'picker' }, input, h('label', { for: id, class: 'button' }, label))
}

/**
 * Accepts files that are dropped on an element, or on the window, where no other element accepts them.
 *
 * @param zone shows that it does
 */
export function onDrop(target: HTMLElement | Window, zone: HTMLElement, onFiles: OnFiles): void {
  const show = (isOver: boolean) => (event: Event) => {
    // Otherwise the window would accept what an element has accepted.
    event.stopPropagation()
    event.preventDefault()
    zone.classList.toggle('over', isOver)
  }
  target.addEventListener('dragover', show(true))
  target.addEventListener('dragleave', show(false))
  target.addEventListener('drop', show(false))
  target.addEventListener('drop', (event) => {
    const { dataTransfer } = event as DragEvent
    if (dataTransfer === null) return
    const dropped = droppedFiles(dataTransfer)
    // An error is that of the task.
    dropped.catch(() => undefined)
    onFiles(() => dropped)
  })
}
