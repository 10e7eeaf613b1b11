/** Runs an export. */
import { countOf } from '../../lib/base/errors.js'
import { saveGguf } from '../../lib/gguf/index.js'
import { AdapterModel } from '../../lib/index.js'
import { adapterInputs } from '../../report/adapter-inputs.js'
import { checkWritable } from '../../report/output-file.js'
import { note } from '../../report/print.js'
import { printable } from '../../report/printable.js'
import type { ExportOptions } from './command.js'

export async function exportAdapter(folder: string, { gguf, base, dtype }: ExportOptions): Promise<void> {
  checkWritable({ '--gguf': gguf }, [...adapterInputs(folder), base])
  const model = await AdapterModel.fromPretrained(folder)
  await saveGguf(gguf, model, { base, dtype })
  note(`adapter of ${countOf(model.layers.size, 'layer')}: ${printable(gguf)}`)
}
