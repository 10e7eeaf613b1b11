/** The pages of the site for the reports that are JSON. */
import { fileURLToPath } from 'node:url'
import { reportNames, reportPage } from '../../docs/.vitepress/reports.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

export default {
  paths: () => reportNames(root).map((report) => ({ params: { report }, content: reportPage(root, report) })),
}
