import type { DefaultTheme } from 'vitepress'

const page = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: `/${path}` })

/** The guides, in the order in which a reader needs them. */
export const guides: DefaultTheme.SidebarItem[] = [{ text: 'Start', items: [page('Math', 'docs/math')] }]
