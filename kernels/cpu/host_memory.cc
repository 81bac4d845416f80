#include "kernels/cpu/host_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ttt {
namespace {

constexpr int64_t kLargePage = int64_t{2} << 20;
constexpr int64_t kAlignment = 64;

class HeapBuffer : public DeviceBuffer {
 public:
  HeapBuffer(void* data, int64_t size_bytes)
      : data_(data), size_bytes_(size_bytes) {}
  ~HeapBuffer() override { std::free(data_); }
  std::byte* data() const override { return static_cast<std::byte*>(data_); }
  int64_t size_bytes() const override { return size_bytes_; }

 private:
  void* const data_;
  const int64_t size_bytes_;
};

class MappedBuffer : public DeviceBuffer {
 public:
  MappedBuffer(void* data, int64_t size_bytes)
      : data_(data), size_bytes_(size_bytes) {}
  ~MappedBuffer() override { munmap(data_, size_bytes_); }
  std::byte* data() const override { return static_cast<std::byte*>(data_); }
  int64_t size_bytes() const override { return size_bytes_; }

 private:
  void* const data_;
  const int64_t size_bytes_;
};

absl::Status Exhausted(int64_t size_bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no memory for ", size_bytes, " bytes"));
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> Map(int64_t size_bytes) {
  void* const data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return Exhausted(size_bytes);
  auto buffer = std::make_unique<MappedBuffer>(data, size_bytes);
  // Both are advice: a kernel that knows neither gives small pages, later.
  madvise(data, size_bytes, MADV_HUGEPAGE);
  if (madvise(data, size_bytes, MADV_POPULATE_WRITE) != 0 && errno == ENOMEM) {
    return Exhausted(size_bytes);
  }
  return buffer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHostMemory(
    int64_t size_bytes) {
  if (size_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Allocate: size_bytes is ", size_bytes));
  }
  if (size_bytes > INT64_MAX - kLargePage) return Exhausted(size_bytes);
  if (size_bytes >= kLargePage) return Map(size_bytes);
  const int64_t rounded =
      (size_bytes / kAlignment + 1) * kAlignment;  // Never an empty block.
  void* const data = std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) return Exhausted(size_bytes);
  std::memset(data, 0, rounded);
  return std::make_unique<HeapBuffer>(data, size_bytes);
}

}  // namespace ttt
