# Windows on x64: clang and lld with the headers and libraries of MinGW-w64, on Linux or on Windows. CMAKE_CXX_COMPILER
# is a clang++. It is not GCC, which does not align the stack for vectors on Windows (its bug 54412): versions of it
# keep them there with instructions that require the alignment, and the program then crashes by chance.
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_CXX_COMPILER_TARGET x86_64-w64-mingw32)
set(CMAKE_SHARED_LINKER_FLAGS_INIT -fuse-ld=lld)
set(CMAKE_MODULE_LINKER_FLAGS_INIT -fuse-ld=lld)
set(CMAKE_EXE_LINKER_FLAGS_INIT -fuse-ld=lld)
