import { type Theme, useRoute } from 'vitepress'
import DefaultTheme from 'vitepress/theme'
import { defineComponent, h, nextTick, onMounted, watch } from 'vue'
import 'katex/dist/katex.min.css'
import './style.css'

declare const document: { getElementById(id: string): Element | null }
interface Element {
  querySelector(selector: string): object | null
  setAttribute(name: string, value: string): void
  removeAttribute(name: string): void
}

/** The home page of the default theme has no main part, to which a screen reader can jump: its content becomes it. */
function markMain(): void {
  const content = document.getElementById('VPContent')
  if (content?.querySelector('main') === null) content.setAttribute('role', 'main')
  else content?.removeAttribute('role')
}

const Layout = defineComponent({
  setup() {
    const route = useRoute()
    onMounted(markMain)
    watch(
      () => route.path,
      () => void nextTick(markMain),
    )
    return () => h(DefaultTheme.Layout)
  },
})

export default { extends: DefaultTheme, Layout } satisfies Theme
