/**
 * The file system, for the other files of lib/checkpoint/, which import nothing else of this folder and no module of
 * Node.js. A build for browsers replaces this file by browser.ts.
 */
export { withFolder } from './folder.js'
export { openFile } from './open-file.js'
export { pathIn, readPath } from './paths.js'
export { replaceFile, replaceFiles } from './replace-files.js'
