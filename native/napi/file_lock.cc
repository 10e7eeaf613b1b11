// Advisory locks of open files, by which processes that save into one folder take turns.
#include <sys/file.h>

#include <cerrno>

#include "napi/exports.h"
#include "napi/values.h"

namespace lily::napi {

// flock belongs to the open file, not to the process as fcntl's locks do: two handles of one process exclude each
// other, and the kernel releases the lock when the process ends, however it ends.
Napi::Value file_lock(const Napi::CallbackInfo &info) {
  const int file = static_cast<int>(whole_number(info.Env(), double_argument(info, 0), 0, INT32_MAX, "fd"));
  const int kind = info[1].As<Napi::Boolean>().Value() ? LOCK_EX : LOCK_SH;
  int result = 0;
  do {
    result = flock(file, kind | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  if (errno == EBADF) throw make_error(info.Env(), "ERR_LILY_ARGUMENT", "fd is not an open file");
  // A file system without locks.
  return info.Env().Null();
}

}  // namespace lily::napi
