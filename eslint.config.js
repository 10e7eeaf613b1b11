import eslint from '@eslint/js'
import { defineConfig, globalIgnores } from 'eslint/config'
import tseslint from 'typescript-eslint'

export default defineConfig(
  globalIgnores(['build/', '**/dist/', 'prebuilds/']),
  eslint.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      // tsc checks the globals, in scripts/ too.
      'no-undef': 'off',
      // Numbers and booleans are readable in messages.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      // JavaScript callers can pass values that the types exclude, so checks for them are not unnecessary.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/no-unnecessary-boolean-literal-compare': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', destructuredArrayIgnorePattern: '^_' },
      ],
    },
  },
  {
    // Browsers run this code, too, but for the files that their builds replace, in these two folders, and MPI.
    files: ['lib/**'],
    ignores: ['lib/binding/**', 'lib/checkpoint/disk/**', 'lib/mpi/**'],
    rules: { 'no-restricted-globals': ['error', 'Buffer', 'process'] },
  },
  {
    // The functions of node:path are methods by their types only.
    files: ['lib/binding/**', 'lib/checkpoint/disk/**'],
    rules: { '@typescript-eslint/unbound-method': 'off' },
  },
  {
    // Index arithmetic on arrays whose length is known at that point.
    files: ['test/**', 'bench/**', 'cli/bench/**', 'examples/**'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    // Plain JavaScript that runs without a build, like a user's.
    files: ['test/**/*.js', 'examples/**/*.js'],
    extends: [tseslint.configs.disableTypeChecked],
  },
)
