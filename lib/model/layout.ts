/** The parameters of an adapter, and the layers that use them. */
import type { TargetedLayer } from './targeted-layers.js'

/** A parameter and the layers that use it. */
export interface ParameterShape {
  /** PEFT's name in the first layer that uses it, such as '<layer>.lily_A.weight' or '<layer>.lora_A.weight'. */
  readonly name: string
  /** The operand of its layers that it is. LoRA has no router. */
  readonly kind: 'a' | 'router' | 'b'
  /** As in PEFT. Lily: a [r, d_in], router [E, r], with routing 'learned' [E, 1], b [E*r, d_out]; LoRA: a [r, d_in], b [d_out, r]. */
  readonly shape: readonly [number, number]
  /** Names of the layers, in the order given. */
  readonly layers: readonly string[]
}

/** An adapted layer and the names of its parameters. */
export interface AdaptedLayer extends TargetedLayer {
  readonly a: string
  readonly b: string
}

/** The adapted layers of a model, and their parameters. */
export interface Layout<L extends AdaptedLayer = AdaptedLayer> {
  /** By name, in the order given. */
  readonly layers: ReadonlyMap<string, L>
  /** By name, in order of first use: layer by layer, and a, router, b within a layer. */
  readonly parameters: ReadonlyMap<string, ParameterShape>
}
