/** Names and colors of the methods, the same in every chart. */
import type { Method, Pass } from '../../../bench/methods/methods.js'

export interface MethodStyle {
  readonly text: string
  /** A custom property of the style sheet, which has a light and a dark value. */
  readonly color: string
  readonly dash?: string
}

export const methodStyles: Readonly<Record<Method | 'floor', MethodStyle>> = {
  lily: { text: 'Lily', color: 'var(--lily)' },
  lora: { text: 'LoRA of the same rank', color: 'var(--lora)' },
  'lora-equal-parameters': { text: 'LoRA with equal parameters', color: 'var(--equal)' },
  'lily-composed': { text: 'Lily, unfused', color: 'var(--lily)', dash: '2 3' },
  'lora-composed': { text: 'LoRA, unfused', color: 'var(--lora)', dash: '2 3' },
  'lily-graph': { text: 'Lily, CUDA graph', color: 'var(--lily)', dash: '8 2' },
  'lora-graph': { text: 'LoRA, CUDA graph', color: 'var(--lora)', dash: '8 2' },
  layer: { text: 'frozen layer', color: 'var(--muted)' },
  'lily-layer': { text: 'frozen layer with Lily', color: 'var(--lily)', dash: '1 2' },
  'lora-layer': { text: 'frozen layer with LoRA', color: 'var(--lora)', dash: '1 2' },
  floor: { text: 'floor of Lily', color: 'var(--muted)', dash: '6 4' },
}

export const passText = (pass: Pass): string => (pass === 'forward' ? 'forward' : 'forward + backward')
