/** A training with its curve, which grows as it runs. */
import * as Plot from '@observablehq/plot'
import type { BackendPanel } from '../backend-panel.js'
import { figure, integerTicks, LILY, plot } from '../charts.js'
import { h, notice, pause, table } from '../dom.js'
import { errorNotice, explain } from '../errors.js'
import { type OnProgress, Task } from '../task.js'
import { type Step, train } from './training.js'

export function mountTrainPanel(section: HTMLElement, backends: BackendPanel): void {
  const steps = h('input', { type: 'number', id: 'steps', min: '1', max: '1000', value: '100' })
  const alert = h('div', { role: 'alert' })
  const result = h('div', { class: 'result' })
  const work = async (signal: AbortSignal, onProgress: OnProgress): Promise<void> => {
    alert.replaceChildren()
    result.replaceChildren()
    const count = Math.min(1000, Math.max(1, Math.round(steps.valueAsNumber) || 100))
    const backend = backends.current
    const losses: Step[] = []
    try {
      for await (const each of train(backend, count)) {
        losses.push(each)
        onProgress(`Step ${each.step}: loss ${each.loss.toFixed(4)}`, each.step / count)
        if (each.step % Math.ceil(count / 100) === 0 || each.step === count) {
          result.replaceChildren(h('div', { class: 'charts' }, curve(losses, count)))
          await pause()
        }
        if (signal.aborted) break
      }
    } catch (error) {
      const lost = 'The training stopped: its parameters were on the device.'
      alert.replaceChildren(
        backend.loss() === null
          ? errorNotice(explain(error, backend.device?.limits))
          : notice('error', 'The GPU device was lost.', h('p', {}, lost), backends.requestAgain()),
      )
    }
    if (losses.length > 0)
      result.replaceChildren(h('div', { class: 'charts' }, curve(losses, count), lossTable(losses)))
  }
  section.append(
    h(
      'p',
      {},
      'The training of docs/model.md: two layers of 16 features share A and three experts, and learn to flip the sign of 4 ' +
        'features. AdamW runs where the layers do.',
    ),
    h('div', { class: 'fields' }, h('label', { for: steps.id }, 'Steps'), steps),
    new Task('Train', work).element,
    alert,
    result,
  )
}

function curve(losses: readonly Step[], steps: number): HTMLElement {
  const [first, last] = [losses[0], losses[losses.length - 1]]
  const text = `The loss was ${first.loss.toFixed(4)} at first and is ${last.loss.toFixed(4)} at step ${last.step}.`
  const chart = plot(text, {
    x: { domain: [0, steps], label: 'step', labelAnchor: 'center', labelArrow: 'none', ...integerTicks(steps) },
    y: { domain: [0, first.loss], label: 'loss', grid: true, ticks: 5, labelArrow: 'none', nice: true },
    marks: [
      Plot.ruleY([0]),
      Plot.line(losses, { x: 'step', y: 'loss', stroke: LILY, strokeWidth: 2 }),
      Plot.dot([last], { x: 'step', y: 'loss', fill: LILY, r: 3.5 }),
    ],
  })
  return figure('Loss', text, [], chart)
}

/** A few of the losses. */
function lossTable(losses: readonly Step[]): HTMLElement {
  const every = Math.max(1, Math.floor((losses.length - 1) / 4))
  const rows = losses
    .filter(({ step }, i) => step % every === 0 || i === losses.length - 1)
    .map(({ step, loss }) => [String(step), loss.toFixed(4)])
  return table('Losses', ['step', 'loss'], rows)
}
