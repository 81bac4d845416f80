#include "server/model/safetensors.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/model/model_files.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kReference[] =
    TTT_GOLDEN_DIR "/safetensors/reference.safetensors";

std::string Entry(const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

absl::Status ParseOne(const std::string& entry, int64_t data_bytes) {
  return ParseSafetensorsHeader("{\"the.tensor\":" + entry + "}", data_bytes)
      .status();
}

TEST(SafetensorsTest, ReadsAFileOfTheReferenceLibrary) {
  const SafetensorsFile file = SafetensorsFile::Open(kReference).value();
  EXPECT_EQ(file.tensors().size(), 6);
  EXPECT_THAT(file.ReadFloats("f32").value(),
              ElementsAre(1.5f, -0.0f, 3e-42f, 3.4028235e38f, -2.0f, 0.1f));
  EXPECT_THAT(file.tensors().at("f32").shape, ElementsAre(2, 3));
  // 1/3 rounded, largest, smallest normal, largest and smallest subnormal.
  EXPECT_THAT(
      file.ReadFloats("f16").value(),
      ElementsAre(0.333251953125f, 65504.0f, 6.103515625e-05f,
                  6.097555160522461e-05f, -5.960464477539063e-08f, -0.0f));
  EXPECT_THAT(file.ReadFloats("bf16").value(),
              ElementsAre(0.333984375f, -256.0f));
  EXPECT_THAT(file.ReadFloats("scalar").value(), ElementsAre(7.0f));
  EXPECT_THAT(file.tensors().at("scalar").shape, ElementsAre());
  EXPECT_THAT(file.ReadInts("i32").value(), ElementsAre(-1, 2147483647));
  EXPECT_EQ(file.tensors().at("empty").num_elements(), 0);
  EXPECT_THAT(file.ReadFloats("empty").value(), ElementsAre());
}

TEST(SafetensorsTest, WrongTypeOrNameIsRefusedByName) {
  const SafetensorsFile file = SafetensorsFile::Open(kReference).value();
  EXPECT_THAT(file.ReadFloats("i32"), StatusIs(kInvalid, "\"i32\" is I32"));
  EXPECT_THAT(file.ReadInts("f32"), StatusIs(kInvalid, "\"f32\" is F32"));
  EXPECT_THAT(file.ReadFloats("none"),
              StatusIs(kInvalid, "\"none\" is missing"));
}

TEST(SafetensorsTest, EveryHalfWidensExactly) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    float value = 0;
    WidenFloats("F16", &half, 1, &value);
    const int exponent = bits >> 10 & 0x1f;
    const int fraction = bits & 0x3ff;
    if (exponent == 0x1f) {
      EXPECT_FALSE(std::isfinite(value)) << bits;
      continue;
    }
    // A subnormal has the exponent of the smallest normal and no leading 1.
    const int significand = exponent == 0 ? fraction : fraction + 0x400;
    const float magnitude =
        std::ldexp(static_cast<float>(significand), std::max(exponent, 1) - 25);
    EXPECT_EQ(
        std::bit_cast<uint32_t>(value),
        std::bit_cast<uint32_t>((bits & 0x8000) != 0 ? -magnitude : magnitude))
        << bits;
  }
}

TEST(SafetensorsTest, BadEntryIsRefusedByName) {
  const struct {
    std::string entry;
    const char* reason;
  } cases[] = {
      {"7", "JSON object"},
      {"{}", "shape"},
      {"{\"dtype\":\"F32\",\"data_offsets\":[0,8]}", "shape"},
      {"{\"shape\":[2],\"data_offsets\":[0,8]}", "dtype"},
      {"{\"dtype\":\"F32\",\"shape\":[2]}", "data_offsets"},
      {Entry("F33", "[2]", "[0,8]"), "unknown dtype \"F33\""},
      {Entry("F32", "2", "[0,8]"), "shape"},
      {Entry("F32", "[-2]", "[0,8]"), "dimension"},
      {Entry("F32", "[2.0]", "[0,8]"), "dimension"},
      {Entry("F32", "[null]", "[0,8]"), "dimension"},
      {Entry("F32", "[18446744073709551615]", "[0,8]"), "dimension"},
      {Entry("F32", "[4611686018427387904,4]", "[0,8]"), "overflows"},
      {Entry("F32", "[4294967296,4294967296]", "[0,8]"), "overflows"},
      {Entry("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]"),
       "at most 16"},
      {Entry("F32", "[3]", "[0,8]"), "takes 12 bytes; data_offsets give 8"},
      {Entry("F32", "[0]", "[0,8]"), "takes 0 bytes"},
      {Entry("F32", "[2]", "[0,9]"), "outside the 8 bytes"},
      {Entry("F32", "[2]", "[8,0]"), "outside"},
      {Entry("F32", "[2]", "[-8,0]"), "data_offsets are \"[-8,0]\", must"},
      {Entry("F32", "[2]", "[0]"), "two integers"},
      {Entry("F32", "[2]", "[0,8,8]"), "two integers"},
      {Entry("F32", "[2]", "[0,\"8\"]"), "two integers"},
      {Entry("F32", "[1]", "[4,8]"), "starts at byte 4"}};
  for (const auto& bad : cases) {
    const absl::Status status = ParseOne(bad.entry, 8);
    EXPECT_THAT(status, StatusIs(kInvalid, bad.reason)) << bad.entry;
    EXPECT_THAT(status, StatusIs(kInvalid, "the.tensor")) << bad.entry;
  }
  EXPECT_THAT(ParseOne(Entry("F32", "[2]", "[0,8]"), 8), IsOk());
}

