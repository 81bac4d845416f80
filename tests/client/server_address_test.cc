#include "client/server_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace ttt {
namespace {

using ::testing::HasSubstr;

TEST(ServerAddressTest, HostsWithAPortAndSocketsAreFine) {
  for (const char* address :
       {"127.0.0.1:50051", "localhost:1", "a.b-c.example:65535", "[::1]:50051",
        "unix:/run/tttd", "unix:///run/tttd", "dns:///tttd:50051",
        "ipv6:[::1]:50051"}) {
    EXPECT_TRUE(CheckServerAddress(address).ok()) << address;
  }
}

struct Bad {
  std::string address, problem;
};

class BadServerAddressTest : public ::testing::TestWithParam<Bad> {};

TEST_P(BadServerAddressTest, IsNamedWithItsProblem) {
  const absl::Status status = CheckServerAddress(GetParam().address);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("'" + GetParam().address + "' " + GetParam().problem));
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:50051"));
}

INSTANTIATE_TEST_SUITE_P(
    Addresses, BadServerAddressTest,
    ::testing::Values(Bad{"", "is empty"}, Bad{"localhost", "has no port"},
                      Bad{"[::1]", "has no port"},
                      Bad{"::1:50051", "has an IPv6 address without"},
                      Bad{":50051", "has no host"},
                      Bad{"localhost:", "has no port of"},
                      Bad{"localhost:http", "has no port of"},
                      Bad{"localhost:0", "has no port of"},
                      Bad{"127.0.0.1:99999", "has no port of"},
                      Bad{"http://127.0.0.1:50051", "begins like a web"},
                      Bad{"https://tttd", "begins like a web"}));

}  // namespace
}  // namespace ttt
