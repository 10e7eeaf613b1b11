/** What takes the place of node.ts where there is no file system. Every path is refused. */
import { fail } from '../../base/errors.js'
import type * as node from './node.js'

function refuse(argument: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'there is no file system here; load an adapter from its files, as File objects or as { name: Blob }, and save it ' +
      'with pretrainedFiles() or loraFiles()',
  )
}

export const readPath: typeof node.readPath = (argument) => refuse(argument)

// A path comes first, so nothing calls these.
export const pathIn: typeof node.pathIn = () => refuse('folder')
export const openFile: typeof node.openFile = () => refuse('path')
export const withFolder: typeof node.withFolder = () => refuse('folder')
export const replaceFile: typeof node.replaceFile = () => refuse('path')
export const replaceFiles: typeof node.replaceFiles = () => refuse('folder')
