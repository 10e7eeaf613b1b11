/** What the folders of one of PEFT's methods contain: fields of the configuration, and names and shapes of tensors. */
import type { LayerShape } from '../model/layer-shape.js'
import type { Layout, ParameterShape } from '../model/layout.js'
import type { Targets } from '../model/targets.js'

/** The fields of an adapter_config.json. */
export type Fields = Readonly<Record<string, unknown>>

export type Kind = ParameterShape['kind']

/** The shape of a layer's a or b: a size of the layer, d_in or d_out, on this axis, and a given number on the other. */
export interface StoredShape {
  readonly axis: 0 | 1
  readonly other: number
}

export interface PeftMethod<C extends Targets = Targets> {
  readonly type: 'LILY' | 'LORA'
  /** In messages. */
  readonly name: 'Lily' | 'LoRA'
  /** PEFT's names of the fields of the configuration. */
  readonly fields: Readonly<Record<keyof C, string>>
  /** Fields that PEFT does not have, with the values with which they are not saved. */
  readonly extensions: Partial<C>
  /** Checks a configuration and fills in the defaults; `isStored`: of a file. */
  readonly readConfig: (options: unknown, isStored: boolean) => C
  /** Other fields of PEFT's configuration that are accepted, beside the fields that every method accepts. */
  readonly accepted: ReadonlySet<string>
  /** The first field whose value is refused, and why; null if there is none. */
  readonly refusal: (fields: Fields) => readonly [field: string, why: string] | null
  /** Why PEFT cannot have an adapter of this configuration, and what to do; null if it can. */
  readonly notForPeft: (config: C) => string | null
  /** A value of a field as it is in the configuration. */
  readonly toOption: (field: string, value: unknown) => unknown
  /** Accepted fields that the configuration of a created model has, with their values. */
  readonly constants: Fields
  /** The end of a tensor's name, after the layer's name and a dot, by the kind of parameter. */
  readonly suffixes: Readonly<Partial<Record<Kind, string>>>
  /** Beginning of a component of the names of all tensors of the method. */
  readonly marker: 'lily_' | 'lora_'
  /** What another tensor of the method belongs to; null if that is not known. */
  readonly variantOf: (key: string) => string | null
  /** The shapes of a and b, by the name of a layer. */
  readonly shapes: (config: C) => (layer: string) => { readonly a: StoredShape; readonly b: StoredShape }
  readonly layOut: (layers: readonly LayerShape[], config: C) => Layout
  /** Whether layers share parameters, and may be frozen. If so, there is a compact format. */
  readonly isShared: boolean
}
