/** Runs the tiny models of onnx-models.ts in sessions of ONNX Runtime, of any of its packages. */
import { BLOCKS, D_HEAD, HEADS } from './onnx-models.js'

/** The numbers of tokens and their flags, [B, N] in row-major order. */
export interface EncoderInputs {
  readonly shape: readonly [batch: number, tokens: number]
  readonly ids: readonly number[]
  /** 0 for padding. */
  readonly flags: readonly number[]
}

export interface OrtTensor {
  readonly data: Float32Array
  readonly dims: readonly number[]
  readonly type: string
}

type OrtTensorClass = new (
  type: string,
  data: Float32Array | Float64Array | Uint16Array | BigInt64Array,
  dims: readonly number[],
) => OrtTensor

export interface Session {
  readonly inputNames: readonly string[]
  readonly outputNames: readonly string[]
  run(feeds: Readonly<Record<string, unknown>>): Promise<Record<string, OrtTensor>>
}

/** onnxruntime-node or onnxruntime-web. */
export interface Ort {
  readonly Tensor: OrtTensorClass
  readonly InferenceSession: {
    create(model: Uint8Array | string, options?: Readonly<Record<string, unknown>>): Promise<Session>
  }
}

const integers = ({ Tensor }: Ort, values: readonly number[], shape: readonly number[]): OrtTensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), shape)

/**
 * @param feeds the inputs for an adapter
 * @returns the outputs, `logits` and `last_hidden_state` among them
 */
export async function runEncoder(
  ort: Ort,
  session: Session,
  { shape, ids, flags }: EncoderInputs,
  feeds: Readonly<Record<string, unknown>> = {},
): Promise<Record<string, OrtTensor>> {
  const inputs = { input_ids: integers(ort, ids, shape), attention_mask: integers(ort, flags, shape) }
  return session.run({ ...inputs, ...feeds })
}

/** The decoder in a session with its cache: each call appends to it. */
export class DecoderSession {
  #past: Record<string, OrtTensor> = {}
  /** By text: 0 for padding, of all calls. */
  readonly #flags: number[][]

  constructor(
    readonly ort: Ort,
    readonly session: Session,
    readonly batch: number,
  ) {
    const none = () => new ort.Tensor('float32', new Float32Array(), [batch, HEADS, 0, D_HEAD])
    this.#flags = Array.from({ length: batch }, () => [])
    for (let block = 0; block < BLOCKS; block++)
      for (const part of ['key', 'value']) this.#past[`past_key_values.${block}.${part}`] = none()
  }

  /**
   * @param feeds the inputs for an adapter
   * @param flags [B, N]: 0 for padding; default: there is none
   * @returns the outputs: `logits` [B, N, vocabulary] of the tokens [B, N], which follow those of earlier calls
   */
  async call(
    ids: readonly number[],
    feeds: Readonly<Record<string, unknown>> = {},
    flags?: readonly number[],
  ): Promise<Record<string, OrtTensor>> {
    const tokens = ids.length / this.batch
    const shape = [this.batch, tokens]
    const past = this.#flags[0].length
    for (const [index] of ids.entries()) this.#flags[Math.floor(index / tokens)].push(flags?.[index] ?? 1)
    const positions = ids.map((_, index) => past + (index % tokens))
    const outputs = await this.session.run({
      input_ids: integers(this.ort, ids, shape),
      position_ids: integers(this.ort, positions, shape),
      attention_mask: integers(this.ort, this.#flags.flat(), [this.batch, past + tokens]),
      ...this.#past,
      ...feeds,
    })
    for (const name of Object.keys(this.#past)) this.#past[name] = outputs[name.replace('past_key_values', 'present')]
    return outputs
  }
}
