#include "mpi/library.h"

#include <memory>
#include <type_traits>

#include "system/library.h"

namespace lily::mpi {
namespace {

// Handles are pointers, except in MPICH and its derivatives, where they are integers. `Handle` stands for MPI_Comm,
// MPI_Datatype, MPI_Errhandler and MPI_Request.
template <typename Handle>
struct Functions {
  int (*init_thread)(int *, char ***, int, int *);
  int (*finalize)();
  int (*abort)(Handle, int);
  int (*comm_rank)(Handle, int *);
  int (*comm_size)(Handle, int *);
  int (*comm_set_errhandler)(Handle, Handle);
  int (*isend)(const void *, int, Handle, int, int, Handle, Handle *);
  int (*irecv)(void *, int, Handle, int, int, Handle, Handle *);
  int (*test)(Handle *, int *, void *);
  int (*error_string)(int, char *, int *);
};

// The constants of mpi.h.
template <typename Handle>
struct Constants {
  Handle world, byte, errors_return;
  int thread_serialized;
};

template <typename Handle>
class LibraryOf : public Library {
 public:
  LibraryOf(const Functions<Handle> &functions, const Constants<Handle> &constants)
      : call_(functions), constants_(constants) {}

  int initialise(bool *is_serialized) override {
    int provided = 0;
    const int error = call_.init_thread(nullptr, nullptr, constants_.thread_serialized, &provided);
    if (error != 0) return error;
    *is_serialized = provided >= constants_.thread_serialized;
    return call_.comm_set_errhandler(constants_.world, constants_.errors_return);
  }
  int finalize() override { return call_.finalize(); }
  int rank_and_size(int *rank, int *size) override {
    const int error = call_.comm_rank(constants_.world, rank);
    return error != 0 ? error : call_.comm_size(constants_.world, size);
  }
  int send(const void *data, size_t bytes, int to, int tag, Request *request) override {
    Handle handle;
    const int error = call_.isend(data, static_cast<int>(bytes), constants_.byte, to, tag, constants_.world, &handle);
    *request = bits_of(handle);
    return error;
  }
  int receive(void *data, size_t bytes, int from, int tag, Request *request) override {
    Handle handle;
    const int error = call_.irecv(data, static_cast<int>(bytes), constants_.byte, from, tag, constants_.world, &handle);
    *request = bits_of(handle);
    return error;
  }
  int test(Request *request, bool *is_done) override {
    // Its size and the value that stands for no status differ between libraries: the largest has 32 bytes.
    alignas(16) char status[64];
    Handle handle;
    if constexpr (std::is_pointer_v<Handle>)
      handle = reinterpret_cast<Handle>(*request);
    else
      handle = static_cast<Handle>(*request);
    int flag = 0;
    const int error = call_.test(&handle, &flag, status);
    *request = bits_of(handle);
    *is_done = flag != 0;
    return error;
  }
  void abort(int code) override { call_.abort(constants_.world, code); }
  std::string error_text(int code) override {
    char text[1024] = {};
    int length = 0;
    if (call_.error_string(code, text, &length) != 0) return "error " + std::to_string(code);
    return text;
  }

 private:
  static Request bits_of(Handle handle) {
    if constexpr (std::is_pointer_v<Handle>)
      return reinterpret_cast<Request>(handle);
    else
      return static_cast<Request>(static_cast<unsigned>(handle));
  }

  const Functions<Handle> call_;
  const Constants<Handle> constants_;
};

// Looks up symbols, and keeps the name of the first that is missing.
class Symbols {
 public:
  explicit Symbols(void *library) : library_(library) {}

  void *find(const char *name) const { return dlsym(library_, name); }
  template <typename Function>
  void get(const char *name, Function **function) {
    *function = reinterpret_cast<Function *>(find(name));
    if (*function == nullptr && missing.empty()) missing = name;
  }

  std::string missing;

