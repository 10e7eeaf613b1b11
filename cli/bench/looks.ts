/** How methods and passes look, in every chart of the benchmark alike. */
import type { Method, Pass } from '../../bench/report.js'

export interface Look {
  readonly text: string
  /** A custom property of the page, which knows light and dark. */
  readonly color: string
  readonly dash?: string
}

export const looks: Readonly<Record<Method | 'floor', Look>> = {
  lily: { text: 'Lily', color: 'var(--lily)' },
  lora: { text: 'LoRA of the same rank', color: 'var(--lora)' },
  'lora-equal-parameters': { text: 'LoRA of equal parameters', color: 'var(--equal)' },
  'lily-composed': { text: 'Lily, unfused', color: 'var(--lily)', dash: '2 3' },
  'lora-composed': { text: 'LoRA, unfused', color: 'var(--lora)', dash: '2 3' },
  'lily-graph': { text: 'Lily, as a graph', color: 'var(--lily)', dash: '8 2' },
  'lora-graph': { text: 'LoRA, as a graph', color: 'var(--lora)', dash: '8 2' },
  floor: { text: 'floor of Lily', color: 'var(--muted)', dash: '6 4' },
}

export const short = (pass: Pass): string => (pass === 'forward' ? 'forward' : 'forward + backward')
