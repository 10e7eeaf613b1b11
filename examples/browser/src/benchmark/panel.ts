/** The benchmark: its options, its progress and its results. */
import type { Backend } from '../backend.js'
import { type BackendPanel, whereItRuns } from '../backend-panel.js'
import { h, notice, table } from '../dom.js'
import { errorNotice, explain } from '../errors.js'
import { milliseconds, percent } from '../format.js'
import { type OnProgress, Task } from '../task.js'
import { type Case, caseText, parseCase, presets } from './cases.js'
import { ratioChart, timeChart } from './charts.js'
import { hasTimestamps } from './clocks.js'
import { MODEL } from './contenders.js'
import { measureCase, type Row } from './measure.js'
import { type Quartiles, spreadOf } from './statistics.js'

export function mountBenchmarkPanel(section: HTMLElement, backends: BackendPanel): void {
  const boxes = presets.map((preset, i) => {
    const input = h('input', { type: 'checkbox', id: `shape-${i}`, ...(i < 3 ? { checked: '' } : {}) })
    const text = h('span', {}, caseText(preset), ' ', h('span', { class: 'muted' }, preset.use))
    return { preset, input, element: h('label', { for: input.id }, input, text) }
  })
  const own = h('input', {
    type: 'text',
    id: 'shape-own',
    inputmode: 'numeric',
    autocomplete: 'off',
    placeholder: 'none',
    'aria-describedby': 'shape-own-form',
  })
  const rounds = h('input', { type: 'number', id: 'rounds', min: '3', max: '500', value: '15' })
  const alert = h('div', { role: 'alert' })
  const result = h('div', { class: 'result' })

  const work = async (signal: AbortSignal, onProgress: OnProgress): Promise<void> => {
    alert.replaceChildren()
    result.replaceChildren()
    const cases: Case[] = boxes.filter(({ input }) => input.checked).map(({ preset }) => preset)
    const added = own.value.trim() === '' ? undefined : parseCase(own.value)
    own.setAttribute('aria-invalid', String(added === null))
    if (added === null || (added === undefined && cases.length === 0)) {
      const text = 'Choose a shape, or write one as four numbers, such as 64, 256, 8, 4.'
      alert.replaceChildren(notice('error', 'There is no shape to measure.', h('p', {}, text)))
      return
    }
    if (added !== undefined) cases.push(added)
    const count = Math.min(500, Math.max(3, Math.round(rounds.valueAsNumber) || 3))
    await measureAll(backends, cases, count, { signal, onProgress, alert, result })
  }
  const task = new Task('Run the benchmark', work)

  section.append(
    h(
      'p',
      {},
      'Forward and backward of one adapted layer: Lily, LoRA of the same rank, and LoRA with as many parameters as Lily has in ' +
        `a model of ${MODEL.layers} layers. All are measured in turn, so that a drift of the device affects them alike.`,
    ),
    h(
      'fieldset',
      { class: 'choices' },
      h('legend', {}, 'Shapes: tokens, features, rank, experts'),
      ...boxes.map(({ element }) => element),
      h(
        'div',
        { class: 'fields' },
        h('label', { for: own.id }, 'Another shape'),
        own,
        h('span', { id: 'shape-own-form', class: 'muted' }, 'such as 64, 256, 8, 4'),
        h('label', { for: rounds.id }, 'Rounds'),
        rounds,
        h('span', { class: 'muted' }, 'samples of each, 3 to 500'),
      ),
    ),
    task.element,
    alert,
    result,
  )
}

interface Places {
  readonly signal: AbortSignal
  readonly onProgress: OnProgress
  readonly alert: HTMLElement
  readonly result: HTMLElement
}

/** Measures one shape after the other, and shows the results so far after each. */
async function measureAll(
  backends: BackendPanel,
  cases: readonly Case[],
  rounds: number,
  { signal, onProgress, alert, result }: Places,
): Promise<void> {
  const backend = backends.current
  const rows: Row[] = []
  result.replaceChildren(...conditions(backend))
  for (const [i, shape] of cases.entries()) {
    try {
      const measured = await measureCase(backend, shape, {
        rounds,
        signal,
        onProgress: (step, share) => {
          onProgress(`${caseText(shape)}: ${step}`, (i + share) / cases.length)
        },
      })
      rows.push(...measured)
      result.replaceChildren(
        ...conditions(backend),
        h('div', { class: 'charts' }, ratioChart(rows), timeChart(rows)),
        resultTable(rows),
      )
    } catch (error) {
      if (signal.aborted) return
      if (backend.loss() !== null) {
        alert.replaceChildren(lossNotice(backends))
        return
      }
      const { title, text, message } = explain(error, backend.device?.limits)
      alert.append(errorNotice({ title: `${caseText(shape)}: ${title}`, text, message }))
    }
  }
}

function lossNotice(backends: BackendPanel): HTMLElement {
  const text = 'The benchmark stopped. What it had measured is below.'
  return notice('error', 'The GPU device was lost.', h('p', {}, text), backends.requestAgain())
}

/** Where and how the times are taken. */
function conditions(backend: Backend): HTMLElement[] {
  return [...whereItRuns(backend), h('p', { class: 'muted' }, clockText(backend))]
}

function clockText(backend: Backend): string {
  if (backend.device === null) return 'Times are those of calls on the processor, which return when they are complete.'
  return hasTimestamps(backend)
    ? 'Times are differences of timestamps in the queue of the device.'
    : 'The device lacks the feature timestamp-query: times are those until the queue is empty, and include what the page takes ' +
        'to submit the calls.'
}

function resultTable(rows: readonly Row[]): HTMLElement {
  const time = (quartiles: Quartiles) => `${milliseconds(quartiles.median)} ± ${percent(spreadOf(quartiles))}`
  const body = rows.map((row) => [
    h('span', {}, caseText(row.shape), h('br'), h('span', { class: 'muted' }, row.pass)),
    row.toLora.median.toFixed(2),
    `${row.toLoraEqual.median.toFixed(2)} (r ${row.equalRank})`,
    time(row.lily),
    time(row.lora),
  ])
  const head = ['shape and pass', 'Lily / LoRA', 'equal parameters', 'Lily, ms', 'LoRA, ms']
  return table('Results of the benchmark', head, body)
}
