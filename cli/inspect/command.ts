/** `lily-kernels inspect`: what an adapter has learnt, as a table and as a page with charts. */
import { Command } from 'commander'

/** As commander gives them. */
export interface InspectOptions {
  readonly samples?: string
  readonly json?: string | true
  readonly html: string | false
}

export function inspectCommand(version: string): Command {
  return new Command('inspect')
    .description('look at an adapter that PEFT or savePretrained has saved: its routers, experts and updates')
    .argument('<folder>', 'with adapter_config.json and the tensors')
    .option('--samples <file>', 'safetensors of what enters each layer, [..., d_in] by the name of the layer')
    .option('--json [file]', 'everything found, as JSON, into a file, or instead of the table')
    .option('--html <file>', 'the page with charts', 'lily-inspect.html')
    .option('--no-html', 'without the page')
    .addHelpText(
      'after',
      '\nWithout samples every expert counts the same, and nothing is said of the routers.\nLarge ranks take a while.',
    )
    .action(async (folder: string, options: InspectOptions, command: Command) => {
      // What needs the addon comes after this: help and mistakes do not.
      const { inspect } = await import('./run.js')
      await inspect(folder, options, command, version)
    })
}
