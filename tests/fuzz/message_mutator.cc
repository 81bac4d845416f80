#include "tests/fuzz/message_mutator.h"

#include <google/protobuf/descriptor.h>

#include <iterator>
#include <limits>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/model/utf8.h"

namespace ttt {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kMaxStringBytes = 600;
constexpr int kMaxRepeats = 40;

// Of the ranges in the .proto files, and of the types.
constexpr int64_t kIntegers[] = {
    0,          1,         -1,          2,           15,         16,
    17,         63,        64,          65,          100,        127,
    128,        129,       255,         256,         257,        1000,
    1001,       1024,      1025,        4095,        4096,       999999999,
    1000000000, INT32_MAX, INT32_MIN,   2147483648,  UINT32_MAX, 31557600000,
    INT64_MAX,  INT64_MIN, 31557600001, -1000000000, 32767,      65536};
constexpr double kReals[] = {0.0,
                             -0.0,
                             1.0,
                             -1.0,
                             0.5,
                             0.9,
                             1e-45,
                             1e-38,
                             1.0000001,
                             0.99999994,
                             100.0,
                             -100.0,
                             100.00001,
                             1e30,
                             -1e30,
                             std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::lowest(),
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()};

// What is no character becomes one.
std::string RepairUtf8(const std::string& text) {
  std::string repaired;
  for (absl::string_view rest = text; !rest.empty();) {
    const size_t size = StartOfUtf8(rest).size;
    repaired.append(size > 0 ? std::string(rest.substr(0, size)) : "?");
    rest.remove_prefix(size > 0 ? size : 1);
  }
  return repaired;
}

}  // namespace

uint32_t MessageMutator::Below(uint32_t bound) { return random_() % bound; }

void MessageMutator::Mutate(Message* message) {
  const Descriptor* const type = message->GetDescriptor();
  if (type->field_count() == 0) return;
  const FieldDescriptor* const field =
      type->field(static_cast<int>(Below(type->field_count())));
  if (field->is_repeated()) return MutateRepeated(message, field);
  MutateField(message, field);
}

void MessageMutator::MutateField(Message* message, const Field* field) {
  const Reflection* const reflection = message->GetReflection();
  if (Below(8) == 0) return reflection->ClearField(message, field);
  SetValue(message, field, -1);
}

void MessageMutator::MutateRepeated(Message* message, const Field* field) {
  const Reflection* const reflection = message->GetReflection();
  const int size = reflection->FieldSize(*message, field);
  const uint32_t choice = size == 0 ? 0 : Below(8);
  if (choice <= 1) {
    // Seldom many: limits of counts are met by doubling.
    const int count = Below(16) == 0 ? kMaxRepeats : 1;
    for (int i = 0; i < count; ++i) AddElement(message, field);
  } else if (choice == 2) {
    reflection->RemoveLast(message, field);
  } else if (choice == 3) {
    reflection->SwapElements(message, field, static_cast<int>(Below(size)),
                             static_cast<int>(Below(size)));
  } else {
    SetValue(message, field, static_cast<int>(Below(size)));
  }
}

void MessageMutator::AddElement(Message* message, const Field* field) {
  const Reflection* const r = message->GetReflection();
  const int64_t integer = Integer();
  switch (field->cpp_type()) {
    case Field::CPPTYPE_INT32:
      return r->AddInt32(message, field, static_cast<int32_t>(integer));
    case Field::CPPTYPE_INT64:
      return r->AddInt64(message, field, integer);
    case Field::CPPTYPE_UINT32:
      return r->AddUInt32(message, field, static_cast<uint32_t>(integer));
    case Field::CPPTYPE_UINT64:
      return r->AddUInt64(message, field, static_cast<uint64_t>(integer));
    case Field::CPPTYPE_BOOL:
      return r->AddBool(message, field, integer % 2 != 0);
    case Field::CPPTYPE_ENUM:
      return r->AddEnumValue(message, field, static_cast<int>(integer));
    case Field::CPPTYPE_FLOAT:
      return r->AddFloat(message, field, static_cast<float>(Real()));
    case Field::CPPTYPE_DOUBLE:
      return r->AddDouble(message, field, Real());
    case Field::CPPTYPE_STRING:
      return r->AddString(
          message, field,
          MutateString("", field->type() == Field::TYPE_STRING));
    case Field::CPPTYPE_MESSAGE:
      return Mutate(r->AddMessage(message, field));
  }
}

