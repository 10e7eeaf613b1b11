/** The builds of the module. tsdown.config.ts embeds them in the files for browsers, as text in base64. */
declare module '*.wasm' {
  const base64: string
  export default base64
}
