/** Runs an export. */
import { readPeftType } from '../../lib/checkpoint/load.js'
import { countOf } from '../../lib/base/errors.js'
import { saveGguf } from '../../lib/gguf/index.js'
import { LilyModel, LoraModel } from '../../lib/index.js'
import { adapterInputs } from '../report/adapter-inputs.js'
import { checkWritable } from '../report/output-file.js'
import { note } from '../report/print.js'
import { printable } from '../report/printable.js'
import type { ExportOptions } from './command.js'

export async function exportAdapter(folder: string, { gguf, base, dtype }: ExportOptions): Promise<void> {
  checkWritable({ '--gguf': gguf }, [...adapterInputs(folder), base])
  const isLora = (await readPeftType(folder)) === 'LORA'
  const model = await (isLora ? LoraModel : LilyModel).fromPretrained(folder)
  await saveGguf(gguf, model, { base, dtype })
  note(`adapter of ${countOf(model.layers.size, 'layer')}: ${printable(gguf)}`)
}
