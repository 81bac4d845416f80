#include "server/base/byte_count.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>

namespace ttt {
namespace {

using ::testing::HasSubstr;

std::optional<int64_t> Parsed(absl::string_view text) {
  ByteCount count;
  std::string error;
  if (!AbslParseFlag(text, &count, &error)) return std::nullopt;
  return count.bytes;
}

TEST(ByteCountTest, PlainNumbersAreBytes) {
  EXPECT_EQ(Parsed("0"), 0);
  EXPECT_EQ(Parsed("268435456"), 268435456);
  EXPECT_EQ(Parsed("-1"), -1);
}

TEST(ByteCountTest, UnitsArePowersOfTwo) {
  EXPECT_EQ(Parsed("3KiB"), 3 << 10);
  EXPECT_EQ(Parsed("512MiB"), 512 << 20);
  EXPECT_EQ(Parsed("1 GiB"), 1 << 30);
  EXPECT_EQ(Parsed("2TiB"), int64_t{2} << 40);
}

TEST(ByteCountTest, WhatIsNotANumberOfBytesIsRefusedWithAnExample) {
  for (const char* text :
       {"", "x", "1.5GiB", "1GB", "1gib", "GiB", "1MiBKiB"}) {
    EXPECT_EQ(Parsed(text), std::nullopt) << text;
  }
  ByteCount count;
  std::string error;
  AbslParseFlag("1GB", &count, &error);
  EXPECT_THAT(error, HasSubstr("512MiB"));
}

TEST(ByteCountTest, WhatDoesNotFitIsRefused) {
  EXPECT_EQ(Parsed("9223372036854775807"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(Parsed("9223372036854775808"), std::nullopt);
  EXPECT_EQ(Parsed("8388607TiB"), int64_t{8388607} << 40);
  EXPECT_EQ(Parsed("8388608TiB"), std::nullopt);
}

TEST(ByteCountTest, PrintsWhatItParses) {
  EXPECT_EQ(AbslUnparseFlag({512 << 20}), "536870912");
}

}  // namespace
}  // namespace ttt