void MessageMutator::SetValue(Message* message, const Field* field, int index) {
  const Reflection* const r = message->GetReflection();
  const bool one = index < 0;
  const int64_t n = Integer();
  switch (field->cpp_type()) {
    case Field::CPPTYPE_INT32: {
      const int32_t value = static_cast<int32_t>(n);
      return one ? r->SetInt32(message, field, value)
                 : r->SetRepeatedInt32(message, field, index, value);
    }
    case Field::CPPTYPE_INT64:
      return one ? r->SetInt64(message, field, n)
                 : r->SetRepeatedInt64(message, field, index, n);
    case Field::CPPTYPE_UINT32: {
      const uint32_t value = static_cast<uint32_t>(n);
      return one ? r->SetUInt32(message, field, value)
                 : r->SetRepeatedUInt32(message, field, index, value);
    }
    case Field::CPPTYPE_UINT64: {
      const uint64_t value = static_cast<uint64_t>(n);
      return one ? r->SetUInt64(message, field, value)
                 : r->SetRepeatedUInt64(message, field, index, value);
    }
    case Field::CPPTYPE_BOOL:
      return one ? r->SetBool(message, field, n % 2 != 0)
                 : r->SetRepeatedBool(message, field, index, n % 2 != 0);
    case Field::CPPTYPE_ENUM: {
      const int value =
          Below(4) == 0 ? static_cast<int>(n) : static_cast<int>(Below(5));
      return one ? r->SetEnumValue(message, field, value)
                 : r->SetRepeatedEnumValue(message, field, index, value);
    }
    case Field::CPPTYPE_FLOAT: {
      const float value = static_cast<float>(Real());
      return one ? r->SetFloat(message, field, value)
                 : r->SetRepeatedFloat(message, field, index, value);
    }
    case Field::CPPTYPE_DOUBLE:
      return one ? r->SetDouble(message, field, Real())
                 : r->SetRepeatedDouble(message, field, index, Real());
    case Field::CPPTYPE_STRING: {
      const bool is_utf8 = field->type() == Field::TYPE_STRING;
      if (one) {
        return r->SetString(
            message, field,
            MutateString(r->GetString(*message, field), is_utf8));
      }
      return r->SetRepeatedString(
          message, field, index,
          MutateString(r->GetRepeatedString(*message, field, index), is_utf8));
    }
    case Field::CPPTYPE_MESSAGE:
      return Mutate(one ? r->MutableMessage(message, field)
                        : r->MutableRepeatedMessage(message, field, index));
  }
}

std::string MessageMutator::MutateString(std::string text, bool is_utf8) {
  const uint32_t choice = Below(8);
  if (choice == 0) return "";
  if (choice == 1) return std::string(kIntegers[Below(20)] & 0x1ff, 'a');
  const size_t size = text.size();
  text.resize(std::max<size_t>(size, kMaxStringBytes));
  text.resize(mutate_bytes_(reinterpret_cast<uint8_t*>(text.data()), size,
                            text.size()));
  return is_utf8 ? RepairUtf8(text) : text;
}

int64_t MessageMutator::Integer() {
  switch (Below(4)) {
    case 0:
      return static_cast<int64_t>(random_()) << 32 | random_();
    case 1:
      return Below(4100);
    default:
      return kIntegers[Below(std::size(kIntegers))];
  }
}

double MessageMutator::Real() {
  switch (Below(3)) {
    case 0:
      return kReals[Below(std::size(kReals))];
    case 1:
      return Below(2000) / 1000.0 - 0.5;
    default:
      return (Below(20001) - 10000.0) / 50.0;
  }
}

}  // namespace ttt
