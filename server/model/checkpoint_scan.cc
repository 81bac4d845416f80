#include "server/model/checkpoint_scan.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "server/model/fingerprint.h"

namespace ttt {
namespace {

constexpr int64_t kChunkBytes = int64_t{4} << 20;  // whole elements of any type
constexpr unsigned kMaxThreads = 8;

// Not finite: all bits of the exponent are set.
template <typename Word>
bool AllFinite(const std::vector<uint8_t>& bytes, int64_t size, Word exponent) {
  bool finite = true;
  for (int64_t at = 0; at < size; at += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + at, sizeof(word));
    finite &= (word & exponent) != exponent;
  }
  return finite;
}

bool AllFinite(absl::string_view dtype, const std::vector<uint8_t>& bytes,
               int64_t size) {
  if (dtype == "F32") return AllFinite<uint32_t>(bytes, size, 0x7f800000);
  return AllFinite<uint16_t>(bytes, size, dtype == "BF16" ? 0x7f80 : 0x7c00);
}

absl::StatusOr<std::string> ScanTensor(const StoredTensor& stored,
                                       std::vector<uint8_t>* buffer) {
  const SafetensorsTensor& tensor = *stored.tensor;
  Fingerprint fingerprint;
  for (int64_t done = 0; done < tensor.num_bytes;) {
    const int64_t size = std::min(kChunkBytes, tensor.num_bytes - done);
    TTT_RETURN_IF_ERROR(
        stored.file->ReadBytes(tensor, done, size, buffer->data()));
    if (!AllFinite(tensor.dtype, *buffer, size)) {
      return absl::InvalidArgumentError(
          absl::StrCat(stored.file->path(), ": tensor ", Quoted(stored.name),
                       " has a value that is NaN or infinite"));
    }
    fingerprint.Add(buffer->data(), size);
    done += size;
  }
  return fingerprint.Hex();
}

}  // namespace

absl::StatusOr<std::string> ScanTensors(
    const ModelConfig& config, const std::vector<StoredTensor>& tensors) {
  std::vector<absl::StatusOr<std::string>> results(tensors.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    std::vector<uint8_t> buffer(kChunkBytes);
    for (size_t i; (i = next++) < tensors.size();) {
      results[i] = ScanTensor(tensors[i], &buffer);
    }
  };
  std::vector<std::thread> threads;
  const unsigned num_threads =
      std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads);
  for (unsigned i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();

  Fingerprint fingerprint;
  AddConfig(config, &fingerprint);
  for (size_t i = 0; i < tensors.size(); ++i) {
    TTT_RETURN_IF_ERROR(results[i].status());
    fingerprint.Add(absl::StrCat(tensors[i].name, " ", tensors[i].tensor->dtype,
                                 " ", ShapeText(tensors[i].tensor->shape), " ",
                                 *results[i], "\n"));
  }
  return fingerprint.Hex();
}

}  // namespace ttt