TEST(SafetensorsTest, OverlapAndHolesAreRefused) {
  const auto parse = [](const std::string& a, const std::string& b) {
    return ParseSafetensorsHeader("{\"a\":" + a + ",\"b\":" + b + "}", 16)
        .status();
  };
  const std::string first = Entry("F32", "[2]", "[0,8]");
  EXPECT_THAT(parse(first, Entry("F32", "[2]", "[8,16]")), IsOk());
  EXPECT_THAT(parse(first, Entry("F32", "[3]", "[4,16]")),
              StatusIs(kInvalid, "\"b\""));
  EXPECT_THAT(parse(first, Entry("F32", "[1]", "[12,16]")),
              StatusIs(kInvalid, "\"b\""));
  EXPECT_THAT(parse(first, first), StatusIs(kInvalid, "\"b\""));
  EXPECT_THAT(parse(first, Entry("F32", "[0]", "[4,4]")),
              StatusIs(kInvalid, "\"b\""));
  EXPECT_THAT(parse(first, Entry("F32", "[1]", "[8,12]")),
              StatusIs(kInvalid, "4 bytes"));
}

TEST(SafetensorsTest, MetadataAndPaddingAreIgnored) {
  EXPECT_EQ(
      ParseSafetensorsHeader("{\"__metadata__\":{\"format\":\"pt\"}}   ", 0)
          ->size(),
      0);
}

TEST(SafetensorsTest, HeaderMustBeOneJsonObject) {
  const std::string entry = Entry("F32", "[2]", "[0,8]");
  for (const std::string& header :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}x"),
        std::string(1 << 20, '['), "{\"a\":" + std::string(1 << 20, '['),
        "{\"a\":" + entry + ",\"a\":" + entry + "}",
        std::string("{\"\xff\":1}")}) {
    EXPECT_THAT(ParseSafetensorsHeader(header, 8), StatusIs(kInvalid, "header"))
        << header.substr(0, 20);
  }
}

TEST(SafetensorsTest, HeaderLengthIsHeldToTheFile) {
  const TempDir dir;
  const std::string path = dir.File("model.safetensors");
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{1000}, uint64_t{100000001}, uint64_t{1} << 63,
        std::numeric_limits<uint64_t>::max()}) {
    WriteFile(path,
              std::string(reinterpret_cast<const char*>(&length), 8) + "{}");
    EXPECT_THAT(SafetensorsFile::Open(path), StatusIs(kInvalid, path))
        << length;
  }
  WriteFile(path, "1234567");
  EXPECT_THAT(SafetensorsFile::Open(path), StatusIs(kInvalid, path));
  EXPECT_THAT(SafetensorsFile::Open(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, "none"));
  EXPECT_THAT(SafetensorsFile::Open(dir.path()),
              StatusIs(kInvalid, "not a file"));
}

TEST(SafetensorsTest, FileCutWhileOpenIsAnError) {
  const TempDir dir;
  const std::string path = dir.File("model.safetensors");
  const std::string bytes =
      SafetensorsBytes({{"a", {"F32", {1000}, std::string(4000, '\0')}}});
  WriteFile(path, bytes);
  const SafetensorsFile file = SafetensorsFile::Open(path).value();
  EXPECT_THAT(file.ReadFloats("a"), IsOk());
  ASSERT_EQ(truncate(path.c_str(), bytes.size() - 1), 0);
  EXPECT_THAT(file.ReadFloats("a"), StatusIs(kInvalid, "ends at byte"));
}

TEST(SafetensorsTest, DamagedFilesNeverCrash) {
  const TempDir dir;
  const std::string path = dir.File("damaged.safetensors");
  const std::string good = ReadWhole(kReference);
  for (size_t size = 0; size < good.size(); ++size) {
    WriteFile(path, good.substr(0, size));
    EXPECT_THAT(SafetensorsFile::Open(path), StatusIs(kInvalid, path)) << size;
  }
  WriteFile(path, good + '\0');
  EXPECT_THAT(SafetensorsFile::Open(path), StatusIs(kInvalid, path));
  std::mt19937 random(2);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, good.data(), sizeof(header_bytes));
  const std::string header = good.substr(8, header_bytes);
  const int64_t data_bytes = good.size() - 8 - header_bytes;
  ASSERT_THAT(ParseSafetensorsHeader(header, data_bytes), IsOk());
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = header;
    for (int flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const auto tensors = ParseSafetensorsHeader(damaged, data_bytes);
    if (!tensors.ok()) continue;
    for (const auto& [name, tensor] : *tensors) {
      EXPECT_LE(tensor.begin_byte + tensor.num_bytes, data_bytes) << damaged;
    }
  }
}

}  // namespace
}  // namespace ttt
