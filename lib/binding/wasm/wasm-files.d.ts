/** The builds of the module. tsdown.config.ts makes files for browsers of them, which export the text in base64. */
declare module '*.wasm' {
  const base64: string
  export default base64
}
