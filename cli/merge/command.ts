/** `lily-kernels merge`: writes the base model with an adapter merged into its weights. */
import { Command } from 'commander'

/** The arguments and options of `lily-kernels merge`, as commander parses them. */
export interface MergeArguments {
  readonly adapter: string
  readonly base: string
  readonly out: string
  readonly force: boolean
}

export function mergeCommand(): Command {
  return new Command('merge')
    .description('write the base model with an adapter saved by PEFT or savePretrained merged into its weights')
    .usage('<adapter> <base> <out> [--force]')
    .argument('<adapter>', 'folder that contains adapter_config.json and the tensors')
    .argument('<base>', 'safetensors file of the base model, or the index or the folder of one in several files')
    .argument('<out>', 'file to write; folder to write if <base> is an index or a folder')
    .option('--force', 'replace what <out> names', false)
    .addHelpText(
      'after',
      '\nWeights are float32, bfloat16 or float16, and are rounded once. All other tensors, the metadata and the index are copied ' +
        'byte for byte, one tensor at a time. Copy config.json and the tokenizer yourself.\n' +
        'Lily is merged exactly if its mixtures are constant: with the routing uniform or learned, or frozen.\n' +
        'The exit code is 1 if an input cannot be read or the output cannot be written; nothing is written then.',
    )
    .action(async (adapter: string, base: string, out: string, { force }: Pick<MergeArguments, 'force'>) => {
      // Load the addon only here, so that --help and usage errors do not require it.
      const { mergeAdapter } = await import('./run.js')
      await mergeAdapter({ adapter, base, out, force })
    })
}
