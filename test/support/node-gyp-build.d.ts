declare module 'node-gyp-build' {
  /** Loads the addon of the package at `root`: from build/Release, otherwise the platform's file in prebuilds/. */
  export default function load(root: string): unknown
}
