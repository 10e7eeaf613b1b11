/** `lily-kernels export`: writes an adapter for another engine. */
import { Command, Option } from 'commander'

/** The options of `lily-kernels export`, as commander parses them. */
export interface ExportOptions {
  readonly gguf: string
  readonly base: string
  readonly dtype: 'float32' | 'float16'
}

export function exportCommand(): Command {
  return new Command('export')
    .description('write an adapter saved by PEFT or savePretrained as a GGUF file, for llama.cpp and node-llama-cpp')
    .usage('<folder> --gguf <file> --base <config.json>')
    .argument('<folder>', 'folder that contains adapter_config.json and the tensors')
    .requiredOption('--gguf <file>', 'file to write')
    .requiredOption('--base <config.json>', "the base model's config.json, which Transformers saves with it")
    .addOption(new Option('--dtype <type>', 'type of the numbers').choices(['float32', 'float16']).default('float32'))
    .addHelpText(
      'after',
      '\nLily is exported exactly if its mixtures are constant: with the routing uniform or learned, or frozen.\n' +
        'The exit code is 1 if an input cannot be read or the file cannot be written.',
    )
    .action(async (folder: string, options: ExportOptions) => {
      // Load the addon only here, so that --help and usage errors do not require it.
      const { exportAdapter } = await import('./run.js')
      await exportAdapter(folder, options)
    })
}
