/** A model and an adapter for readers who have none at hand. */
import { create, toBinary } from '@bufbuild/protobuf'
import { LilyModel } from 'lily-kernels'
import { ModelProtoSchema, TensorProto_DataType } from 'onnx-buf'
import { normal } from '../inspect/random-inputs.js'

const WIDTH = 256
const LAYERS = [0, 1, 2, 3].map((l) => ({ name: `layers.${l}.proj`, inFeatures: WIDTH, outFeatures: WIDTH }))
const { FLOAT } = TensorProto_DataType

/** An ONNX model of four layers x + relu(x W), which is not trained. */
export function sampleModel(): Uint8Array {
  const valueOf = (name: string) => ({
    name,
    type: {
      value: {
        case: 'tensorType' as const,
        value: {
          elemType: FLOAT,
          shape: {
            dim: [
              { value: { case: 'dimParam' as const, value: 'batch' } },
              { value: { case: 'dimParam' as const, value: 'tokens' } },
              { value: { case: 'dimValue' as const, value: BigInt(WIDTH) } },
            ],
          },
        },
      },
    },
  })
  const nodes = LAYERS.flatMap(({ name }, l) => [
    { opType: 'MatMul', input: [`x${l}`, `${name}.weight`], output: [`${name}.y`] },
    { opType: 'Relu', input: [`${name}.y`], output: [`${name}.relu`] },
    { opType: 'Add', input: [`x${l}`, `${name}.relu`], output: [`x${l + 1}`] },
  ])
  const weights = LAYERS.map(({ name }, l) => ({
    name: `${name}.weight`,
    dataType: FLOAT,
    dims: [BigInt(WIDTH), BigInt(WIDTH)],
    floatData: Array.from(normal(WIDTH * WIDTH, l + 1), (value) => value / Math.sqrt(WIDTH)),
  }))
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [{ version: 17n }],
    graph: {
      name: 'sample',
      node: nodes,
      initializer: weights,
      input: [valueOf('x0')],
      output: [valueOf(`x${LAYERS.length}`)],
    },
  })
  return toBinary(ModelProtoSchema, model)
}

/** Lily on all layers, with random experts: as if it was trained. */
export function sampleAdapter(): LilyModel {
  const config = { r: 8, numB: 4, strideA: 2, targetModules: ['proj'], initWeights: false }
  return LilyModel.create({ layers: LAYERS, config, seed: 1 })
}
