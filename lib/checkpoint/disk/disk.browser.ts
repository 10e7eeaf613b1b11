/** What takes the place of disk.ts where there is no file system. Every path is refused. */
import { fail } from '../../base/errors.js'
import type * as disk from './disk.js'

function refuse(argument: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'there is no file system here; load an adapter from its files, as File objects or as { name: Blob }, and save it ' +
      'with pretrainedFiles(), loraFiles() or ggufFile()',
  )
}

export const readPath: typeof disk.readPath = (argument) => refuse(argument)

// A path comes first, so nothing calls these.
export const folderOf: typeof disk.folderOf = () => refuse('path')
export const pathIn: typeof disk.pathIn = () => refuse('folder')
export const realPath: typeof disk.realPath = () => refuse('path')
export const openFile: typeof disk.openFile = () => refuse('path')
export const withFolder: typeof disk.withFolder = () => refuse('folder')
export const replaceFile: typeof disk.replaceFile = () => refuse('path')
export const replaceFiles: typeof disk.replaceFiles = () => refuse('folder')
