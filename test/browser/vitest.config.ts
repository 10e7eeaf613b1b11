import { project } from '../support/project.js'

export default project('browser')
