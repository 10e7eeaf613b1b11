{
  # No compiler settings here: CMakeLists.txt has them all. This file lets node-gyp drive that build.
  "targets": [
    {
      "target_name": "lily",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          # Never made, so that the action always runs: CMake knows what is out of date.
          "outputs": ["<(INTERMEDIATE_DIR)/always"],
          "action": ["node", "scripts/build-native.js"]
        }
      ]
    }
  ]
}
