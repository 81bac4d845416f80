// config.json: it is refused with a message, or every value is in its range and
// the sizes that follow from it are sound.
#include "server/model/config.h"

#include <cmath>

#include "server/base/check.h"
#include "server/model/checkpoint.h"
#include "tests/fuzz/fuzz_targets.h"

namespace ttt {
namespace {

bool IsIn(int64_t value, int64_t low, int64_t high) {
  return value >= low && value <= high;
}

void CheckConfig(const ModelConfig& config) {
  TTT_CHECK(IsIn(config.vocab_size, 1, 1000000));
  TTT_CHECK(IsIn(config.hidden_size, 32, 65536));
  TTT_CHECK(IsIn(config.intermediate_size, 1, 262144));
  TTT_CHECK(IsIn(config.num_hidden_layers, 1, 1024));
  TTT_CHECK(IsIn(config.num_attention_heads, 1, 2048));
  TTT_CHECK(config.hidden_size ==
            config.num_attention_heads * config.head_dim());
  TTT_CHECK(config.head_dim() == 32 || config.head_dim() == 64 ||
            config.head_dim() == 96);
  TTT_CHECK(IsIn(config.mini_batch_size, 1, 16));
  TTT_CHECK(IsIn(config.conv_kernel, 2, 8));
  TTT_CHECK(IsIn(config.bos_token_id, -1, config.vocab_size - 1));
  TTT_CHECK(IsIn(config.eos_token_id, -1, config.vocab_size - 1));
  TTT_CHECK(config.rms_norm_eps > 0 && config.rms_norm_eps <= 1);
  TTT_CHECK(config.rope_theta > 0 && config.rope_theta <= 1e12f);
  TTT_CHECK(config.ttt_base_lr >= 0 && config.ttt_base_lr <= 1e6f);
}

}  // namespace

void FuzzConfig(absl::string_view file) {
  const auto config = ParseModelConfig(file);
  if (!config.ok()) {
    TTT_CHECK(absl::IsInvalidArgument(config.status()));
    TTT_CHECK(!config.status().message().empty());
    return;
  }
  CheckConfig(*config);
  for (const TensorSpec& tensor : ModelTensors(*config)) {
    int64_t elements = 1;
    for (const int64_t dimension : tensor.shape) {
      TTT_CHECK(dimension > 0);
      TTT_CHECK(!__builtin_mul_overflow(elements, dimension, &elements));
    }
  }
}

}  // namespace ttt
