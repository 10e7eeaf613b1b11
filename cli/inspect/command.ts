/** `lily-kernels inspect`: analyses an adapter and shows a table, and a page with charts if it is asked for. */
import { Command } from 'commander'
import { jsonTarget } from '../../report/output-file.js'
import type { InspectOptions } from './options.js'

/** @param version version of the package */
export function inspectCommand(version: string): Command {
  // Its usage has the folder first, because an option --json before it would take it for its file.
  return new Command('inspect')
    .description(
      'analyse an adapter saved by PEFT or savePretrained: routers, experts and updates of Lily, or updates of LoRA',
    )
    .usage('<folder> [options]')
    .argument('<folder>', 'folder that contains adapter_config.json and the tensors')
    .option(
      '--samples <file>',
      'safetensors file with sample inputs: one tensor [..., d_in] per layer, by layer name; the tensor "mask" [...], or ' +
        '"<layer>.mask" for one layer, is 0 for padding, which does not count, and 1 for other tokens',
    )
    .option('--json [file]', 'write the analysis as JSON to a file, or to stdout (-) instead of the table', jsonTarget)
    .option('--html <file>', 'write a page with charts to a file')
    .addHelpText(
      'after',
      '\nWithout --samples, the routers are not analysed: layers have the weights that they are frozen with, or equal ' +
        "weights of all experts. Mixtures of routing 'learned' are shown without samples. LoRA has no routers.\n" +
        'The analysis of large ranks takes a while.\n' +
        'The exit code is 1 if an input cannot be read or an output cannot be written.',
    )
    .action(async (folder: string, options: InspectOptions) => {
      // Load the addon only here, so that --help and usage errors do not require it.
      const { inspect } = await import('./run.js')
      await inspect(folder, options, version)
    })
}
