// A name for bytes: 128 bits, not cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "server/model/config.h"

namespace ttt {

// Two lanes of multiply and fold over 16-byte blocks. The result depends on the
// bytes alone, not on how they were cut into calls.
class Fingerprint {
 public:
  void Add(const void* data, size_t size);
  void Add(absl::string_view text) { Add(text.data(), text.size()); }
  void AddInteger(uint64_t value) { Add(&value, sizeof(value)); }
  // 32 hexadecimal digits for what was added so far.
  std::string Hex() const;

 private:
  static constexpr size_t kBlockBytes = 16;

  void Mix(const uint8_t* block);

  uint64_t first_ = 0x9e3779b97f4a7c15;
  uint64_t second_ = 0xd1b54a32d192ed03;
  uint64_t size_ = 0;
  uint8_t rest_[kBlockBytes] = {};  // the last size_ % kBlockBytes bytes
};

// All that the config says of the model, in a fixed order.
void AddConfig(const ModelConfig& config, Fingerprint* fingerprint);

}  // namespace ttt
