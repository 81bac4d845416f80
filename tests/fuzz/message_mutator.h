// Changes to messages that keep them messages.
#pragma once

#include <google/protobuf/message.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace ttt {

// Changes, adds and takes away fields by the message's descriptor. Numbers are
// drawn near the edges of their types and of the ranges that the API documents;
// strings stay UTF-8. Not thread-safe.
class MessageMutator {
 public:
  // Changes `bytes` in place, at most to `max_size`, and returns the new size.
  using MutateBytes = size_t (*)(uint8_t* bytes, size_t size, size_t max_size);

  MessageMutator(uint32_t seed, MutateBytes mutate_bytes)
      : random_(seed), mutate_bytes_(mutate_bytes) {}

  void Mutate(google::protobuf::Message* message);
  // A number in [0, bound).
  uint32_t Below(uint32_t bound);

 private:
  using Field = google::protobuf::FieldDescriptor;

  void MutateField(google::protobuf::Message* message, const Field* field);
  void MutateRepeated(google::protobuf::Message* message, const Field* field);
  void AddElement(google::protobuf::Message* message, const Field* field);
  // Element `index` of a repeated field, or the field itself if -1.
  void SetValue(google::protobuf::Message* message, const Field* field,
                int index);
  std::string MutateString(std::string text, bool is_utf8);
  int64_t Integer();
  double Real();

  std::mt19937 random_;
  const MutateBytes mutate_bytes_;
};

}  // namespace ttt
