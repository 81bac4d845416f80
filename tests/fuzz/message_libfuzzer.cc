// Mutations for a program of libFuzzer whose input is a message of type
// TTT_FUZZ_MESSAGE. One in four is of the bytes, so that what is no message is
// tried too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/fuzz/fuzz_cases.pb.h"
#include "tests/fuzz/message_mutator.h"
#include "ttt/v1/inference.pb.h"
#include "ttt/v1/sessions.pb.h"
#include "ttt/v1/tokenizer.pb.h"

extern "C" {
// Of libFuzzer.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
// For libFuzzer.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                               unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t* data1, size_t size1,
                                 const uint8_t* data2, size_t size2,
                                 uint8_t* out, size_t max_out_size,
                                 unsigned int seed);
}

namespace {

// 0 if it does not fit.
size_t Write(const google::protobuf::Message& message, uint8_t* out,
             size_t max_size) {
  const std::string bytes = message.SerializePartialAsString();
  if (bytes.size() > max_size) return 0;
  std::memcpy(out, bytes.data(), bytes.size());
  return bytes.size();
}

}  // namespace

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                               unsigned int seed) {
  ttt::MessageMutator mutator(seed, &LLVMFuzzerMutate);
  ttt::TTT_FUZZ_MESSAGE message;
  if (mutator.Below(4) == 0 ||
      !message.ParsePartialFromArray(data, static_cast<int>(size))) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  for (uint32_t i = 0; i <= mutator.Below(4); ++i) mutator.Mutate(&message);
  const size_t written = Write(message, data, max_size);
  return written > 0 ? written : LLVMFuzzerMutate(data, size, max_size);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t* data1, size_t size1,
                                 const uint8_t* data2, size_t size2,
                                 uint8_t* out, size_t max_out_size,
                                 unsigned int) {
  ttt::TTT_FUZZ_MESSAGE first;
  ttt::TTT_FUZZ_MESSAGE second;
  if (!first.ParsePartialFromArray(data1, static_cast<int>(size1)) ||
      !second.ParsePartialFromArray(data2, static_cast<int>(size2))) {
    return 0;
  }
  first.MergeFrom(second);
  return Write(first, out, max_out_size);
}
