/** `lily-kernels inspect`: analyses an adapter and shows a table and a page with charts. */
import { Command } from 'commander'
import type { InspectOptions } from './options.js'

/** @param version version of the package */
export function inspectCommand(version: string): Command {
  return new Command('inspect')
    .description('analyse the routers, experts and updates of an adapter saved by PEFT or savePretrained')
    .argument('<folder>', 'folder that contains adapter_config.json and the tensors')
    .option('--samples <file>', 'safetensors file with sample inputs: one tensor [..., d_in] per layer, by layer name')
    .option('--json [file]', 'write the analysis as JSON to a file, or to stdout instead of the table')
    .option('--html <file>', 'write a page with charts to a file', 'lily-inspect.html')
    .option('--no-html', 'do not write the page')
    .addHelpText(
      'after',
      '\nWithout --samples, all experts have equal weights and the routers are not analysed.\n' +
        'The analysis of large ranks takes a while.',
    )
    .action(async (folder: string, options: InspectOptions, command: Command) => {
      // Load the addon only here, so that --help and usage errors do not require it.
      const { inspect } = await import('./run.js')
      await inspect(folder, options, command, version)
    })
}
