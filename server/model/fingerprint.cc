#include "server/model/fingerprint.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"

namespace ttt {
namespace {

uint64_t Fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

void Fingerprint::Mix(const uint8_t* block) {
  uint64_t words[2];
  std::memcpy(words, block, sizeof(words));
  // Each lane multiplies by the other word, so that a zero factor in one lane
  // cannot hide a word from both.
  const uint64_t first = Fold(first_ ^ words[0], words[1] ^ 0xa0761d6478bd642f);
  second_ = Fold(second_ ^ words[1], words[0] ^ 0xe7037ed1a0b428db) + first_;
  first_ = first;
}

void Fingerprint::Add(const void* data, size_t size) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  const size_t held = size_ % kBlockBytes;
  size_ += size;
  if (held > 0) {
    const size_t taken = std::min(size, kBlockBytes - held);
    if (taken > 0) std::memcpy(rest_ + held, bytes, taken);
    bytes += taken;
    size -= taken;
    if (held + taken < kBlockBytes) return;
    Mix(rest_);
  }
  for (; size >= kBlockBytes; size -= kBlockBytes, bytes += kBlockBytes)
    Mix(bytes);
  if (size > 0) std::memcpy(rest_, bytes, size);
}

std::string Fingerprint::Hex() const {
  Fingerprint end = *this;
  uint8_t last[kBlockBytes] = {};
  std::memcpy(last, rest_, size_ % kBlockBytes);
  end.Mix(last);
  std::memcpy(last, &size_, sizeof(size_));
  std::memset(last + sizeof(size_), 0x5a, kBlockBytes - sizeof(size_));
  end.Mix(last);
  end.Mix(last);
  return absl::StrFormat("%016x%016x", end.first_, end.second_);
}

void AddConfig(const ModelConfig& config, Fingerprint* fingerprint) {
  for (const int64_t value :
       {config.vocab_size, config.hidden_size, config.intermediate_size,
        config.num_hidden_layers, config.num_attention_heads,
        config.mini_batch_size, config.conv_kernel, config.bos_token_id,
        config.eos_token_id, int32_t{config.tie_word_embeddings},
        int32_t{config.use_gate}, int32_t{config.share_qk},
        int32_t{config.is_mlp}, int32_t{config.pre_conv}}) {
    fingerprint->AddInteger(static_cast<uint64_t>(value));
  }
  for (const float value :
       {config.rms_norm_eps, config.rope_theta, config.ttt_base_lr}) {
    fingerprint->Add(&value, sizeof(value));
  }
}

}  // namespace ttt
