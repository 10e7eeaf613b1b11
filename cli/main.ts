#!/usr/bin/env node
/** `npx lily-kernels`: the command line with its commands bench, doctor, export, inspect and merge. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError } from 'commander'
import { packageRoot } from '../lib/binding/root.js'
import { benchCommand } from './bench/command.js'
import { doctorCommand } from './doctor/command.js'
import { exportCommand } from './export/command.js'
import { inspectCommand } from './inspect/command.js'
import { mergeCommand } from './merge/command.js'
import { reportFailure } from '../report/failure.js'
import { print, note, watchOutput } from '../report/print.js'
import { printableLines } from '../report/printable.js'

function program(): Command {
  const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }
  const command = new Command('lily-kernels')
    .description(
      'fused Lily and LoRA kernels for Node.js: benchmark, diagnosis of the installation, export, analysis and merging of trained adapters',
    )
    .version(version)
    .configureHelp({ subcommandTerm: (each) => `${each.name()} ${each.usage()}` })
    .addCommand(benchCommand(version))
    .addCommand(doctorCommand(version))
    .addCommand(exportCommand())
    .addCommand(inspectCommand(version))
    .addCommand(mergeCommand())
    .addHelpText(
      'after',
      '\nExit codes: 0 if everything succeeded, 1 after an error, 129 after SIGHUP, 130 after SIGINT, 143 after SIGTERM.\n' +
        'Environment: DEBUG=lily prints the stack traces of errors; NO_COLOR or TERM=dumb replaces the progress bar by lines.',
    )
  for (const each of [command, ...command.commands]) {
    each.showHelpAfterError(`See ${each === command ? '' : 'lily-kernels '}${each.name()} --help.`)
    // Without the override, commander ends the process before its text is written.
    each.exitOverride().configureOutput({
      writeOut: (text) => print(text.trimEnd()),
      writeErr: (text) => note(printableLines(text.trimEnd())),
    })
  }
  return command
}

watchOutput()
// The process goes on, so that a command still writes what it has measured.
process.on('uncaughtException', reportFailure)
try {
  await program().parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode ||= error.exitCode
  else reportFailure(error)
}