 private:
  void *const library_;
};

template <typename Handle>
std::unique_ptr<Library> make_library(Symbols &symbols, const Constants<Handle> &constants) {
  Functions<Handle> functions;
  symbols.get("MPI_Init_thread", &functions.init_thread);
  symbols.get("MPI_Finalize", &functions.finalize);
  symbols.get("MPI_Abort", &functions.abort);
  symbols.get("MPI_Comm_rank", &functions.comm_rank);
  symbols.get("MPI_Comm_size", &functions.comm_size);
  symbols.get("MPI_Comm_set_errhandler", &functions.comm_set_errhandler);
  symbols.get("MPI_Isend", &functions.isend);
  symbols.get("MPI_Irecv", &functions.irecv);
  symbols.get("MPI_Test", &functions.test);
  symbols.get("MPI_Error_string", &functions.error_string);
  return std::make_unique<LibraryOf<Handle>>(functions, constants);
}

void *standard_handle(uintptr_t value) { return reinterpret_cast<void *>(value); }

// UCX, with which both implementations drive networks, watches what the process maps and unmaps. To do so, it replaces
// the first instructions of mmap, brk and others when it is loaded, and moves the end of the heap up and down to see
// whether that works; the other threads of Node.js call these functions meanwhile, and crash. If UCX replaces addresses
// in the tables of the linker instead (UCX_MEM_MMAP_HOOK_MODE=reloc), MPI_Init_thread hangs now and then. Without
// watching, UCX registers the memory of a message anew on networks that require that. UCX's handlers of signals would
// take SIGSEGV from V8, whose WebAssembly relies on it. What the user has set stays.
void prepare_for_threads() {
  setenv("UCX_MEM_EVENTS", "n", 0);
  setenv("UCX_HANDLE_ERRORS", "none", 0);
}

bool has(const std::string &text, const char *part) { return text.find(part) != std::string::npos; }

// Null: the library is none of MPI, or not one that this file has the constants of; `reason` says why.
std::unique_ptr<Library> recognise(const std::string &name, void *opened, std::string *reason) {
  Symbols symbols(opened);
  int (*get_version)(char *, int *) = nullptr;
  symbols.get("MPI_Get_library_version", &get_version);
  if (get_version == nullptr) {
    *reason = "is no library of MPI: it has no MPI_Get_library_version";
    return nullptr;
  }
  // The longest version is MPICH's MPI_MAX_LIBRARY_VERSION_STRING.
  std::string version(8192, '\0');
  int length = 0;
  get_version(version.data(), &length);
  version.resize(version.find_first_of(std::string("\n\0", 2)));

  std::unique_ptr<Library> library;
  const char *implementation = nullptr;
  // A library of MPI 5 has the function also if its handles are not those of the standard; the version is then -1.
  // MPICH 4.3 has a draft of the standard with other values.
  int abi = -1, abi_minor = -1, standard = 0, standard_minor = 0;
  const auto get_abi = reinterpret_cast<int (*)(int *, int *)>(symbols.find("MPI_Abi_get_version"));
  const auto get_standard = reinterpret_cast<int (*)(int *, int *)>(symbols.find("MPI_Get_version"));
  if (get_abi != nullptr) get_abi(&abi, &abi_minor);
  if (get_standard != nullptr) get_standard(&standard, &standard_minor);
  if (abi >= 1 ? standard < 5 : has(name, "libmpi_abi")) {
    *reason = "has a draft of the standard ABI, not the ABI of MPI 5: " + version;
    return nullptr;
  }
  if (abi >= 1) {
    implementation = "MPI ABI";
    library =
        make_library<void *>(symbols, {standard_handle(0x101), standard_handle(0x247), standard_handle(0x142), 2048});
  } else if (has(version, "Open MPI")) {
    implementation = "Open MPI";
    Constants<void *> constants = {nullptr, nullptr, nullptr, 2};
    symbols.get("ompi_mpi_comm_world", reinterpret_cast<char **>(&constants.world));
    symbols.get("ompi_mpi_byte", reinterpret_cast<char **>(&constants.byte));
    symbols.get("ompi_mpi_errors_return", reinterpret_cast<char **>(&constants.errors_return));
    library = make_library<void *>(symbols, constants);
  } else if (has(version, "MPICH") || has(version, "Intel(R) MPI") || has(version, "MVAPICH")) {
    implementation = "MPICH";
    library = make_library<int>(symbols, {0x44000000, 0x4c00010d, 0x54000001, 2});
  } else {
    *reason = "is of an implementation that this package does not know: " + version;
    return nullptr;
  }
  if (!symbols.missing.empty()) {
    *reason = "has no " + symbols.missing;
    return nullptr;
  }
  library->version = version;
  library->implementation = implementation;
  return library;
}

}  // namespace

Library *open_library(const std::vector<std::string> &candidates, std::vector<std::string> *reasons) {
  prepare_for_threads();
  for (const std::string &name : candidates) {
    // Open MPI's plugins look up its symbols in the process.
    void *const opened = dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (opened == nullptr) {
      const char *const text = dlerror();
      reasons->push_back(text != nullptr ? text : name + " does not load");
      continue;
    }
    std::string reason;
    std::unique_ptr<Library> library = recognise(name, opened, &reason);
    if (library != nullptr) {
      library->name = name;
      return library.release();
    }
    reasons->push_back(name + ' ' + reason);
    dlclose(opened);
  }
  return nullptr;
}

}  // namespace lily::mpi
