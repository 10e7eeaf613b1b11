import { project } from '../support/project.js'

/** Every test file of a folder without a project, unless its first comment names others. */
export default project('cpu')
