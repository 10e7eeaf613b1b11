import { project } from '../support/project.js'

/** The tarball, which npm run check:package packs; test:platforms runs it, because packing compiles the addon again. */
export default project('package')
