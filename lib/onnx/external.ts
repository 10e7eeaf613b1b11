/** Weights of an ONNX model that are in other files: its external data. */
import { type GraphProto, type TensorProto, TensorProto_DataLocation as DataLocation } from 'onnx-buf'
import { fail } from '../base/errors.js'
import { folderOf, pathIn, realPath } from '../checkpoint/disk/disk.js'
import { quote } from '../checkpoint/errors.js'
import { subgraphsOf } from './scopes.js'

/**
 * Checks that a model, written to another path, still has its external data: ONNX Runtime reads only files in the folder of
 * the model, after it has followed links.
 *
 * @param from path of the model
 * @param to path to write
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT
 */
export async function checkTarget(from: string, to: string, graph: GraphProto): Promise<void> {
  const tensors = externalTensors(graph)
  if (tensors.length === 0) return
  const folder = folderOf(await realPath(from))
  if ((await realPath(folderOf(to))) !== folder) {
    fail(
      'ERR_LILY_ARGUMENT',
      'target',
      `expected a path in the folder ${quote(folder)}, because weights of the model are in other files there, which ` +
        `ONNX Runtime does not read from another folder, got ${quote(to)}; write there, and move all files together`,
    )
  }
  const target = await realPath(to)
  const entries = tensors.flatMap(({ externalData }) => externalData)
  const locations = new Set(entries.filter(({ key }) => key === 'location').map(({ value }) => value))
  for (const location of locations) {
    if ((await realPath(pathIn(folder, location))) !== target) continue
    fail('ERR_LILY_ARGUMENT', 'target', `expected another path than the model's weights have, got ${quote(to)}`)
  }
}

function externalTensors({ initializer, node }: GraphProto): TensorProto[] {
  const attributes = node.flatMap(({ attribute }) => attribute)
  const ofAttributes = attributes.flatMap(({ t, tensors }) => (t === undefined ? tensors : [t]))
  const own = [...initializer, ...ofAttributes].filter(({ dataLocation }) => dataLocation === DataLocation.EXTERNAL)
  return [...own, ...node.flatMap(subgraphsOf).flatMap(externalTensors)]
}
