// What a run measured, for people and for machines.
#pragma once

#include <string>

#include "client/bench/options.h"
#include "client/bench/results.h"
#include "client/json.h"
#include "ttt/v1/admin.pb.h"

namespace ttt::bench {

// What each name of ReportToJson is, for the command's help.
extern const char kJsonHelp[];

Json ReportToJson(const Options& options, const v1::ServerInfo& info,
                  const Results& results);
std::string ReportText(const Options& options, const v1::ServerInfo& info,
                       const Results& results);

}  // namespace ttt::bench
