// A library of MPI for tests: MPICH behind the standard ABI of MPI 5, whose handles it checks. With FUNNELED it has the handles
// of MPICH, and grants no more than MPI_THREAD_FUNNELED; with UNKNOWN its version is that of no known implementation. With
// DRAFT it claims the ABI, but has an older version of the standard.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The handles of MPICH.
enum { WORLD = 0x44000000, BYTE = 0x4c00010d, ERRORS_RETURN = 0x54000001, SERIALIZED = 2 };

static void *function(const char *name) {
  static void *library;
  if (library == NULL) library = dlopen("libmpi.so.12", RTLD_NOW);
  void *found = library == NULL ? NULL : dlsym(library, name);
  if (found == NULL) {
    fprintf(stderr, "%s: %s\n", name, dlerror());
    abort();
  }
  return found;
}

#define CALL(name, types, ...) (((int(*) types)function(name))(__VA_ARGS__))

#if defined(FUNNELED) || defined(UNKNOWN)
#define EXPECT(handle, abi, mpich) ((void)(handle), mpich)
#define PROVIDED 1
typedef int Handle;
#else
// What the standard has in place of each handle.
#define EXPECT(handle, abi, mpich) expect((uintptr_t)(handle), abi, mpich)
#define PROVIDED 2048
typedef void *Handle;

static int expect(uintptr_t handle, uintptr_t abi, int mpich) {
  if (handle == abi) return mpich;
  fprintf(stderr, "expected the handle %#zx, got %#zx\n", (size_t)abi, (size_t)handle);
  abort();
}

int MPI_Abi_get_version(int *major, int *minor) {
  *major = 1;
  *minor = 0;
  return 0;
}

int MPI_Get_version(int *version, int *subversion) {
#if defined(DRAFT)
  *version = 4;
#else
  *version = 5;
#endif
  *subversion = 0;
  return 0;
}
#endif

int MPI_Get_library_version(char *text, int *length) {
#if defined(FUNNELED)
  strcpy(text, "MPICH Version: 3.1 of a test\nmore");
#elif defined(UNKNOWN)
  strcpy(text, "Example 1.0\nmore");
#else
  strcpy(text, "Standard 5.0 of a test\nmore");
#endif
  *length = (int)strlen(text);
  return 0;
}

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
#if defined(FUNNELED) || defined(UNKNOWN)
  if (required != SERIALIZED) abort();
#else
  if (required != PROVIDED) abort();
#endif
  int given;
  const int error = CALL("MPI_Init_thread", (int *, char ***, int, int *), argc, argv, SERIALIZED, &given);
  *provided = PROVIDED;
  return error;
}

int MPI_Comm_set_errhandler(Handle comm, Handle handler) {
  return CALL("MPI_Comm_set_errhandler", (int, int), EXPECT(comm, 0x101, WORLD), EXPECT(handler, 0x142, ERRORS_RETURN));
}

int MPI_Comm_rank(Handle comm, int *rank) {
  return CALL("MPI_Comm_rank", (int, int *), EXPECT(comm, 0x101, WORLD), rank);
}

int MPI_Comm_size(Handle comm, int *size) {
  return CALL("MPI_Comm_size", (int, int *), EXPECT(comm, 0x101, WORLD), size);
}

// A request has all bits of a pointer, so that none may be cut off.
static Handle request_of(int request) { return (Handle)((uintptr_t)(unsigned)request << 24); }
static int request_in(Handle request) { return (int)(unsigned)((uintptr_t)request >> 24); }

int MPI_Isend(const void *data, int count, Handle type, int to, int tag, Handle comm, Handle *request) {
  int made;
  const int error = CALL("MPI_Isend", (const void *, int, int, int, int, int, int *), data, count,
                         EXPECT(type, 0x247, BYTE), to, tag, EXPECT(comm, 0x101, WORLD), &made);
  *request = request_of(made);
  return error;
}

int MPI_Irecv(void *data, int count, Handle type, int from, int tag, Handle comm, Handle *request) {
  int made;
  const int error = CALL("MPI_Irecv", (void *, int, int, int, int, int, int *), data, count, EXPECT(type, 0x247, BYTE),
                         from, tag, EXPECT(comm, 0x101, WORLD), &made);
  *request = request_of(made);
  return error;
}

int MPI_Test(Handle *request, int *flag, void *status) {
  int made = request_in(*request);
  const int error = CALL("MPI_Test", (int *, int *, void *), &made, flag, status);
  *request = request_of(made);
  return error;
}

int MPI_Error_string(int code, char *text, int *length) {
  return CALL("MPI_Error_string", (int, char *, int *), code, text, length);
}

int MPI_Finalize(void) { return ((int (*)(void))function("MPI_Finalize"))(); }

// Ends the process as a library may, by way of its handlers. The launcher then ends the others.
int MPI_Abort(Handle comm, int code) {
  (void)EXPECT(comm, 0x101, WORLD);
  exit(code);
}
