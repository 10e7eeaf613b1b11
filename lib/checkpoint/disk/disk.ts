/**
 * The file system, for the other files of lib/checkpoint/, which import nothing else of this folder and no module of
 * Node.js. The files for browsers have disk.browser.ts in its place.
 */
export { withFolder } from './folder.js'
export { openFile } from './open-file.js'
export { folderOf, pathIn, readPath, realPath } from './paths.js'
export { replaceFile, replaceFiles } from './replace-files.js'
